"""Rows with conditions, as classic BPF: first match, else the row.

libseccomp cannot express this. It keeps no order between the rules of one call, drops a conditional rule next to an
unconditional one, and its 2.5.4 loses rules, or never returns, when two registers are compared with each other's
complements. So what looks at registers is written here, and libseccomp's program for everything else follows it.
"""

import struct
from collections.abc import Iterable

from governed_mcpd.sandbox.table import Answer, Condition, Disposition, Row, Test

# linux/bpf_common.h, linux/filter.h
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# linux/seccomp.h: struct seccomp_data (both architectures of the table are little-endian), and the answers
OFFSET_NUMBER, OFFSET_ARCHITECTURE, OFFSET_ARGUMENTS = 0, 4, 16
RET_ALLOW, RET_NOTIFY, RET_ERRNO = 0x7FFF_0000, 0x7FC0_0000, 0x0005_0000

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, k."""

_LOW = 0xFFFF_FFFF


def action(answer: Answer) -> int:
    """An Answer as a filter returns it."""
    if answer.disposition is Disposition.PASS:
        return RET_ALLOW
    if answer.disposition is Disposition.HOLD:
        return RET_NOTIFY
    return RET_ERRNO | answer.errno


def program(architecture: int, rows: Iterable[tuple[int, Row]]) -> bytes:
    """Instructions that answer the calls of `rows` (number, row) and fall through, off their end, for all others."""
    blocks = [(number, _block(row)) for number, row in rows]
    distance = 2 * len(blocks)  # of instructions between the start of the dispatch and the first block
    length = sum(len(block) for _, block in blocks)
    out: list[Instruction] = [
        (LOAD, 0, 0, OFFSET_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (JUMP, 0, 0, 1 + distance + 1 + length),
        (LOAD, 0, 0, OFFSET_NUMBER),
    ]
    start = 0
    for index, (number, block) in enumerate(blocks):
        out.append((JUMP_EQUAL, 0, 1, number))
        out.append((JUMP, 0, 0, distance - 2 * index - 2 + 1 + start))
        start += len(block)
    out.append((JUMP, 0, 0, length))
    for _, block in blocks:
        out += block
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in out)


def _block(row: Row) -> list[Instruction]:
    out: list[Instruction] = []
    for condition in row.conditions:
        out += _condition(condition)
    out.append((RETURN, 0, 0, action(row.answer)))
    return out


def _condition(condition: Condition) -> list[Instruction]:
    """Every test compares and, where it fails, jumps past this condition's answer."""
    words = [word for test in condition.tests for word in _words(test)]
    length = sum(2 if mask == _LOW else 3 for _, mask, _ in words)
    out: list[Instruction] = []
    for offset, mask, value in words:
        out.append((LOAD, 0, 0, offset))
        if mask != _LOW:
            out.append((AND, 0, 0, mask))
        out.append((JUMP_EQUAL, 0, length - len(out), value))
    out.append((RETURN, 0, 0, action(condition.answer)))
    return out


def _words(test: Test) -> list[tuple[int, int, int]]:
    """The 32-bit halves that a test looks at: offset, mask, value."""
    offset = OFFSET_ARGUMENTS + 8 * test.argument
    halves = ((offset, test.mask & _LOW, test.value & _LOW), (offset + 4, test.mask >> 32, test.value >> 32))
    return [half for half in halves if half[1]]
