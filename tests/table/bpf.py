"""A seccomp program, run here as the kernel runs it: linux/filter.h, seccomp(2)."""

import errno
import struct
from dataclasses import dataclass

from governed_mcpd.sandbox.table import Answer, Disposition

AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64, AUDIT_ARCH_I386 = 0xC000003E, 0xC00000B7, 0x40000003
X32_SYSCALL_BIT = 0x4000_0000
NO_SUCH_CALL = Answer(Disposition.REFUSE, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Result:
    answer: Answer
    steps: int


class Program:
    """Interprets the instructions that libseccomp and the table's compiler use; anything else is an error."""

    def __init__(self, code: bytes) -> None:
        self.instructions = list(struct.iter_unpack("=HBBI", code))

    def run(self, architecture: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> Result:
        data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments)
        accumulator, at, steps = 0, 0, 0
        while True:
            code, jump_true, jump_false, k = self.instructions[at]
            at += 1
            steps += 1
            match code:
                case 0x20:
                    (accumulator,) = struct.unpack_from("=I", data, k)
                case 0x54:
                    accumulator &= k
                case 0x05:
                    at += k
                case 0x15:
                    at += jump_true if accumulator == k else jump_false
                case 0x25:
                    at += jump_true if accumulator > k else jump_false
                case 0x35:
                    at += jump_true if accumulator >= k else jump_false
                case 0x06:
                    return Result(_answer(k), steps)
                case _:
                    raise AssertionError(f"instruction {at - 1} has the code {code:#x}")


def _answer(value: int) -> Answer:
    if value == 0x7FFF_0000:
        return Answer(Disposition.PASS)
    if value == 0x7FC0_0000:
        return Answer(Disposition.HOLD)
    assert value >> 16 == 5, hex(value)
    return Answer(Disposition.REFUSE, value & 0xFFFF)
