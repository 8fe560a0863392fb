"""The name of a model's revision."""

from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.gate.probe.vllm.measure import Memory

FINGERPRINTS = st.lists(st.floats(-12, 12), min_size=7, max_size=7).map(tuple)


@given(FINGERPRINTS)
def test_a_fingerprint_that_was_written_down_has_the_same_name(fingerprint: tuple[float, ...]) -> None:
    written = tuple(round(value * 1000) / 1000 for value in fingerprint)
    assert Memory().revision(written) == Memory().revision(fingerprint)


def test_at_the_border_too() -> None:
    assert Memory().revision((0.6502,) * 7) == Memory().revision((0.65,) * 7)


@given(FINGERPRINTS, st.lists(st.floats(-0.2, 0.2), min_size=7, max_size=7))
def test_what_resembles_it_has_its_name_and_another_model_has_another(
    fingerprint: tuple[float, ...], noise: list[float]
) -> None:
    memory = Memory()
    name = memory.revision(fingerprint)
    assert memory.revision(tuple(a + b for a, b in zip(fingerprint, noise, strict=True))) == name
    assert memory.revision(tuple(value + 1.0 for value in fingerprint)) != name
