"""What a launcher is told about its sandbox."""

from governed.v1 import control_pb2 as pb
from governed_mcpd.nouns import wire
from governed_mcpd.nouns.verdict import Verdict
from governed_mcpd.subjects.sandbox import Sandbox


def refused(sandbox: Sandbox, operation: str, name: str, verdict: Verdict, record: int = 0) -> None:
    """A side effect was refused; `record` is its number in the journal, 0 when it has none."""
    _tell(sandbox, pb.Notice.KIND_REFUSED, operation, name, verdict, record=record)


def waiting(sandbox: Sandbox, operation: str, name: str, verdict: Verdict, approval: str) -> None:
    """A side effect waits for a person."""
    _tell(sandbox, pb.Notice.KIND_WAITING, operation, name, verdict, approval=approval)


def _tell(
    sandbox: Sandbox,
    kind: pb.Notice.Kind.ValueType,
    operation: str,
    name: str,
    verdict: Verdict,
    *,
    record: int = 0,
    approval: str = "",
) -> None:
    sandbox.notify(
        pb.Notice(
            kind=kind,
            operation=operation,
            object=name.encode("utf-8", "surrogateescape"),
            layer=verdict.layer,
            rule=verdict.rule,
            reason=wire.text(verdict.reason),
            approval=approval,
            record=record,
        )
    )
