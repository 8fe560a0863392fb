"""Every call that the filter holds has a reader, and every reader a call."""

from governed_mcpd.pause.observe import READERS
from governed_mcpd.sandbox.table import held_names


def test_readers_are_those_of_the_pause_table() -> None:
    assert set(READERS) == held_names()
