"""Which tests there are, and what machine each file of them asks for: read from the source on the host.

So the harness knows what has to come back before the guest says what it found.
"""

import ast
from dataclasses import dataclass, field
from pathlib import Path

from harness.tools import HERE, Trouble


@dataclass(frozen=True)
class Wishes:
    """The literal `MACHINE = {…}` of a test file. A key that is not a field here is an error."""

    # Words for the kernel's command line.
    parameters: str = ""
    # The same for a second machine that `--full` adds.
    full_parameters: str = ""
    # Empty disks: serial number → size in MiB. The guest finds them as /dev/disk/by-id/virtio-SERIAL.
    disks: dict[str, int] = field(default_factory=dict)
    # How long the machine may take from its start to its end, under emulation, on a host that does nothing else
    # (machine.py: Machine.late); `--full` takes four times as long.
    seconds: int = 900
    # `debian`: Debian's own pytest, which sees nothing of the checkout's packages. `checkout`: that of .venv.
    python: str = "debian"
    # It measures time, on one processor: only others of its kind run beside it, and none before the rest have ended.
    alone: bool = False
    # The machine starts with the checkout's package installed.
    product: bool = False


@dataclass(frozen=True)
class Plan:
    """One machine: a test file, the tests of it that have to pass, and what it runs on."""

    file: str
    tests: tuple[str, ...]
    chosen: tuple[str, ...]
    wishes: Wishes
    parameters: str

    @property
    def title(self) -> str:
        """The file, and what sets this machine apart from another for the same file."""
        return f"{self.file} [{self.parameters}]" if self.parameters else self.file


def read(path: Path) -> tuple[Wishes, tuple[str, ...]]:
    """What a test file asks for, and the names of its tests. Trouble when either is not as it should be."""
    wishes = Wishes()
    tests: list[str] = []
    for node in ast.parse(path.read_text(), str(path)).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            tests.append(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            raise Trouble(f"{path}:{node.lineno}: tests here are functions, since classes are not looked into")
        elif isinstance(node, ast.Assign) and any(
            isinstance(to, ast.Name) and to.id == "MACHINE" for to in node.targets
        ):
            try:
                wishes = Wishes(**ast.literal_eval(node.value))
            except (ValueError, TypeError) as wrong:
                known = ", ".join(Wishes.__dataclass_fields__)
                raise Trouble(f"{path}:{node.lineno}: MACHINE is a literal with the keys {known}: {wrong}") from wrong
    if wishes.python not in {"debian", "checkout"}:
        raise Trouble(f"{path}: python is debian or checkout, not {wishes.python!r}")
    if len(set(tests)) != len(tests):
        raise Trouble(f"{path}: two tests have the same name, so one of them never runs")
    if not tests:
        raise Trouble(f"{path} has no tests")
    return wishes, tuple(tests)


def plans(chosen: list[str], full: bool, where: Path = HERE) -> list[Plan]:
    """The machines for the chosen tests (`file`, `file.py`, `file.py::test`), or for all files when none is chosen."""
    files = {path.stem: path for path in sorted(where.glob("*.py")) if path.stem != "conftest"}
    wanted: dict[str, list[str]] = {}
    for word in chosen:
        name, _, test = word.partition("::")
        name = Path(name).stem
        if name not in files:
            raise Trouble(f"there is no {name}.py in vm-tests; there are: {', '.join(files)}")
        wanted.setdefault(name, []).extend([test] if test else [])
    found = []
    for name in wanted or files:
        wishes, tests = read(files[name])
        only = tuple(wanted.get(name, ()))
        unknown = sorted({test.partition("[")[0] for test in only} - set(tests))
        if unknown:
            raise Trouble(f"{name}.py has no {', '.join(unknown)}; it has: {', '.join(tests)}")
        expected = tuple(dict.fromkeys(test.partition("[")[0] for test in only)) or tests
        variants = [wishes.parameters] + ([wishes.full_parameters] if full and wishes.full_parameters else [])
        found += [Plan(f"{name}.py", expected, only, wishes, parameters) for parameters in variants]
    return found
