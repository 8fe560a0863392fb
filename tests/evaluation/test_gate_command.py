"""governedctl gate eval and calibrate, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest

from governed_mcpd.policy.load import parse
from tests.ctl.program import governedctl
from tests.evaluation.main import ROOT

OWN = Path(__file__).with_name("own.jsonl")
POLICIES = ROOT / "policies"


def report(*more: str | Path) -> dict[str, Any]:
    done = governedctl("gate", "eval", "--cases", OWN, "--policy", POLICIES, "--json", *more)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_report_has_the_form_that_programs_read() -> None:
    found = report()
    (source,) = found["sources"]
    assert source["source"] == "own"
    assert source["n"] == source["allowed"]["n"] + source["dangerous"]["n"] == 40
    assert set(source["allowed"]) == set(source["dangerous"]) == {"n", "denied", "asked"}
    for rate in ("precision", "recall", "f1", "false_positive_rate", "auroc", "accuracy"):
        assert 0.0 <= source[rate] <= 1.0
        low, high = source["confidence"][rate]
        assert low <= source[rate] <= high
    assert {group["category"] for group in source["categories"]} == {"injected", "own step", "harmful"}
    assert source["with_observation"]["n"] == 32
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert set(found["latency_ms"]["layers"]) == {"prefilter", "probe", "constitution"}


def test_every_combination_of_layers_is_reported() -> None:
    found = report()
    combinations = [tuple(chosen["layers"]) for chosen in found["ablation"]]
    assert len(combinations) == len(set(combinations)) == 8
    by_layers = {tuple(chosen["layers"]): chosen["sources"][0] for chosen in found["ablation"]}
    assert by_layers[()]["recall"] == 0.0
    whole = by_layers["prefilter", "probe", "constitution"]
    assert {name: whole[name] for name in whole} == {name: found["sources"][0][name] for name in whole}
    for chosen, alone in by_layers.items():
        if chosen:  # a layer more refuses no less
            assert alone["recall"] <= whole["recall"]


def test_rows_with_an_unknown_label_are_left_out(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in OWN.read_text().splitlines()][:6]
    rows[0]["label"] = "unknown"
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = governedctl("gate", "eval", "--cases", cases, "--policy", POLICIES, "--json")
    found = json.loads(done.stdout)
    assert (found["cases"], found["unknown_left_out"], found["sources"][0]["n"]) == (5, 1, 5)


def test_people_get_a_table() -> None:
    done = governedctl("gate", "eval", "--cases", OWN, "--policy", POLICIES)
    assert done.returncode == 0
    for part in ("with and without each layer", "FPR", "prefilter + probe + constitution", "p50", "own"):
        assert part in done.stdout


GOOD = json.loads(OWN.read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "found a list; expected an object"),
        (json.dumps({**GOOD, "label": "maybe"}), 'label: found "maybe"; expected allow, deny, unknown'),
        (json.dumps({name: value for name, value in GOOD.items() if name != "tool"}), "tool is missing"),
        (json.dumps({**GOOD, "tool": ""}), "tool: found an empty text"),
        (json.dumps({**GOOD, "arguments": "x"}), "arguments: found a text; expected an object"),
        (json.dumps({**GOOD, "context": None}), "context: found null; expected an object"),
        (json.dumps({**GOOD, "context": {"user_task": 7}}), "context.user_task: found a number"),
        (json.dumps({**GOOD, "context": {"directories": "x"}}), "context.directories: found a text"),
        (json.dumps({**GOOD, "category": 3}), "category: found a number"),
        ('{"source":"a","source":"b"}', "not JSON"),
    ],
)
def test_bad_cases_name_file_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    done = governedctl("gate", "eval", "--cases", cases, "--policy", POLICIES)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{cases}:2: {said}" in done.stderr
    done = governedctl("gate", "eval", "--cases", cases, "--policy", POLICIES, "--json")
    assert json.loads(done.stderr)["error"]["code"] == "cases"


def test_no_file_no_cases_no_policy(tmp_path: Path) -> None:
    done = governedctl("gate", "eval", "--cases", tmp_path / "none.jsonl")
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no case with the label" in governedctl("gate", "eval", "--cases", tmp_path / "empty.jsonl").stderr
    done = governedctl("gate", "eval", "--cases", OWN, "--policy", tmp_path)
    assert done.returncode == 1
    assert "governedctl: " in done.stderr


def test_calibrating_writes_a_gate_document_that_loads(tmp_path: Path) -> None:
    written = tmp_path / "gate.yaml"
    done = governedctl("gate", "calibrate", "--cases", OWN, "--policy", POLICIES, "-o", written, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert 0 < found["thresholds"]["ask"] < found["thresholds"]["deny"] <= 1000
    assert found["false_positive_rate"] <= 0.05
    assert found["document"] == written.read_text()
    files = {path.name: path.read_bytes() for path in POLICIES.glob("*.yaml")}
    before = parse(files)
    after = parse({**files, "gate.yaml": written.read_bytes()})
    assert after.gate.thresholds.model_dump() == found["thresholds"]
    assert after.gate.operations == before.gate.operations  # nothing else of the document is lost
    assert after.gate.person_seconds == before.gate.person_seconds


def test_calibrating_needs_both_kinds(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(line for line in OWN.read_text().splitlines() if '"allow"' in line))
    done = governedctl("gate", "calibrate", "--cases", cases, "--policy", POLICIES)
    assert done.returncode == 1
    assert "0 dangerous cases: expected at least ten of each" in done.stderr
