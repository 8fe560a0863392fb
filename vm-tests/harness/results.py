"""What a guest reported, and whether that is enough: all that was expected ran, and all that ran passed."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from harness.plan import Plan


@dataclass
class Results:
    """The events of one machine's result port, which are lines of JSON, in the order in which they came."""

    collected: list[str] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    # What tests measured (pytest's record_property), by name.
    figures: dict[str, dict[str, str]] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    done: bool = False
    broken: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> "Results":
        """What came out of the result port of a machine whose files lie there."""
        results = cls()
        for line in (directory / "result").read_text(errors="replace").splitlines():
            results.take(line)
        return results

    def take(self, line: str) -> None:
        """Adds one event. A line that cannot be read is kept as a fault: a guest that writes nonsense did not pass."""
        try:
            event = json.loads(line)
            match event["event"]:
                case "collected":
                    self.collected += event["tests"]
                case "test":
                    if event["id"] in self.outcomes:
                        self.broken.append(f"{event['id']} ran twice")
                    self.outcomes[event["id"]] = event["outcome"]
                    self.seconds[event["id"]] = event["seconds"]
                    self.figures[event["id"]] = dict(event["figures"])
                case "status":
                    self.statuses.append(event["status"])
                case "done":
                    self.done = True
                case other:
                    self.broken.append(f"the guest reported {other!r}, which nobody knows")
        except (ValueError, KeyError, TypeError):
            self.broken.append(f"the guest reported what cannot be read: {line[:200]!r}")

    def faults(self, plan: Plan, ended: str) -> list[str]:
        """Why this is not a success; empty when it is one."""
        found = list(self.broken)
        if ended != "off":
            found.append(
                {"timeout": "the machine did not end in time", "crashed": "the kernel crashed"}.get(ended, ended)
            )
        elif not self.done:
            found.append("the machine went off before its tests were through")
        if any(self.statuses):
            found.append(f"what ran in the machine ended with {', '.join(map(str, self.statuses))}")
        ran = {name.partition("[")[0] for name in self.outcomes}
        found += [f"{test} did not run" for test in plan.tests if test not in ran]
        found += [f"{name} was found, and did not run" for name in self.collected if name not in self.outcomes]
        found += [f"{name} {outcome}" for name, outcome in self.outcomes.items() if outcome != "passed"]
        return found
