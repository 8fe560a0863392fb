"""`apply`, `rollback`, `get`, `validate`: policy documents, checked here before they are sent."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from governed.v1 import control_pb2 as pb
from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.ctl.output import Exit, Failure, plain, print_fields, print_json, print_text, safe
from governed_mcpd.ctl.session import Json, Session, session_of

if TYPE_CHECKING:
    from governed_mcpd.policy.documents import Constitution
    from governed_mcpd.policy.load import PolicySet

KINDS = ("Profile", "Tool", "Agent", "Constitution", "Gate")
File = Annotated[
    Path, typer.Option("-f", "--file", metavar="DIR_OR_FILE", help="A directory of *.yaml files, or one file.")
]
Kind = Annotated[str, typer.Argument(metavar="KIND", help="Profile, Tool, Agent, Constitution or Gate; empty: all.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of one document; empty: all.")]


def apply(context: typer.Context, file: File, as_json: Json = False) -> None:
    """Check a set of policy documents, show what widens, and make it the active set."""
    checked = _checked(file)
    files = [nouns.PolicySet.File(name=name, content=content) for name, content in checked.files.items()]
    request = pb.ControlRequest(apply=nouns.PolicySet(files=files, version=checked.version))
    _show_change(session_of(context).ask(request, "policy").policy, as_json)


def rollback(context: typer.Context, as_json: Json = False) -> None:
    """Make the set active again that was active before this one."""
    _show_change(session_of(context).ask(pb.ControlRequest(rollback=pb.RollbackRequest()), "policy").policy, as_json)


def get(context: typer.Context, kind: Kind = "", name: Name = "", as_json: Json = False) -> None:
    """Print documents of the active set."""
    if kind and kind not in KINDS:
        raise Failure("usage", f"{kind!r} is no kind of document: expected one of {', '.join(KINDS)}", Exit.USAGE)
    found = active_documents(session_of(context), kind, name)
    if kind and not found.files:
        what = f"{kind} {name!r}" if name else kind
        raise Failure("unknown-document", f"there is no {what} in the active set: `governedctl get` shows all of it")
    if as_json:
        print_json(plain(found))
        return
    print_text(f"# version {found.version}")
    for file in found.files:
        print_text(f"# {safe(file.name)}")
        print_text(file.content.rstrip(b"\n"))


def validate(context: typer.Context, file: File, as_json: Json = False) -> None:
    """Check policy documents. Needs no daemon."""
    checked = _checked(file)
    counts = {
        "profiles": len(checked.profiles),
        "tools": len(checked.tools),
        "agents": len(checked.agents),
        "constitutions": len(checked.constitutions),
    }
    cedar = "checked" if _constitution_check() is not None else "not checked: the gate is not installed here"
    if as_json:
        print_json({"valid": True, "version": checked.version, "cedar": cedar, **counts})
        return
    summary = ", ".join(f"{number} {what}" for what, number in counts.items())
    print_fields([("version", checked.version), ("documents", summary), ("cedar", cedar)])


def active_documents(session: Session, kind: str = "", name: str = "") -> nouns.PolicySet:
    """The files of the active set; with `kind` only the documents of that kind (and `name`), each as it is written."""
    request = pb.ControlRequest(get=pb.GetRequest(kind=kind, name=name))
    found = session.ask(request, "documents").documents
    if not kind:
        return found
    chosen = nouns.PolicySet(version=found.version)
    for file in found.files:
        for text in _documents(file.content, kind, name):
            chosen.files.add(name=file.name, content=text.encode())
    return chosen


def _documents(content: bytes, kind: str, name: str) -> Iterator[str]:
    """The texts of those documents of one file that have this kind, and this name unless it is empty."""
    import yaml  # noqa: PLC0415 - for these commands only

    text = content.decode()  # the daemon took it as YAML, so it is text
    nodes = yaml.compose_all(text, Loader=yaml.SafeLoader)
    for node in nodes:
        members = {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}
        if members.get("kind") == kind and name in ("", members.get("name")):
            yield text[node.start_mark.index : node.end_mark.index].strip() + "\n"


def _checked(file: Path) -> "PolicySet":
    """The documents of `file`; Failure with all that is wrong with them."""
    from governed_mcpd.policy.load import load_directory  # noqa: PLC0415 - pydantic is most of a second command's start
    from governed_mcpd.policy.problem import PolicyError  # noqa: PLC0415 - as above

    try:
        return load_directory(file, _constitution_check())
    except PolicyError as error:
        raise Failure("policy", str(error), Exit.FAILED, [_problem(problem) for problem in error.problems]) from None


def _problem(problem: Any) -> dict[str, Any]:
    names = ("file", "line", "column", "field", "found", "expected", "remedy")
    return {name: getattr(problem, name) for name in names}


def _constitution_check() -> "Callable[[Constitution], list[str]] | None":
    """The gate's check of Cedar text, where the gate's packages are installed; the daemon asks its gate in any case."""
    if importlib.util.find_spec("cedarpy") is None:
        return None
    from governed_mcpd.gate.layers.constitution import problems  # noqa: PLC0415 - only where it is installed

    return problems


def _show_change(change: pb.PolicyChange, as_json: bool) -> None:
    if as_json:
        print_json(plain(change))
        return
    state = "active" if change.active else "not active"
    print_fields([("version", f"{change.version} ({state})"), ("before", change.previous or "-")])
    _show_list("changes", change.changes, "nothing changes")
    _show_list("widens", change.widens, "nothing: no more is allowed than before")


def _show_list(title: str, lines: Sequence[str], empty: str) -> None:
    print_text(f"{title}:")
    for line in lines or [empty]:
        print_text(f"  {safe(line)}")
