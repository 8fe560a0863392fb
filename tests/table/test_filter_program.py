"""The compiled program says what the table says, for every call and for the registers that its conditions look at."""

import itertools
import random

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governed_mcpd.sandbox import conditions
from governed_mcpd.sandbox.filter import INSTRUCTION_BYTES, MOST_INSTRUCTIONS, FilterError, compile_filter, compile_for
from governed_mcpd.sandbox.filter import number as number_of
from governed_mcpd.sandbox.table import ABSENT, EXACT, Answer, Condition, Disposition, Row, Test, pause_table
from tests.table.bpf import (
    AUDIT_ARCH_AARCH64,
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    NO_SUCH_CALL,
    X32_SYSCALL_BIT,
    Program,
)

PROGRAMS = {reads: Program(compile_filter(reads)) for reads in (False, True)}
CASES = [
    (reads, pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name), row)
    for reads in (False, True)
    for name, row in pause_table(reads_pause=reads).items()
]


def interesting(row: Row) -> list[tuple[int, ...]]:
    """Registers on both sides of every condition, with rubbish in the upper half, and in every bit's neighbour."""
    values: dict[int, set[int]] = {}
    for condition in row.conditions:
        for test in condition.tests:
            found = values.setdefault(test.argument, {0, 1, EXACT, 0xFFFF_FFFF})
            found |= {test.value, test.value | 1 << 32, test.value | 1 << 63, test.value | ~test.mask & EXACT}
            found |= {test.value ^ 1 << bit for bit in range(64) if test.mask >> bit & 1}
    shuffled = random.Random(row.name)
    choices = [sorted(values.get(argument, {0})) for argument in range(6)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total <= 3000:
        return list(itertools.product(*choices))
    return [tuple(shuffled.choice(choice) for choice in choices) for _ in range(3000)]


@pytest.mark.parametrize("reads", [False, True])
def test_every_row_with_every_interesting_register(reads: bool) -> None:
    program = PROGRAMS[reads]
    for reads_pause, number, row in CASES:
        if reads_pause == reads:
            for arguments in interesting(row):
                found = program.run(AUDIT_ARCH_X86_64, number, arguments).answer
                assert found == row.decide(arguments), (row.name, [hex(value) for value in arguments])


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([case for case in CASES if case[2].conditions]),
    st.tuples(*[st.integers(0, EXACT) for _ in range(6)]),
    st.integers(0, 2**16),
)
def test_conditions_with_any_registers(case: tuple[bool, int, Row], noise: tuple[int, ...], which: int) -> None:
    reads, number, row = case
    arguments = list(noise)
    for test in row.conditions[which % len(row.conditions)].tests:
        arguments[test.argument] = noise[test.argument] & ~test.mask | test.value
    for registers in (noise, tuple(arguments)):
        assert PROGRAMS[reads].run(AUDIT_ARCH_X86_64, number, registers).answer == row.decide(registers)


def test_every_number_without_a_row_does_not_exist() -> None:
    named = {number for _, number, _ in CASES}
    for number in [*range(1100), 0xFFFF_FFFF, 0x3FFF_FFFF]:
        if number not in named:
            assert PROGRAMS[False].run(AUDIT_ARCH_X86_64, number).answer == NO_SUCH_CALL


def test_other_architectures_do_not_exist() -> None:
    for number in range(600):
        for program in PROGRAMS.values():
            assert program.run(AUDIT_ARCH_I386, number).answer == NO_SUCH_CALL
            assert program.run(AUDIT_ARCH_AARCH64, number).answer == NO_SUCH_CALL
            assert program.run(AUDIT_ARCH_X86_64, number | X32_SYSCALL_BIT).answer == NO_SUCH_CALL
    read = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, "read")
    assert PROGRAMS[False].run(AUDIT_ARCH_X86_64, read).answer == Answer(Disposition.PASS)


def test_aarch64_follows() -> None:
    for reads in (False, True):
        program = Program(compile_for(pyseccomp.Arch.AARCH64, reads_pause=reads))
        for name, row in pause_table(reads_pause=reads).items():
            if name in ABSENT["aarch64"]:
                continue
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.AARCH64, name)
            for arguments in interesting(row)[:300]:
                assert program.run(AUDIT_ARCH_AARCH64, number, arguments).answer == row.decide(arguments), name
        assert program.run(AUDIT_ARCH_X86_64, 0).answer == NO_SUCH_CALL


def test_the_kernel_takes_a_program_of_this_length_and_hot_calls_are_decided_early() -> None:
    for reads, program in PROGRAMS.items():
        assert len(program.instructions) <= MOST_INSTRUCTIONS // 2, reads
        for name in ("read", "write", "close", "fstat", "mmap", "futex", "epoll_wait", "getpid"):
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)
            assert program.run(AUDIT_ARCH_X86_64, number).steps <= 60, name
    assert len(compile_filter(False)) == INSTRUCTION_BYTES * len(PROGRAMS[False].instructions)


def test_a_name_that_libseccomp_does_not_know_is_an_error_and_not_a_hole() -> None:
    with pytest.raises(FilterError, match="no_such_call"):
        number_of("no_such_call", pyseccomp.Arch.X86_64, "x86_64")
    with pytest.raises(FilterError, match="open"):
        number_of("open", pyseccomp.Arch.AARCH64, "x86_64")
    assert number_of("open", pyseccomp.Arch.AARCH64, "aarch64") is None
    assert number_of("open", pyseccomp.Arch.X86_64, "x86_64") == 2


def test_an_architecture_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(FilterError, match="aarch64"):
        compile_for(pyseccomp.Arch.PPC64LE, reads_pause=False)


@pytest.mark.parametrize(("argument", "mask", "value"), [(6, 1, 1), (-1, 1, 1), (0, 1, 2), (0, 0, 0), (0, 1 << 64, 0)])
def test_a_test_that_cannot_match_is_refused(argument: int, mask: int, value: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Test(argument, mask, value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_row_compiles_to_what_it_decides(data: st.DataObject) -> None:
    dispositions = st.sampled_from(list(Disposition))
    tests = st.builds(
        lambda argument, mask, value: Test(argument, mask, value & mask),
        st.integers(0, 5),
        st.one_of(st.integers(1, EXACT), st.sampled_from([EXACT, 0xFFFF, 0xFF00, 1 << 33])),
        st.integers(0, EXACT),
    )
    condition = st.builds(Condition, dispositions, st.lists(tests, min_size=1, max_size=3).map(tuple), st.just("why"))
    row = Row("x", data.draw(dispositions), frozenset(), "why", 1, tuple(data.draw(st.lists(condition, max_size=8))))
    other = Row("y", Disposition.HOLD, frozenset(), "why")
    after = b"".join([bytes.fromhex("0600000005000500")])  # ERRNO(5): what follows the conditions
    program = Program(conditions.program(AUDIT_ARCH_X86_64, [(7, other), (9, row)]) + after)
    arguments = data.draw(st.tuples(*[st.integers(0, EXACT) for _ in range(6)]))
    assert program.run(AUDIT_ARCH_X86_64, 9, arguments).answer == row.decide(arguments)
    assert program.run(AUDIT_ARCH_X86_64, 7, arguments).answer == Answer(Disposition.HOLD)
    assert program.run(AUDIT_ARCH_X86_64, 8, arguments).answer == Answer(Disposition.REFUSE, 5)
    assert program.run(AUDIT_ARCH_I386, 9, arguments).answer == Answer(Disposition.REFUSE, 5)
