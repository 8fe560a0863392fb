"""Which lease an approval proposes. The daemon cuts it to the profile's ceiling."""

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import NAME, Pattern, PatternError, PatternKind

SECONDS = 60
FILE_USES = 1000
NET_USES = 100
# Only operations that the object says everything about. A lease compares operation and object, so one for rename would
# cover any second object, one for chmod any mode, one for exec any argv.
_LEASED = {
    Operation.FILE_READ: FILE_USES,
    Operation.FILE_WRITE: FILE_USES,
    Operation.FILE_CREATE: FILE_USES,
    Operation.FILE_TRUNCATE: FILE_USES,
    Operation.FILE_UNLINK: FILE_USES,
    Operation.FILE_RMDIR: FILE_USES,
    Operation.FILE_MKDIR: FILE_USES,
    Operation.FILE_TIMES: FILE_USES,
    Operation.NET_CONNECT: NET_USES,
    Operation.NET_RESOLVE: NET_USES,
}


def propose(effect: SideEffect, policy_version: str, most_uses: int | None) -> Lease | None:
    """A lease on exactly this operation and object, or None where it would cover more than was decided."""
    uses = _LEASED.get(effect.operation)
    if uses is None or effect.second:
        return None
    try:
        pattern = Pattern(_kind(effect.object), effect.object)
    except PatternError:
        return None
    if most_uses is not None:
        uses = min(uses, most_uses)
    return Lease(frozenset((effect.operation,)), pattern, uses, SECONDS, policy_version)


def _kind(name: str) -> PatternKind:
    if name.startswith(NAME):
        return PatternKind.NAME
    return PatternKind.ENDPOINT if name.startswith(("tcp:", "udp:")) else PatternKind.EXACT
