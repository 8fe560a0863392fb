"""`explain`: what the gate would decide for a described action, layer by layer. Nothing happens, nothing is spent."""

import os
from pathlib import Path
from typing import Annotated

import typer

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.ctl import described
from governed_mcpd.ctl.approvals import describe
from governed_mcpd.ctl.output import Exit, Failure, duration, plain, print_fields, print_json, print_table, print_text
from governed_mcpd.ctl.policies import active_documents
from governed_mcpd.ctl.session import Json, Session, session_of


def explain(
    context: typer.Context,
    operation: Annotated[str, typer.Option(metavar="OPERATION", help="A side effect: file.write, net.connect …")] = "",
    target: Annotated[
        str, typer.Option("--object", metavar="OBJECT", help="A path, tcp:HOST:PORT, unix:PATH, process:PID.")
    ] = "",
    second: Annotated[str, typer.Option(metavar="OBJECT", help="The other object of rename, link, symlink.")] = "",
    argv: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Of process.exec, once per word.")] = None,
    tool: Annotated[tuple[str, str] | None, typer.Option(metavar="SERVER TOOL", help="A tool call.")] = None,
    arguments: Annotated[str, typer.Option(metavar="JSON", help="The arguments of the tool call.")] = "{}",
    action: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="An action as JSON (- is stdin), instead of the above.")
    ] = None,
    task: Annotated[str, typer.Option(help="What the user asked the agent to do.")] = "",
    cwd: Annotated[str, typer.Option(metavar="DIR", help="The task's directory; this one if not given.")] = "",
    agent: Annotated[str, typer.Option(help="The agent that acts.")] = "default",
    profile: Annotated[str, typer.Option(help="Its profile; the agent's default if not given.")] = "",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 unless the verdict is allow.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the gate what it would decide, and show each layer. Nothing happens, and no rate is spent."""
    session = session_of(context)
    wanted = _action(operation, target, second, argv or [], tool, arguments, action)
    if action is None:
        wanted.subject.CopyFrom(_subject(session, agent, profile))
        wanted.context.CopyFrom(_context(task, cwd))
    request = pb.ControlRequest(explain=pb.ExplainRequest(action=wanted))
    verdict = session.ask(request, "verdict").verdict
    if as_json:
        print_json(plain(verdict))
    else:
        _show(wanted, verdict)
    if exit_code and verdict.decision != nouns.DECISION_ALLOW:
        raise typer.Exit(Exit.FAILED)


def _action(
    operation: str,
    target: str,
    second: str,
    argv: list[str],
    tool: tuple[str, str] | None,
    arguments: str,
    file: Path | None,
) -> nouns.Action:
    if sum((bool(operation), tool is not None, file is not None)) != 1:
        message = "say what to explain: either --operation and --object, or --tool SERVER TOOL, or --action FILE.json"
        raise Failure("usage", message, Exit.USAGE)
    if file is not None:
        return described.from_file(file)
    if tool is not None:
        return nouns.Action(call=described.call(tool[0], tool[1], arguments))
    return nouns.Action(effect=described.effect(operation, target, second, argv))


def _subject(session: Session, agent: str, profile: str) -> nouns.Subject:
    """The agent as the active set has it: its tier, and its first profile unless another is named."""
    from governed_mcpd.nouns.subject import Tier  # noqa: PLC0415 - with the next, most of this command's start
    from governed_mcpd.policy.load import parse  # noqa: PLC0415 - as above

    active = parse({file.name: file.content for file in active_documents(session).files})
    known = active.agents.get(agent)
    if known is None:
        raise Failure("unknown-agent", f"there is no agent {agent!r}; there are {', '.join(active.agents)}")
    chosen = profile or known.profiles[0]
    if chosen not in active.profiles:
        raise Failure(
            "unknown-profile", f"there is no profile {chosen!r}; the active set has {', '.join(active.profiles)}"
        )
    tier = {"Classic": Tier.CLASSIC, "AiEnhanced": Tier.AI_ENHANCED, "AiNative": Tier.AI_NATIVE, "System": Tier.SYSTEM}
    return nouns.Subject(agent=agent, tier=nouns.Tier.ValueType(tier[known.tier]), profile=chosen, uid=os.getuid())


def _context(task: str, cwd: str) -> nouns.Context:
    directory, home = os.path.realpath(cwd or os.getcwd()), os.path.realpath(os.path.expanduser("~"))
    return nouns.Context(task=task, directories=[directory], home=home)


def _show(action: nouns.Action, verdict: nouns.Verdict) -> None:
    decision = plain(verdict)["decision"]
    fields = [
        ("action", describe(action)),
        ("verdict", f"{decision} by {verdict.layer}, rule {verdict.rule}"),
        ("reason", verdict.reason),
    ]
    if verdict.HasField("dangerous_ppm"):
        model = f" ({verdict.model})" if verdict.model else ""
        fields.append(("P(dangerous)", f"{verdict.dangerous_ppm / 1e6:.3f}{model}"))
    if verdict.would_deny:
        fields.append(("shadow", "enforcement would have refused"))
    if verdict.HasField("lease"):
        fields.append(("lease", _lease(verdict.lease)))
    fields.append(("policy", verdict.policy_version))
    print_fields(fields)
    print_text()
    rows = [
        (report.layer, report.result, report.rule, report.reason, duration(report.nanoseconds))
        for report in verdict.layers
    ]
    print_table(("layer", "result", "rule", "reason", "time"), rows, empty="no layer ran")


def _lease(lease: nouns.Lease) -> str:
    pattern = os.fsdecode(lease.pattern.text)
    if lease.pattern.kind == nouns.Pattern.KIND_UNDER:
        pattern = pattern.rstrip("/") + "/**"
    return f"{', '.join(lease.operations)} on {pattern}, {lease.uses} times within {lease.seconds} s"
