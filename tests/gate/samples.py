"""Policies and actions for the tests of the gate."""

from collections.abc import Mapping, Sequence

from governed_mcpd.gate.active import Active, Room, activate
from governed_mcpd.gate.layers.rate import Buckets
from governed_mcpd.gate.probe import embedded, selftest
from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall, Untrusted
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject, Tier

WORK = "/home/ana/project"
HOME = "/home/ana"

POLICY = """\
kind: Profile
name: default
envelope: {read: [/usr], write: ["${cwd}"]}
---
kind: Agent
name: default
tier: AiEnhanced
profiles: [default]
---
kind: Tool
name: mail
tools:
  send_email:
    tier: AiEnhanced
    rate: {per_second: 1000, burst: 5}
    input_schema:
      type: object
      properties:
        to: {type: string, maxLength: 200}
        body: {type: string}
      required: [to]
      additionalProperties: false
  read_inbox: {}
  admin_reset: {tier: System}
---
kind: Gate
name: gate
operations:
  net.bind: {tier: AiNative}
  file.truncate: {rate: {per_second: 0.001, burst: 2}}
---
kind: Constitution
name: tests
cedar: |
  @id("everything-else")
  @reason("tests permit what no other rule names")
  permit(principal, action, resource);
  @id("no-credentials")
  @reason("keys are not read")
  forbid(principal, action in Action::"file", resource) when { context.credential };
"""


def files(policy: str = POLICY, **others: str) -> dict[str, bytes]:
    """A policy set as Activate takes it."""
    return {"policy.yaml": policy.encode(), **{f"{name}.yaml": text.encode() for name, text in others.items()}}


def active(policy: str = POLICY) -> Active:
    """`policy`, compiled, with the model that ships."""
    head = embedded.load()
    return activate(files(policy), Room(head, selftest.prove(head), Buckets()))


def subject(tier: Tier = Tier.AI_ENHANCED, agent: str = "default") -> Subject:
    return Subject(agent, tier, "s1", 1000, "default")


def about(task: str = "", *untrusted: str) -> Context:
    found = tuple(Untrusted("web", text) for text in untrusted)
    return Context(task, (WORK,), HOME, "/run/governed/scratch/s1", (), (), found)


def effect(
    operation: Operation | str,
    name: str,
    second: str = "",
    argv: Sequence[str] = (),
    details: Mapping[str, str] | None = None,
    context: Context | None = None,
    by: Subject | None = None,
) -> Action:
    what = SideEffect(Operation(operation), name, second, tuple(argv), details or {})
    return Action("a1", by or subject(), what, context or about())


def run(line: str, context: Context | None = None) -> Action:
    """An exec of a system program, words separated by blanks."""
    argv = line.split()
    return effect("process.exec", f"/usr/bin/{argv[0]}", argv=argv, context=context)


def call(
    tool: str, arguments: bytes = b"{}", server: str = "mail", context: Context | None = None, by: Subject | None = None
) -> Action:
    return Action("a1", by or subject(), ToolCall(server, tool, arguments), context or about())
