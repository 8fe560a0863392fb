"""The command line of vm-tests/run."""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from harness import checkout
from harness.image import image
from harness.kernels import METAPACKAGES, Kernel, kernel
from harness.machine import Machine, accelerator
from harness.tools import CACHE, CHECKOUT, Trouble, check_host


def arguments(words: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="vm-tests/run", description="Runs tests in a virtual machine.")
    parser.add_argument("kernel", choices=sorted(METAPACKAGES), help="which of Debian's kernels")
    parser.add_argument("tests", nargs="*", help="test files in vm-tests, with or without .py (default: all)")
    parser.add_argument("--command", help="instead of tests: one shell command, in the checkout, without systemd")
    parser.add_argument("--parameters", default="", help="further words for the kernel's command line")
    parser.add_argument("--seconds", type=float, default=600, help="how long one machine may take (600)")
    return parser.parse_args(words)


def to_terminal(data: bytes) -> None:
    """Passes on what the guest prints, while it prints it."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def one_command(booted: Kernel, words: argparse.Namespace) -> int:
    """Boots without systemd, runs a command, and returns its exit status."""
    started = time.monotonic()
    directory = CACHE / "runs" / f"{booted.line}-command-{time.time_ns()}"
    directory.mkdir(parents=True)
    parameters = [f"vm.checkout={CHECKOUT}", f"vm.init={CHECKOUT}/vm-tests/guest/quick", *words.parameters.split()]
    disks = checkout.disks(directory, {"command": words.command})
    machine = Machine(booted, image(), directory, accelerator(booted), parameters, disks, words.seconds)
    try:
        ended = machine.run(to_terminal)
        events = [json.loads(line) for line in (directory / "result").read_text().splitlines()]
        if ended != "off" or not events:
            kept = keep_log(directory)
            raise Trouble(
                f"the machine ended by {ended} without an exit status after {words.seconds:.0f} s at most: {kept}"
            )
    finally:
        shutil.rmtree(directory)
    print(f"[{booted.line}: exit status {events[-1]['status']}, {time.monotonic() - started:.0f} s]", file=sys.stderr)
    return int(events[-1]["status"])


def keep_log(directory: Path) -> Path:
    """Moves the serial log to where logs are kept."""
    kept = CACHE / "logs" / f"{directory.name}.log"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(directory / "serial.log", kept)
    return kept


def main(words: list[str]) -> int:
    """0: all that was asked for passed. 1: it did not. 2: the harness could not run it."""
    chosen = arguments(words)
    try:
        check_host()
        booted = kernel(chosen.kernel)
        if chosen.command is not None:
            return one_command(booted, chosen)
        raise Trouble("tests come next; --command works")
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 2
