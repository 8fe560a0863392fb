"""The pause table: every system call that the filter lets pass, holds or refuses, why, and what carries that.

Anything else, also what a future kernel adds, gets ENOSYS. `docs/pause-table.md` is made from it.
"""

from governed_mcpd.sandbox.table.defaults import ABSENT, DEFAULT_ON_PURPOSE
from governed_mcpd.sandbox.table.files import FILES, opening
from governed_mcpd.sandbox.table.machine import MACHINE
from governed_mcpd.sandbox.table.network import NETWORK
from governed_mcpd.sandbox.table.processes import BURDENS, PROCESSES, SIGNALS
from governed_mcpd.sandbox.table.requests import REQUESTS
from governed_mcpd.sandbox.table.row import EXACT, Answer, Carrier, Condition, Disposition, Row, Test

__all__ = [
    "ABSENT",
    "BURDENS",
    "DEFAULT_ON_PURPOSE",
    "EXACT",
    "SIGNALS",
    "Answer",
    "Carrier",
    "Condition",
    "Disposition",
    "Row",
    "Test",
    "held_names",
    "pause_table",
]


def pause_table(*, reads_pause: bool) -> dict[str, Row]:
    """The table by name. `reads_pause`: the profile holds every open, not only those that write or create."""
    rows = (*opening(reads_pause=reads_pause), *FILES, *NETWORK, *PROCESSES, *REQUESTS, *MACHINE)
    table = {row.name: row for row in rows}
    if len(table) != len(rows) or table.keys() & DEFAULT_ON_PURPOSE.keys():
        raise ValueError("the pause table names a call twice")
    return table


def held_names() -> frozenset[str]:
    """The calls that can reach the supervisor, whatever the profile."""
    return frozenset(
        row.name
        for row in pause_table(reads_pause=True).values()
        if Disposition.HOLD in (row.disposition, *(condition.disposition for condition in row.conditions))
    )
