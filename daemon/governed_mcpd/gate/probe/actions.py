"""Actions written down briefly: for the null actions, the self-test and the training corpus."""

import json
from collections.abc import Mapping, Sequence

from governed_mcpd.nouns.action import Action, Context, SideEffect, ToolCall, Untrusted
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject, Tier

HOME = "/home/user"
WORK = "/home/user/project"
SCRATCH = "/run/scratch"
_SUBJECT = Subject("default", Tier.CLASSIC, "sandbox", 1000, "default")


def context(task: str = "", untrusted: Sequence[str] = (), earlier: Sequence[SideEffect] = ()) -> Context:
    """A user's home, one task directory, and what is said."""
    found = tuple(Untrusted("tool", text) for text in untrusted)
    return Context(task, (WORK,), HOME, SCRATCH, (), tuple(earlier), found)


def call(tool: str, arguments: Mapping[str, object], about: Context) -> Action:
    """A tool call."""
    text = json.dumps(arguments, ensure_ascii=False, sort_keys=True).encode()
    return Action("", _SUBJECT, ToolCall("server", tool, text), about)


def effect(operation: Operation, name: str, about: Context, second: str = "", argv: Sequence[str] = ()) -> Action:
    """A side effect."""
    return Action("", _SUBJECT, SideEffect(operation, name, second, tuple(argv)), about)
