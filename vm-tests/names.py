"""The programs that lead DNS of sandboxes load, attach and do their work on these kernels."""

from tests.names import leading

MACHINE = {"python": "checkout", "seconds": 300}


def test_what_the_programs_promise() -> None:
    leading.check()
