"""How doctor tries things: in a process that ends, with all that it started."""

import os
import select
import signal

from governed_mcpd.ctl import probes


def test_nothing_that_a_probe_started_outlives_it() -> None:
    """One that did would keep the output of doctor open, and whoever reads that would wait for ever."""
    read, write = os.pipe()

    def probe() -> str:
        os.fork()
        signal.pause()
        return "never"

    outcome = probes.in_child(probe, 0.5)
    os.close(write)
    assert outcome == probes.Outcome(False, "the attempt hung, and was ended after 0.5 s")
    assert select.select([read], [], [], 60)[0], "somebody still has the other end"
    assert os.read(read, 1) == b""
    os.close(read)
