"""make bench: what a pause, an approval, a sandbox, a layer and a record cost, in one run on one machine.

Prints a table (stderr) and JSON (stdout, or the file that --json names). A benchmark: it shows whether the targets were
reached, and fails only when something could not be measured.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import calls, layers, names, sandboxed
from tests.bench.figures import Run, publish

PARTS = ("open", "approvals", "start", "layers", "calls", "names")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="where the JSON goes (default: stdout)")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for looking, not for figures")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench: root is needed to supervise other users' processes: run `sudo make bench`", file=sys.stderr)
        return 1
    parts = options.only or PARTS
    run = Run()
    rounds = 2 if options.quick else 5
    if "layers" in parts:
        layers.measure(run, rounds, 300 if options.quick else 2000)
    if {"open", "approvals", "start"} & set(parts):
        with sandboxed.Bench() as bench:
            if "open" in parts:
                sandboxed.pauses(run, bench, rounds, 1000 if options.quick else 5000)
            if "start" in parts:
                sandboxed.starts(run, bench, 5 if options.quick else 25)
            if "approvals" in parts:
                sandboxed.throughput(run, bench, 1 if options.quick else 3, 1.0 if options.quick else 3.0)
    if "calls" in parts:
        calls.measure(run, rounds, 300 if options.quick else 1000)
    if "names" in parts:
        names.measure(run, rounds, 100 if options.quick else 300)
    publish(run, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
