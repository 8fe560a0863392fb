"""The command line of vm-tests/run."""

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

from harness import checkout
from harness.image import image
from harness.kernels import METAPACKAGES, Kernel, kernel
from harness.machine import Disk, Machine, accelerator, keep_log, new_directory
from harness.plan import Plan, plans
from harness.product import product
from harness.results import Results
from harness.tools import CHECKOUT, Trouble, check_host, sparse


def arguments(words: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="vm-tests/run", description="Runs tests in virtual machines.")
    parser.add_argument("kernel", choices=[*METAPACKAGES, "all"], help="which of Debian's kernels")
    parser.add_argument("tests", nargs="*", help="FILE or FILE::TEST in vm-tests (default: all files)")
    parser.add_argument("--full", action="store_true", help="more attempts, and the machines that only a full run has")
    parser.add_argument("--command", help="instead of tests: one shell command, in the checkout, without systemd")
    parser.add_argument(
        "--installed", action="store_true", help="the command runs under systemd, the package installed"
    )
    parser.add_argument("--package", type=Path, help="the Debian package to install instead of the checkout's")
    parser.add_argument("--parameters", default="", help="further words for the kernel's command line")
    parser.add_argument("--seconds", type=float, help="how long one machine may take (default: what its file says)")
    parser.add_argument("--verbose", action="store_true", help="what pytest prints, while it prints it")
    return parser.parse_args(words)


def to_terminal(data: bytes) -> None:
    """Passes on what the guest prints, while it prints it."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def run_command(booted: Kernel, chosen: argparse.Namespace) -> int:
    """Boots, with the package under systemd or with neither, runs a command, and returns its exit status."""
    started = time.monotonic()
    seconds = chosen.seconds or 600
    directory = new_directory(f"{booted.line}-command")
    parameters = [f"vm.checkout={CHECKOUT}", *chosen.parameters.split()]
    if not chosen.installed:
        parameters.append(f"vm.init={CHECKOUT}/vm-tests/guest/quick")
    try:
        job = json.dumps({"prepare": ["bash", ".vm-run/command"]})
        disks = checkout.disks(directory, {"job.json": job, "command": chosen.command})
        root = product(booted, chosen.package) if chosen.installed else image()
        machine = Machine(booted, root, directory, accelerator(booted), parameters, disks, seconds)
        ended = machine.run(to_terminal)
        results = Results()
        for line in (directory / "result").read_text().splitlines():
            results.take(line)
        if ended != "off" or not results.done or results.broken:
            log = keep_log(directory)
            raise Trouble(
                f"the machine ended ({ended}, at most {seconds:.0f} s) without an exit status; its log: {log}"
            )
    finally:
        shutil.rmtree(directory)
    (status,) = results.statuses
    print(f"[{booted.line}: exit status {status}, {time.monotonic() - started:.0f} s]", file=sys.stderr)
    return status


def run_tests(booted: Kernel, plan: Plan, chosen: argparse.Namespace) -> bool:
    """One machine for one plan; prints what it found. True when all that was expected passed."""
    started = time.monotonic()
    print(f"{booted.line} {plan.title}", flush=True)
    directory = new_directory(f"{booted.line}-{Path(plan.file).stem}")
    try:
        tests = [f"{plan.file}::{test}" for test in plan.chosen] or [plan.file]
        job = json.dumps({"tests": tests, "python": plan.wishes.python, "full": chosen.full})
        disks = checkout.disks(directory, {"job.json": job, "kernel": booted.release})
        for serial, mebibytes in plan.wishes.disks.items():
            disks.append(Disk(serial, sparse(directory / f"disk-{serial}", mebibytes), read_only=False))
        root = product(booted, chosen.package) if plan.wishes.product else image()
        parameters = [f"vm.checkout={CHECKOUT}", *plan.parameters.split(), *chosen.parameters.split()]
        seconds = chosen.seconds or plan.wishes.seconds * (4 if chosen.full else 1)
        machine = Machine(booted, root, directory, accelerator(booted), parameters, disks, seconds)
        ended = machine.run(to_terminal if chosen.verbose else lambda _: None)
        results = Results()
        for line in (directory / "result").read_text().splitlines():
            results.take(line)
        faults = results.faults(plan, ended)
        for name, outcome in results.outcomes.items():
            print(f"  {outcome:7} {name.partition('::')[2]} ({results.seconds[name]:.1f} s)")
        if faults:
            if not chosen.verbose:
                to_terminal((directory / "output").read_bytes()[-20_000:])
            print("\n".join(f"  FAILED: {fault}" for fault in faults))
            print(f"  serial log: {keep_log(directory)}")
    finally:
        shutil.rmtree(directory)
    passed = sum(outcome == "passed" for outcome in results.outcomes.values())
    print(f"{booted.line} {plan.title}: {passed} passed, {time.monotonic() - started:.0f} s", flush=True)
    return not faults


def main(words: list[str]) -> int:
    """0: all that was asked for passed. 1: it did not. 2: the harness could not run it."""
    chosen = arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that machines are ended and their files removed
    started = time.monotonic()
    try:
        found = plans(chosen.tests, chosen.full) if chosen.command is None else []
        check_host()
        kernels = [kernel(line) for line in (METAPACKAGES if chosen.kernel == "all" else [chosen.kernel])]
        if chosen.command is not None:
            return max(run_command(booted, chosen) for booted in kernels)
        passed = [run_tests(booted, plan, chosen) for booted in kernels for plan in found]
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 2
    machines = f"{sum(passed)} of {len(passed)} machines"
    print(f"virtual machines: {machines} without a fault, {(time.monotonic() - started) / 60:.1f} min")
    return 0 if all(passed) else 1
