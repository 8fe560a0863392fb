"""The records of tool calls: what was asked for, what came back, which tools a client does not get.

Arguments are stored as a digest and a redacted rendering; results as a digest and a size.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from governed.v1 import control_pb2 as pb
from governed_mcpd.journal.records import layer_fields, reason_text, subject_fields
from governed_mcpd.journal.redact import redact, render_arguments
from governed_mcpd.nouns.action import ToolCall
from governed_mcpd.nouns.subject import Subject
from governed_mcpd.nouns.verdict import Verdict

MOST_NAMES = 200  # tools that one record names
Record = dict[str, Any]


def call_record(
    subject: Subject,
    call: ToolCall,
    identity: str,
    verdict: Verdict,
    *,
    pin: str,
    seal: str,
    gate_us: int,
    approved_by: str,
    task: str,
    task_from: str,
    remote: bool,
) -> Record:
    """A tool call that was decided. `gate_us` is how long the gate (and a person) took; `task_from` says who gave the
    task: launcher or client. `remote`: the server runs elsewhere, and only the call itself is governed."""
    digest, text = render_arguments(call.arguments)
    record: Record = {
        "kind": "call",
        "sandbox": subject.sandbox,
        "subject": subject_fields(subject),
        "call": identity,
        "server": call.server,
        "tool": call.tool,
        "arguments": {"digest": digest, "text": text},
        "decision": verdict.decision.value,
        "layer": verdict.layer,
        "rule": verdict.rule,
        "seal": "none: a remote server" if remote else seal,
        "task_given": bool(task),
    }
    if task:
        record["task_from"] = task_from
    if verdict.reason:
        record["reason"] = reason_text(verdict.reason)
    if verdict.dangerous_ppm is not None:
        record["dangerous_ppm"] = verdict.dangerous_ppm
    if verdict.layers:
        record["layers"] = [layer_fields(report) for report in verdict.layers]
    for name, value in (
        ("policy_version", verdict.policy_version),
        ("model", verdict.model),
        ("pin", pin),
        ("gate_us", gate_us),
        ("approved_by", approved_by),
        ("would_deny", verdict.would_deny),
        ("remote", remote),
    ):
        if value:
            record[name] = value
    return record


def end_record(subject: Subject, call: str, first_seq: int, outcome: str, content: pb.McpContent) -> Record:
    """A call that was let through is over."""
    return {
        "kind": "call.end",
        "sandbox": subject.sandbox,
        "call": call,
        "first_seq": first_seq,
        "outcome": outcome[:32],
        **_content(content),
    }


def content_record(subject: Subject, content: pb.McpContent) -> Record:
    """Content of a server that belongs to no call: a resource, a prompt, a request for sampling."""
    return {"kind": "content", "sandbox": subject.sandbox, **_content(content)}


def refusal_record(subject: Subject, refusal: pb.McpRefusal) -> Record:
    """A request that a gateway does not pass on."""
    return {
        "kind": "call.refused",
        "sandbox": subject.sandbox,
        "method": redact(refusal.method, 128),
        "rule": refusal.rule[:64],
        "reason": redact(refusal.reason),
        "from_server": refusal.from_server,
    }


def tools_record(kind: str, subject: Subject, server: str, tools: Iterable[Mapping[str, str]]) -> Record:
    """Tools that were pinned, or are withheld."""
    named = [{name: text if name == "pin" else redact(text) for name, text in tool.items()} for tool in tools]
    record: Record = {"kind": kind, "sandbox": subject.sandbox, "server": server, "tools": named[:MOST_NAMES]}
    if len(named) > MOST_NAMES:
        record["more"] = len(named) - MOST_NAMES
    return record


def _content(content: pb.McpContent) -> Record:
    fields: Record = {}
    for name, value in (
        ("source", redact(content.source)),
        ("size", content.size),
        ("digest", content.digest[:32].hex()),
        ("handling", content.handling[:32]),
        ("is_error", content.is_error),
        ("findings", [redact(finding) for finding in content.findings[:16]]),
    ):
        if value:
            fields[name] = value
    return fields
