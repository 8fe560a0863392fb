"""Which tests there are, and what machine each file of them asks for: read from the source on the host.

So the harness knows what has to come back before the guest says what it found.
"""

import ast
from dataclasses import dataclass, field, replace
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
    # Two let threads race. One is a fifth quicker at what is no race, where machines share the host's processors. In a
    # full run all have two but those that are alone.
    processors: int = 2
    # It measures time, which others at work would change: only its like run beside it, when the rest have ended.
    alone: bool = False
    # The machine starts with the checkout's package installed.
    product: bool = False
    # It starts without the package, and its tests leave it installed for the files after it.
    installs: bool = False
    # Files that run in this one's machine after it, in this order, where they are run in the same call: a machine, and
    # the product's start in it, take longer than most tests. It has what any of them needs; each can run alone.
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One machine: its test files, what pytest is told of them, which tests (FILE::TEST) have to pass, and what it runs
    on."""

    files: tuple[str, ...]
    chosen: tuple[str, ...]
    tests: tuple[str, ...]
    wishes: Wishes
    parameters: str

    @property
    def title(self) -> str:
        """The files, and what sets this machine apart from another for the same ones."""
        names = ", ".join(self.files)
        return f"{names} [{self.parameters}]" if self.parameters else names


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
                wishes = replace(wishes, then=tuple(wishes.then))
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
    found: dict[str, Plan] = {}
    for name in wanted or files:
        wishes, tests = read(files[name])
        only = tuple(wanted.get(name, ()))
        unknown = sorted({test.partition("[")[0] for test in only} - set(tests))
        if unknown:
            raise Trouble(f"{name}.py has no {', '.join(unknown)}; it has: {', '.join(tests)}")
        expected = tuple(dict.fromkeys(test.partition("[")[0] for test in only)) or tests
        chosen_here = tuple(f"{name}.py::{test}" for test in only) or (f"{name}.py",)
        all_of_them = tuple(f"{name}.py::{test}" for test in expected)
        found[name] = Plan((f"{name}.py",), chosen_here, all_of_them, wishes, wishes.parameters)
    machines = []
    for plan in shared(found).values():
        machines.append(thorough(plan) if full else plan)
        if full and plan.wishes.full_parameters:
            machines.append(replace(thorough(plan), parameters=plan.wishes.full_parameters))
    return machines


def thorough(plan: Plan) -> Plan:
    """The machine that a full run has for it. What measures time does so on the one that it asks for."""
    processors = plan.wishes.processors if plan.wishes.alone else max(plan.wishes.processors, 2)
    return replace(plan, wishes=replace(plan.wishes, processors=processors))


def _part_of_what_installs(plan: Plan) -> bool:
    """Whether the package need not be there after it, although its file leaves it."""
    return plan.wishes.installs and any("::" in word for word in plan.chosen)


def shared(found: dict[str, Plan]) -> dict[str, Plan]:
    """The plans, with one machine for files of which one names the others. Trouble if they ask for different ones."""
    machines = dict(found)
    for name, first in found.items():
        for other in first.wishes.then:
            if other not in found or _part_of_what_installs(first) or _part_of_what_installs(found[other]):
                continue
            if other == name or name not in machines or other not in machines:
                raise Trouble(f"{other}.py is to run after two files, or after itself")
            machine, later = machines[name], machines.pop(other)
            wishes = replace(
                machine.wishes,
                seconds=machine.wishes.seconds + later.wishes.seconds,
                disks=machine.wishes.disks | later.wishes.disks,
                processors=max(machine.wishes.processors, later.wishes.processors),
                product=machine.wishes.product or (later.wishes.product and not machine.wishes.installs),
                installs=machine.wishes.installs or later.wishes.installs,
            )
            alike = ("python", "alone")
            none_or_same = ("parameters", "full_parameters")
            if (
                any(getattr(later.wishes, one) != getattr(wishes, one) for one in alike)
                or any(getattr(later.wishes, one) not in ("", getattr(wishes, one)) for one in none_or_same)
                or (wishes.product and wishes.installs)
            ):
                raise Trouble(f"{name}.py has {other}.py run in its machine, which asks for another one")
            parts = machine.files + later.files, machine.chosen + later.chosen, machine.tests + later.tests
            machines[name] = Plan(*parts, wishes, machine.parameters)
    return machines
