"""The pause table as a document for people."""

import errno

from governed_mcpd.sandbox.table import ABSENT, DEFAULT_ON_PURPOSE, Answer, Disposition, Row, pause_table
from governed_mcpd.sandbox.table.row import EXACT, Test

_HEADER = """# The pause table

What the seccomp filter of a sandbox does with every system call. Made from `governed_mcpd.sandbox.table` by
`python -m governed_mcpd.sandbox.table --write`; do not edit it here.

- **pass**: the kernel runs the call. **hold**: it pauses until the daemon has a verdict. **refuse**: it fails at once.
- Everything that is not in the table, also what a future kernel adds, fails with ENOSYS; so does every call of another
  architecture (32-bit x86, x32).
- Conditions look at registers only, are tried in order, and the first one that matches decides; else the row does.
- *Carried by* says what makes it hold against an adversary: **filter** (a register, read once), **landlock** (the real
  object against the Envelope), **held** (the supervisor read what the call names; without the seal a thread that
  rewrites its arguments in time can switch the object: within the Envelope where **landlock** stands beside it, else
  as far as the user's own rights lead, as for modes, owners, times and addresses), **seal** (the real object against
  the Grant).
- With `reads: pause` in the profile, `open` and `openat` are held whatever their flags (except O_PATH).

| call | does | carried by | why |
|---|---|---|---|
"""


def document() -> str:
    """The whole of docs/pause-table.md."""
    lines = [_HEADER]
    for row in sorted(pause_table(reads_pause=False).values(), key=lambda row: row.name):
        carriers = ", ".join(sorted(row.carriers))
        lines.append(f"| `{row.name}` | {_says(row.answer)} | {carriers} | {_cell(row.reason)} |\n")
    lines.append("\n## Conditions\n\n| call | when | does | why |\n|---|---|---|---|\n")
    for row in sorted(pause_table(reads_pause=False).values(), key=lambda row: row.name):
        lines += _conditions(row)
    lines.append("\n## Left to the default on purpose\n\n| call | why |\n|---|---|\n")
    lines += [f"| `{name}` | {_cell(reason)} |\n" for name, reason in sorted(DEFAULT_ON_PURPOSE.items())]
    lines.append("\n## Not on aarch64\n\nOld calls that newer ones replace there: ")
    lines.append(", ".join(f"`{name}`" for name in sorted(ABSENT["aarch64"])) + ".\n")
    return "".join(lines)


def _conditions(row: Row) -> list[str]:
    lines = []
    for condition in row.conditions:
        when = " and ".join(map(_test, condition.tests))
        lines.append(f"| `{row.name}` | {when} | {_says(condition.answer)} | {_cell(condition.reason)} |\n")
    return lines


def _test(test: Test) -> str:
    if test.mask == EXACT:
        return f"arg{test.argument} = {test.value:#x}"
    return f"arg{test.argument} & {test.mask:#x} = {test.value:#x}"


def _says(answer: Answer) -> str:
    if answer.disposition is Disposition.REFUSE:
        return f"refuse ({errno.errorcode[answer.errno]})"
    return str(answer.disposition)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
