"""Bounds on what a DecideRequest may hold. Past one, the message was not made by the daemon: INVALID_ARGUMENT."""

import os

from governed.v1 import nouns_pb2 as pb
from governed_mcpd.nouns.action import Action
from governed_mcpd.nouns.wire import WireError, action_from_pb

MAX_MESSAGE = 4 * 1024 * 1024
MAX_NAME = 512
MAX_TASK = 256 * 1024
MAX_ITEMS = 4096
MAX_WORDS = 65_536
MAX_OBJECT = 8192
MAX_SCHEMA = 256 * 1024
_LEAST_BOUND = min(MAX_TASK, MAX_ITEMS, MAX_WORDS, MAX_OBJECT, MAX_SCHEMA)


def read_action(message: pb.Action) -> Action:
    """The Action of `message`. Raises WireError for impossible fields."""
    _check(message)
    try:
        return action_from_pb(message)
    except (ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"action: {error}") from None


def _check(message: pb.Action) -> None:
    subject, call = message.subject, message.call
    for field, text in (
        ("id", message.id),
        ("subject.agent", subject.agent),
        ("subject.sandbox", subject.sandbox),
        ("subject.profile", subject.profile),
        ("subject.server", subject.server),
        ("subject.parent", subject.parent),
        ("call.server", call.server),
        ("call.tool", call.tool),
        ("effect.operation", message.effect.operation),
    ):
        if len(text) > MAX_NAME:
            raise WireError(f"action.{field} has {len(text)} characters: expected at most {MAX_NAME}")
    if message.HasField("subject") and not subject.agent:
        raise WireError("action.subject.agent is empty: every subject is an agent's")
    # Whatever is counted takes a byte at least: a message of at most so many bytes is within every bound.
    if message.ByteSize() > _LEAST_BOUND:
        _check_counts(message, message.context)


def _check_counts(message: pb.Action, context: pb.Context) -> None:
    counts = {
        "context.directories": (len(context.directories), MAX_ITEMS),
        "context.calls": (len(context.calls), MAX_ITEMS),
        "context.earlier": (len(context.earlier), MAX_ITEMS),
        "context.untrusted": (len(context.untrusted), MAX_ITEMS),
        "call.input_schema": (len(message.call.input_schema), MAX_SCHEMA),
        "effect.argv": (len(message.effect.argv), MAX_WORDS),
        "effect.details": (len(message.effect.details), MAX_ITEMS),
        "effect.object": (len(message.effect.object), MAX_OBJECT),
        "effect.second": (len(message.effect.second), MAX_OBJECT),
        "context.task": (len(context.task), MAX_TASK),
        "context.home": (len(os.fsencode(context.home)), MAX_OBJECT),
        "context.scratch": (len(os.fsencode(context.scratch)), MAX_OBJECT),
    }
    for field, (count, most) in counts.items():
        if count > most:
            raise WireError(f"action.{field} has {count}: expected at most {most}")
