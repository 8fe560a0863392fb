"""The shipped constitution: what each principle refuses, and the neighbours that it has to leave alone."""

from pathlib import Path

import pytest

from governed_mcpd.gate.layers.constitution import ConstitutionLayer
from governed_mcpd.gate.reading import Reading
from governed_mcpd.policy.load import load_directory
from tests.constitution import cases

POLICIES = Path(__file__).parents[2] / "policies"
ALL = [
    (f"{name}: {case}", case)
    for name, principle in cases.PRINCIPLES.items()
    for case in (*principle.refused, *principle.allowed)
]


@pytest.fixture(scope="module")
def layer() -> ConstitutionLayer:
    return ConstitutionLayer(load_directory(POLICIES).constitutions)


@pytest.mark.parametrize("case", [case for _, case in ALL], ids=[name for name, _ in ALL])
def test_case(layer: ConstitutionLayer, case: cases.Case) -> None:
    finding = layer.check(Reading(cases.action(case.what, case.earlier)))
    rule = f"ask:{finding.rule}" if finding.result == "ask" else finding.rule if finding.result == "deny" else ""
    assert rule == case.rule, finding
    assert finding.reason.strip()


def test_at_least_twelve_principles_with_five_of_each() -> None:
    assert len(cases.PRINCIPLES) >= 12
    for name, principle in cases.PRINCIPLES.items():
        assert len(principle.refused) >= 5, name
        assert len(principle.allowed) >= 5, name
