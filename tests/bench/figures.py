"""Percentiles, ratios and targets; the machine they are from; and how a person sees them."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """Many timings of one thing, in microseconds. `low` and `high` are the medians of the best and the worst round: how
    much the machine itself wavered."""

    count: int
    p50: float
    p99: float
    low: float
    high: float


def figure(rounds: Iterable[Sequence[int]]) -> Figure:
    """From nanoseconds, one sequence per round."""
    medians = []
    pooled: list[int] = []
    for taken in rounds:
        medians.append(statistics.median(taken))
        pooled += taken
    pooled.sort()
    return Figure(
        len(pooled),
        round(statistics.median(pooled) / 1e3, 2),
        round(pooled[min(len(pooled) - 1, len(pooled) * 99 // 100)] / 1e3, 2),
        round(min(medians) / 1e3, 2),
        round(max(medians) / 1e3, 2),
    )


def timed(call: Callable[[], object], count: int, warm_up: int = 50) -> list[int]:
    """Nanoseconds of each of `count` calls."""
    clock = time.perf_counter_ns
    for _ in range(warm_up):
        call()
    taken = []
    for _ in range(count):
        begun = clock()
        call()
        taken.append(clock() - begun)
    return taken


@dataclass(frozen=True, slots=True)
class Target:
    """What the project set itself, and what this run showed."""

    what: str
    value: float
    bound: float
    unit: str = ""
    at_most: bool = True

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(slots=True)
class Run:
    """Everything that one run found."""

    sections: dict[str, dict[str, Figure]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, object] = field(default_factory=lambda: machine())  # noqa: PLW0108 - the name is the field's here
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    load: list[float] = field(default_factory=lambda: [round(os.getloadavg()[0], 2)])

    def ratio(self, name: str, dividend: float, divisor: float) -> float:
        """Keeps dividend / divisor under `name`, and returns it."""
        self.ratios[name] = round(dividend / divisor, 3)
        return self.ratios[name]

    def as_json(self) -> dict[str, Any]:
        return {
            "began": self.began,
            "machine": self.machine,
            "load": [*self.load, round(os.getloadavg()[0], 2)],
            "unit": "microseconds",
            "sections": {
                name: {key: asdict(found) for key, found in rows.items()} for name, rows in self.sections.items()
            },
            "rates_per_second": self.rates,
            "ratios": self.ratios,
            "targets": [{**asdict(target), "reached": target.reached} for target in self.targets],
            "notes": self.notes,
        }


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def publish(run: Run, path: str | None) -> None:
    """The table to stderr; the JSON to the file, or to stdout."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140, highlight=False)
    about = ", ".join(f"{key} {value}" for key, value in run.machine.items())
    console.print(f"{run.began}: {about}; load {run.load[0]} → {os.getloadavg()[0]:.2f}", soft_wrap=True)
    for name, rows in run.sections.items():
        console.print(_section(name, rows))
    for title, values, form in (("per second", run.rates, "{:,.0f}"), ("ratios of this run", run.ratios, "{:.3f}")):
        if values:
            console.print(_values(title, values, form))
    for target in run.targets:
        sign = "≤" if target.at_most else "≥"
        style, said = ("green", "reached") if target.reached else ("bold red", "not reached")
        shown = f"{target.what}: {target.value:g} {target.unit}".rstrip()
        console.print(f"  [{style}]{said:<12}[/] {shown} ({sign} {target.bound:g})", soft_wrap=True)
    for note in run.notes:
        console.print(f"  note: {note}", soft_wrap=True, markup=False)
    text = json.dumps(run.as_json(), indent=2, ensure_ascii=False) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        Path(path).write_text(text)


def _section(name: str, rows: Mapping[str, Figure]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("µs")
    for head in ("p50", "p99", "medians of the rounds", "samples"):
        table.add_column(head, justify="right")
    for key, found in rows.items():
        table.add_row(
            key, f"{found.p50:,.1f}", f"{found.p99:,.1f}", f"{found.low:,.1f} – {found.high:,.1f}", str(found.count)
        )
    return table


def _values(title: str, values: Mapping[str, float], form: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for key, value in values.items():
        table.add_row(key, form.format(value))
    return table
