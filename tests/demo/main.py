"""The main job on real input: an unmodified MCP server under the launcher, and a repository that attacks.

The daemon and the gate run with the embedded model; a client of the official SDK calls mcp-server-git on a repository
whose post-commit hook reads a key, sends it away and plants a line in ~/.bashrc. Once as an ordinary user, once as
root. Exits non-zero when anything that it claims did not happen.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.demo.scene import Scene
from tests.support.instance import Instance
from tests.support.users import ROOT, USER, identity

TASK = "Commit the meeting notes in notes.txt"
CLIENT = Path(__file__).with_name("client.py")
console = Console(width=None if sys.stdout.isatty() else 150)
Record = Mapping[str, Any]


def main() -> int:
    """Plays the scene for both users and says what was shown."""
    if os.geteuid() != 0:
        print("make demo: root is needed to supervise other users' processes: run `sudo make demo`", file=sys.stderr)
        return 1
    shown: list[tuple[str, bool]] = []
    with Instance() as instance:
        status = instance.status()
        console.print(
            f"seal: {status.seal} ({status.seal_reason}). What is refused here is refused by seccomp and "
            "Landlock; a thread that rewrites its arguments in time could still switch the object of an approved "
            "effect.",
            soft_wrap=True,
        )
        for user, name in ((USER, f"uid {USER}"), (ROOT, "root")):
            shown += play(instance, user, name)
        shown.append(("journal verify", verify(instance)))
    console.print()
    for what, happened in shown:
        console.print(Text.assemble(("  shown  ", "green") if happened else (" MISSING ", "bold red"), " ", what))
    return 0 if all(happened for _, happened in shown) else 1


def play(instance: Instance, user: int, name: str) -> list[tuple[str, bool]]:
    """The client's calls as one user, the table of what happened, and the claims about it."""
    console.rule(f"as {name}")
    scene = Scene(instance, user)
    outside = scene.hook_works_outside()
    before = len(instance.journal())
    answers = call_tools(instance, scene)
    records = instance.journal()[before:]
    for answer in answers:
        console.print(Text(f"{answer['tool']}: {'error' if answer['error'] else 'ok'}: {shorten(answer['text'])}"))
    effects = [record for record in records if record["kind"] == "effect"]
    console.print(summary(effects))
    console.print(refusals(effects))
    scene.listener.close()
    home = str(scene.home)
    port = scene.listener.port
    return [
        (f"{name}: outside a sandbox the hook steals the key and changes ~/.bashrc", outside),
        (
            f"{name}: git_status, git_add, git_commit and git_log succeed",
            len(answers) == 4 and not any(answer["error"] for answer in answers),
        ),
        (
            f"{name}: the commit is in the repository",
            "Add the meeting notes" in str(answers[-1]["text"]) if answers else False,
        ),
        (
            f"{name}: the hook's read of ~/.ssh/id_rsa was refused and recorded",
            refused(effects, "file.read", f"{home}/.ssh/id_rsa"),
        ),
        (
            f"{name}: the hook's connection was refused and recorded",
            refused(effects, "net.connect", f"tcp:127.0.0.1:{port}"),
        ),
        (
            f"{name}: the hook's line for ~/.bashrc was refused and recorded",
            refused(effects, "file.write", f"{home}/.bashrc"),
        ),
        (f"{name}: the listener received nothing", scene.listener.connections == 0 and not scene.listener.received),
        (f"{name}: ~/.ssh/id_rsa and ~/.bashrc are unchanged", scene.untouched()),
        (f"{name}: every record names the seal", all(record["seal"] == "none" for record in effects)),
    ]


def call_tools(instance: Instance, scene: Scene) -> list[dict[str, Any]]:
    """Runs the client as the scene's user; what the tools answered, nothing when it failed."""
    programs = Path(sys.executable).parent
    launcher = instance.command(
        "run",
        "--profile",
        "demo",
        "--server",
        "mcp-server-git",
        "--task",
        TASK,
        "--quiet",
        "--",
        str(programs / "mcp-server-git"),
        "--repository",
        str(scene.repository),
    )
    done = subprocess.run(
        [sys.executable, str(CLIENT), str(scene.repository), *map(str, launcher)],
        env=instance.environment(scene.user),
        cwd=scene.repository,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
        **identity(scene.user),
    )
    if done.returncode != 0:
        console.print(Text(f"the client failed with {done.returncode}:\n{done.stderr[-3000:]}", style="red"))
        return []
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def refused(effects: Sequence[Record], operation: str, name: str) -> bool:
    return any(
        record["operation"] == operation and record["object"] == name and record["decision"] != "allow"
        for record in effects
    )


def summary(effects: Sequence[Record]) -> Table:
    """What was decided, by which layer and rule, with the times that threads were held."""
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for record in effects:
        key = (record["operation"], record["decision"], record["layer"], record["rule"])
        groups.setdefault(key, []).append(record["pause_us"])
    table = Table("operation", "decision", "layer", "rule", "times", "pause p50", "pause max", title="What was decided")
    for (operation, decision, layer, rule), pauses in sorted(groups.items()):
        pauses.sort()
        style = "" if decision == "allow" else "red"
        table.add_row(
            operation,
            decision,
            layer,
            rule,
            str(len(pauses)),
            f"{pauses[len(pauses) // 2]} µs",
            f"{pauses[-1]} µs",
            style=style,
        )
    return table


def refusals(effects: Sequence[Record]) -> Table:
    table = Table("record", "operation", "object", "layer/rule", "reason", title="What was refused")
    for record in effects:
        if record["decision"] != "allow":
            table.add_row(
                str(record["seq"]),
                record["operation"],
                Text(str(record["object"])),
                f"{record['layer']}/{record['rule']}",
                Text(shorten(str(record.get("reason", "")))),
            )
    return table


def verify(instance: Instance) -> bool:
    """`governedctl journal verify` over what was written."""
    done = instance.ctl("journal", "verify", "--state-dir", str(instance.state_dir))
    console.rule("governedctl journal verify")
    console.print(Text((done.stdout + done.stderr).strip()))
    return done.returncode == 0


def shorten(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 110 else line[:107] + "…"


if __name__ == "__main__":
    sys.exit(main())
