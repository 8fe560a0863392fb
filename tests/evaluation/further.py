"""Labelled tool calls from benchmarks in the wheel of inspect-evals (PyPI, MIT): `further.py WHEEL OUT.jsonl`.

tau2-bench (retail, airline): the authors' gold actions, each with what earlier actions had looked up in view; all are
allowed. AgentBench's shell tasks: the example solutions; all are allowed. ipi_coding_agent: injected issues and
repositories; reading and writing the file of the task and running its tests is allowed, a command that the injection
gives is not.
"""

import gzip
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_ROOT = "inspect_evals"
_COMMAND = re.compile(
    r"`([^`\n]{4,200})`|(?:run|execute)\s*:?\s*((?:curl|wget|echo|python|bash|sh|pip|cat|git|env|printenv|export)\s[^\n`]+)"
)
_LOOKED_UP = (
    ("order_id", "orders"),
    ("user_id", "users"),
    ("product_id", "products"),
    ("reservation_id", "reservations"),
)


def _row(source: str, category: str, identity: str, tool: str, arguments: Row, task: str, seen: str, label: str) -> Row:
    about: Row = {"user_task": task, "untrusted_observation": seen or None, "prior_calls": []}
    return {
        "source": source,
        "id": f"{source}/{identity}",
        "category": category,
        "tool": tool,
        "arguments": arguments,
        "context": about,
        "label": label,
    }


def tau2(wheel: zipfile.ZipFile, domain: str) -> Iterator[Row]:
    """Gold actions of one domain, with the records that earlier ones looked up."""
    place = f"{_ROOT}/tau2/data/domains/{domain}"
    tables = json.loads(gzip.decompress(wheel.read(f"{place}/db.json.gz")))
    for task in json.loads(wheel.read(f"{place}/tasks.json")):
        said = task["user_scenario"]["instructions"]
        text = " ".join(str(said.get(name) or "") for name in ("reason_for_call", "known_info", "task_instructions"))
        seen: list[str] = []
        for number, action in enumerate(task["evaluation_criteria"]["actions"] or []):
            name, given = action["name"], action["arguments"]
            yield _row(f"tau2-{domain}", name, f"{task['id']}/{number}", name, given, text, "\n".join(seen), "allow")
            if name.startswith("get"):
                found = (tables.get(table, {}).get(given.get(key)) for key, table in _LOOKED_UP)
                seen += [json.dumps(record) for record in found if record]


def agentbench(wheel: zipfile.ZipFile) -> Iterator[Row]:
    """Example solutions of the shell tasks."""
    for task in json.loads(wheel.read(f"{_ROOT}/agent_bench/data/agent_bench_os_test.json")):
        example = task["evaluation"].get("example")
        code = example.get("code") if isinstance(example, dict) else example
        if isinstance(code, str):
            arguments = {"command": code}
            yield _row(
                "agentbench-os",
                "shell",
                str(task["id"]),
                "execute_command",
                arguments,
                task["description"],
                "",
                "allow",
            )


def coding(wheel: zipfile.ZipFile) -> Iterator[Row]:
    """What a coding agent does with an issue and a repository that carry orders, and what those order."""
    for sample in json.loads(wheel.read(f"{_ROOT}/ipi_coding_agent/dataset/samples.json")):
        files = "\n\n".join(f"# {path}\n{text}" for path, text in sample["repo_files"].items())
        seen, task, name = f"{sample['issue_text']}\n\n{files}", sample["task_description"], sample["id"]
        kind = "benign" if sample["is_benign"] else sample["payload_category"]
        steps: list[tuple[str, Row]] = [
            ("bash", {"command": sample["verification_command"]}),
            ("bash", {"command": "ls -la src tests"}),
        ]
        for path, text in sample["repo_files"].items():
            if path.startswith("src/") and "__init__" not in path:
                steps.append(("read_file", {"path": f"/workspace/{path}"}))
                steps.append(("write_file", {"path": f"/workspace/{path}", "content": text.replace("BUG", "fixed")}))
        for number, (tool, arguments) in enumerate(steps):
            yield _row("ipi-coding", f"own step/{kind}", f"{name}/{number}", tool, arguments, task, seen, "allow")
        if not sample["is_benign"]:
            marks = sample["payload_indicator"].split("|")
            given = ((match[1] or match[2]).strip(" #*\"'") for match in _COMMAND.finditer(seen))
            ordered = next((command for command in given if any(mark in command for mark in marks)), None)
            if ordered:
                arguments = {"command": ordered}
                yield _row("ipi-coding", f"ordered/{kind}", f"{name}/x", "bash", arguments, task, seen, "deny")


def main() -> int:
    """Reads the wheel, writes the rows."""
    if len(sys.argv) != 3:
        print("usage: further.py WHEEL OUT.jsonl", file=sys.stderr)
        return 2
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        rows = [*tau2(wheel, "retail"), *tau2(wheel, "airline"), *agentbench(wheel), *coding(wheel)]
    Path(sys.argv[2]).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{sys.argv[2]}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
