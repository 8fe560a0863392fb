"""A pytest plugin that writes what happens to the result port, as lines of JSON (harness/results.py reads them)."""

import json
import os

import pytest

REBOOT = "after_reboot"


def write(**event):
    """One event, in one write."""
    os.write(int(os.environ["VM_RESULT"]), (json.dumps(event) + "\n").encode())


def pytest_configure(config):
    config.addinivalue_line("markers", f"{REBOOT}: runs in a second phase, after the machine has been rebooted")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Phase 0 has the tests that are not marked, phase 1 the others; the runner learns whether there is a phase 1."""
    second = [item for item in items if item.get_closest_marker(REBOOT)]
    first = [item for item in items if not item.get_closest_marker(REBOOT)]
    phase = int(os.environ["VM_PHASE"])
    config.hook.pytest_deselected(items=first if phase else second)
    items[:] = second if phase else first
    if phase == 0 and second:
        with open("/var/lib/vm-tests/reboot-wanted", "w") as wanted:
            wanted.writelines(f"{item.nodeid}\n" for item in second)
    write(event="collected", tests=[item.nodeid for item in items])


class Outcome:
    """A test is its set-up, call and tear-down: it passed if all three did, and none of them was skipped."""

    def __init__(self):
        self.worst = {}
        self.seconds = {}

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        """Skipped includes what was expected to fail: neither shows that something works."""
        outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
        if outcome != "passed" or report.nodeid not in self.worst:
            self.worst[report.nodeid] = outcome
        if report.failed:
            print(f"\n{report.longreprtext}", flush=True)  # now: a machine may go on for half an hour
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.when == "teardown":
            spent = round(self.seconds[report.nodeid], 2)
            figures = {name: str(value) for name, value in report.user_properties}  # what record_property was told
            write(event="test", id=report.nodeid, outcome=self.worst[report.nodeid], seconds=spent, figures=figures)


def pytest_sessionstart(session):
    session.config.pluginmanager.register(Outcome(), "vm-outcome")
