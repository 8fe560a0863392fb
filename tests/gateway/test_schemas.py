"""Schemas that are attacks: bounded time and memory, no request leaves, and a clear answer."""

import time
from pathlib import Path

import pytest

from tests.gateway.conftest import Started, program
from tests.gateway.raw import Raw, text_of
from tests.gateway.test_bypasses import last_call, listener
from tests.support.instance import Instance

BOUND_SECONDS = 10.0
LONG = "a" * 40 + "!"


def begun(instance: Instance, gateway: Started, mode: str, *words: str) -> Raw:
    raw = gateway(f"schema-{mode}", *program(instance, "schemas.py", mode, *words))
    raw.initialize()
    return raw


def test_no_reference_is_fetched(instance: Instance, gateway: Started) -> None:
    with listener() as (port, received):
        raw = begun(instance, gateway, "http", str(port))
        started = time.monotonic()
        assert raw.call("echo", {"text": "x"})["isError"] is True
        assert time.monotonic() - started < BOUND_SECONDS
        assert last_call(instance, "schema-http")["rule"] == "schema-unusable"
        assert received == []
        assert text_of(raw.call("plain", {})) == "called"
        raw.end()  # the next server has tools of the same names
    raw = begun(instance, gateway, "file")
    assert raw.call("echo", {"text": "x"})["isError"] is True
    assert last_call(instance, "schema-file")["rule"] == "schema-unusable"


@pytest.mark.parametrize("mode", ["pattern", "automaton"])
def test_patterns_take_linear_time(instance: Instance, gateway: Started, mode: str) -> None:
    raw = begun(instance, gateway, mode)
    started = time.monotonic()
    assert raw.call("echo", {"text": LONG})["isError"] is True
    assert time.monotonic() - started < BOUND_SECONDS
    assert last_call(instance, f"schema-{mode}")["rule"] in ("schema", "schema-unusable")
    assert text_of(raw.call("plain", {})) == "called"
    if mode == "pattern":
        assert text_of(raw.call("echo", {"text": "aaa"})) == "called"


def test_a_schema_of_ten_megabytes(instance: Instance, gateway: Started) -> None:
    raw = begun(instance, gateway, "large")
    started = time.monotonic()
    assert raw.tools() == ["plain"]
    assert time.monotonic() - started < BOUND_SECONDS
    record = instance.wait_for_record(
        lambda found: found["kind"] == "tools.withheld" and found["server"] == "schema-large"
    )
    assert record["tools"][0] == {"name": "echo", "rule": "tool-too-large", "reason": record["tools"][0]["reason"]}
    assert raw.call("echo", {})["isError"] is True
    assert text_of(raw.call("plain", {})) == "called"
    status = Path(f"/proc/{instance.daemon.pid}/status").read_text() if instance.daemon else ""
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 400 * 1024, "KiB of the daemon"


@pytest.mark.parametrize(
    ("mode", "says"),
    [("deep", "nested deeper"), ("twice", "stands twice"), ("number", "too large"), ("surrogate", "lone surrogate")],
)
def test_a_list_that_cannot_be_read(instance: Instance, gateway: Started, mode: str, says: str) -> None:
    raw = begun(instance, gateway, mode)
    started = time.monotonic()
    answer = raw.ask("tools/list", {})
    assert time.monotonic() - started < BOUND_SECONDS
    assert says in answer["error"]["message"]
    assert raw.call("plain", {})["isError"] is True
    assert last_call(instance, f"schema-{mode}")["rule"] == "tool-not-listed"
    assert raw.ask("ping")["result"] == {}
