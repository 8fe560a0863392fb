"""The command line of vm-tests/run."""

import argparse
import os
import signal
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from harness.checkout import disks
from harness.emulator import emulator
from harness.image import image
from harness.kernels import METAPACKAGES, Kernel, kernel
from harness.machine import accelerator
from harness.plan import Plan, plans
from harness.product import package, product
from harness.session import Session
from harness.slots import Slots
from harness.tools import STOP, Trouble, check_host


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
    # More than there are processors get in each other's way: unsealed had 118 s of them where two machines ran on two
    # processors, and 172 s where three did.
    jobs = min(os.cpu_count() or 1, 4)
    parser.add_argument("--jobs", type=int, default=jobs, help="machines at the same time at most")
    parser.add_argument("--verbose", action="store_true", help="what pytest prints, while it prints it")
    return parser.parse_intermixed_args(words)


def run_all(session: Session, kernels: list[Kernel], found: list[Plan], jobs: int) -> list[bool]:
    """All plans on all kernels: as many at a time as the host has processors for, and those that measure time after
    the others."""
    # The slow ones first, so that none of them is left over at the end for one processor alone.
    ordered = sorted(found, key=lambda plan: -plan.wishes.seconds)
    pairs = [(booted, plan) for plan in ordered for booted in kernels]
    passed: list[bool] = []
    for alone in (False, True):
        passed += beside_each_other(session, [pair for pair in pairs if pair[1].wishes.alone == alone], jobs)
    return passed


def beside_each_other(session: Session, pairs: list[tuple[Kernel, Plan]], jobs: int) -> list[bool]:
    """Runs machines. When one cannot be run, none goes on."""
    # A machine with two processors mostly uses one. Where there are more of them than this, a processor that has a lock
    # is not running now and then, and the other of its machine turns in a circle: five machines on two processors had
    # 821 s of them for what took 670 with two.
    slots = Slots(
        [plan.wishes.processors for _, plan in pairs], processors=2 * (os.cpu_count() or 1), machines=max(jobs, 1)
    )

    first: list[BaseException] = []

    def run(number: int) -> bool:
        try:
            with slots.taken(number):
                return session.run_tests(*pairs[number])
        except BaseException as error:
            first.append(error)  # those that come after it are for STOP
            STOP.set()
            raise

    with ThreadPoolExecutor(max_workers=max(len(pairs), 1)) as pool:
        try:
            running = [pool.submit(run, number) for number in range(len(pairs))]
            wait(running, return_when=FIRST_EXCEPTION)
            if first:
                raise first[0]
            return [one.result() for one in running]
        except BaseException:
            STOP.set()
            raise


def main(words: list[str]) -> int:
    """0: all that was asked for passed. 1: it did not. 2: the harness could not run it."""
    chosen = arguments(words)
    # As an interrupt at the terminal: machines are ended, and their files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        found = plans(chosen.tests, chosen.full) if chosen.command is None else []
        check_host()
        lines = METAPACKAGES if chosen.kernel == "all" else [chosen.kernel]
        installed = chosen.installed or any(plan.wishes.product for plan in found)
        needed = installed or any(plan.wishes.installs for plan in found)
        # The image beside the rest: it waits for a mirror, and has one processor busy. Kernels and package, which both
        # use the host's apt, one after the other.
        with ThreadPoolExecutor(max_workers=1) as beside:
            imaged = beside.submit(image)
            try:
                kernels = [kernel(line) for line in lines]
                means = accelerator(kernels[0])
                program = emulator(means)
                built = (chosen.package.read_bytes() if chosen.package else package()) if needed else None
                base = imaged.result()
            except BaseException:
                STOP.set()
                raise
        with disks() as shared:
            session = Session(
                base.disk,
                built,
                product(base, built) if installed and built is not None else None,
                shared,
                means,
                program,
                tuple(chosen.parameters.split()),
                chosen.seconds,
                chosen.full,
                chosen.verbose,
            )
            if chosen.command is not None:
                return max(session.run_command(booted, chosen.command) for booted in kernels)
            passed = run_all(session, kernels, found, chosen.jobs)
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 2
    machines = f"{sum(passed)} of {len(passed)} machines"
    print(f"virtual machines: {machines} without a fault, {(time.monotonic() - started) / 60:.1f} min")
    return 0 if all(passed) else 1
