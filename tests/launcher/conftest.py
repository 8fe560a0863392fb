"""A daemon whose default profile lets the launcher itself run inside a sandbox, from this checkout."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.instance import SHIPPED_POLICIES, Instance

CHECKOUT = Path(__file__).resolve().parents[2]


def profile() -> str:
    """The shipped default profile, and this checkout's programs in its envelope."""
    lines = []
    for line in (SHIPPED_POLICIES / "profile-default.yaml").read_text().splitlines():
        if line.strip().startswith("- /proc/"):
            continue  # they would take /proc itself apart, and with it /proc/self
        lines.append(line)
        if line.strip() in ("read:", "execute:"):
            lines += [f"    - {sys.prefix}", f"    - {CHECKOUT}/daemon"]
    return "\n".join(lines) + "\n"


def constitution() -> str:
    """The shipped one, which lets no agent start governedctl or speak to the daemon: here it may."""
    text = (SHIPPED_POLICIES / "constitution.yaml").read_text()
    for what in ('action == Action::"process.exec", resource', 'action in Action::"net", resource is Socket'):
        rule = f"forbid (principal, {what}) when {{ context.governed }};"
        assert rule in text
        text = text.replace(rule, rule.replace("context.governed", "false"))
    return text


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    instance = Instance(policies={"profile-default.yaml": profile(), "constitution.yaml": constitution()})
    path = instance.policy_dir / "profile-default.yaml"
    own = f"free:\n  - operations: [net.connect]\n    on: unix:{instance.runtime_dir}/sandbox.sock\n"
    path.write_text(path.read_text().replace("free:\n", own, 1))
    with instance:
        yield instance
