"""Machines for one call of vm-tests/run: their disks, what they are told, and what is printed about them."""

import contextlib
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import checkout
from harness.checkout import Disks
from harness.kernels import Kernel
from harness.machine import Disk, Machine, crash, keep_log, new_directory, quickly
from harness.plan import Plan
from harness.product import NAME
from harness.results import Results
from harness.tools import CHECKOUT, Trouble, sparse


@dataclass(frozen=True)
class Session:
    """What all machines of one call have in common. `product` is the root disk with the package (`built`) installed."""

    image: Path
    built: bytes | None
    product: Path | None
    disks: Disks
    accelerator: str
    emulator: tuple[str, ...]
    parameters: tuple[str, ...]
    seconds: float | None
    full: bool
    verbose: bool

    def run_command(self, booted: Kernel, command: str) -> int:
        """Boots, with the package under systemd or with neither, runs a command, and returns its exit status."""
        started = time.monotonic()
        seconds = self.seconds or 600
        parameters = [] if self.product else [f"vm.init={CHECKOUT}/vm-tests/guest/quick"]
        with _directory(f"{booted.line}-command") as directory:
            job = json.dumps({"command": ["bash", ".vm-run/command"]})
            disks = [checkout.job(directory, {"job.json": job, "command": command})]
            machine = self._machine(
                booted,
                self._root(installed=self.product is not None),
                directory,
                parameters,
                disks,
                seconds,
                environment=True,
                processors=2,
                quick=True,
            )
            ended = machine.run(_to_terminal)
            results = Results.read(directory)
            if ended != "off" or not results.done or results.broken:
                said = crash((directory / "serial.log").read_bytes())
                log = keep_log(directory)
                raise Trouble(
                    f"the machine ended ({ended}, {seconds:.0f} s at most), and not by itself; its log: {log}\n{said}"
                )
        (status,) = results.statuses
        print(f"[{booted.line}: exit status {status}, {time.monotonic() - started:.0f} s]", file=sys.stderr)
        return status

    def run_tests(self, booted: Kernel, plan: Plan) -> bool:
        """One machine for one plan; prints what it found. True when all that was expected passed."""
        started = time.monotonic()
        _say(f"{booted.line} {plan.title} …")
        text = io.StringIO()
        with _directory(f"{booted.line}-{Path(plan.files[0]).stem}") as directory:
            told = {"tests": plan.chosen, "python": plan.wishes.python, "processors": plan.wishes.processors}
            job: dict[str, str | bytes] = {"job.json": json.dumps({**told, "full": self.full})}
            job["kernel"] = booted.release
            if plan.wishes.installs or plan.wishes.product:
                assert self.built is not None, "for a plan that has to do with the package there is one"
                job[NAME] = self.built
            disks = [checkout.job(directory, job)]
            for serial, mebibytes in plan.wishes.disks.items():
                disks.append(Disk(serial, sparse(directory / f"disk-{serial}", mebibytes), read_only=False))
            root = self._root(installed=plan.wishes.product)
            seconds = self.seconds or plan.wishes.seconds * (4 if self.full else 1)
            environment = plan.wishes.python == "checkout"
            machine = self._machine(
                booted,
                root,
                directory,
                plan.parameters.split(),
                disks,
                seconds,
                environment=environment,
                processors=plan.wishes.processors,
                quick=not plan.wishes.alone,
            )
            ended = machine.run(_to_terminal if self.verbose else lambda _: None)
            results = Results.read(directory)
            faults = results.faults(plan, ended)
            passed = sum(outcome == "passed" for outcome in results.outcomes.values())
            spent = time.monotonic() - started
            took = f"{spent:.0f} s ({machine.computed:.0f} s of processors)"
            print(f"{booted.line} {plan.title}: {passed} passed, {len(faults)} faults, {took}", file=text)
            for name, outcome in results.outcomes.items():
                print(f"  {outcome:7} {name} ({results.seconds[name]:.1f} s)", file=text)
                for what, figure in results.figures.get(name, {}).items():
                    print(f"          {what}: {figure}", file=text)
            if faults:
                if not self.verbose:
                    text.write((directory / "output").read_text(errors="replace")[-20_000:])
                print("\n".join(f"  FAILED: {fault}" for fault in faults), file=text)
                text.write(crash((directory / "serial.log").read_bytes()))
                print(f"  serial log: {keep_log(directory)}", file=text)
        _say(text.getvalue().rstrip())
        return not faults

    def _root(self, *, installed: bool) -> Path:
        """The disk that a machine starts from."""
        if not installed:
            return self.image
        assert self.product is not None, "for a plan that needs the package it was installed"
        return self.product

    def _machine(
        self,
        booted: Kernel,
        root: Path,
        directory: Path,
        parameters: list[str],
        disks: list[Disk],
        seconds: float,
        *,
        environment: bool,
        processors: int,
        quick: bool,
    ) -> Machine:
        words, shared = [f"vm.checkout={CHECKOUT}"], [self.disks.checkout]
        if quick:
            words += quickly(self.accelerator, full=self.full)
        words += [*parameters, *self.parameters]  # last: the last of two that contradict each other holds
        if environment and self.disks.environment is not None:
            words.append("vm.venv=yes")
            shared.append(self.disks.environment)
        return Machine(
            booted, root, directory, self.accelerator, self.emulator, words, [*shared, *disks], seconds, processors
        )


@contextlib.contextmanager
def _directory(name: str) -> Iterator[Path]:
    """A directory for one machine's files, which goes with it."""
    directory = new_directory(name)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _to_terminal(data: bytes) -> None:
    """Passes on what the guest prints, while it prints it."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    """Whole lines, also when two machines end at the same time."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
