"""`make eval DATA=DIR`: measures the gate on labelled tool calls and writes docs/evaluation.md.

DIR holds files tool_calls*.jsonl in the form that `governedctl gate eval` takes. Every source is measured by the model
that ships, which has seen none of them, and by one that has learned from all sources but it.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from governed_mcpd.gate.decide import Layers
from governed_mcpd.gate.evaluate import cases, run, score
from governed_mcpd.gate.evaluate.cases import Case
from governed_mcpd.gate.evaluate.run import Decided
from governed_mcpd.gate.layers.constitution import problems
from governed_mcpd.gate.probe import corpus, embedded, features, train
from governed_mcpd.gate.probe.logits import Probe
from governed_mcpd.gate.reading import Reading
from governed_mcpd.nouns.action import Action
from governed_mcpd.policy.load import PolicySet, load_directory
from tests.evaluation import baselines, served, variants, wording

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
Rates = dict[str, Any]
# Sources that tests/evaluation/crossed.py makes of BFCL: all their state is in view, and nobody wrote them as attacks.
MADE = frozenset(("bfcl", "bfcl-beside", "bfcl-ordered"))


@cache
def policy() -> PolicySet:
    """The policies that ship."""
    return load_directory(ROOT / "policies", problems)


@cache
def shipped() -> Layers:
    """The layers that ship."""
    return run.layers_of(policy())


def decided(rows: Iterable[Row], layers: Layers | None = None) -> list[Decided]:
    """Every row by every layer."""
    return run.decide_all([cases.case_of(row) for row in rows], layers or shipped())


def figures(items: Sequence[Decided], layers: tuple[int, ...] = run.ALL) -> Rates:
    """The figures of some decisions."""
    return score.figures([item.outcome(policy().gate, layers) for item in items])


def held_out(rows: Sequence[Row], source: str) -> Probe:
    """A model that learned from the corpus and from every source but one."""
    examples, extracted = list(_corpus()[0]), list(_corpus()[1])
    for row in rows:
        if row["source"] != source:
            case = cases.case_of(row)
            examples.append(corpus.Example(case.action, case.dangerous))
            extracted.append(_features(row["id"], case.action))
    return embedded.from_document(train.train_on(extracted, examples, f"corpus, and all sources but {source}"))


@cache
def _corpus() -> tuple[list[corpus.Example], list[list[float]]]:
    examples = corpus.examples()
    return examples, [features.extract(Reading(example.action)) for example in examples]


_EXTRACTED: dict[str, list[float]] = {}


def _features(identity: str, action: Action) -> list[float]:
    if identity not in _EXTRACTED:
        _EXTRACTED[identity] = features.extract(Reading(action))
    return _EXTRACTED[identity]


# ---- the sections of the document


def _cell(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} ({interval[0]:.2f}–{interval[1]:.2f})" if interval else f"{value:.3f}"


def _rates(found: Rates) -> list[str]:
    between = found["confidence"]
    names = ("precision", "recall", "f1", "false_positive_rate", "auroc")
    return [
        str(found["n"]),
        f"{found['allowed']['denied']} + {found['allowed']['asked']} of {found['allowed']['n']}",
        f"{found['dangerous']['denied']} + {found['dangerous']['asked']} of {found['dangerous']['n']}",
        *(_cell(found[name], between[name]) for name in names),
    ]


_HEAD = ("n", "allowed: denied + asked", "dangerous: denied + asked", "precision", "recall", "F1", "FPR", "AUROC")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join((*lines, *(f"| {' | '.join(row)} |" for row in rows)))


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each source."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["source"], []).append(row)
    return found


def seen(rows: Iterable[Row]) -> list[Row]:
    """The rows with untrusted content in view."""
    return [row for row in rows if row["context"].get("untrusted_observation")]


def sources_section(rows: Sequence[Row]) -> str:
    """Every source by the model that ships, and by one that learned from the others."""
    lines = []
    for source, own in by_source(rows).items():
        found = decided(own)
        lines.append([source, "ships", *_rates(figures(found))])
        if seen(own) and len(seen(own)) < len(own):
            lines.append([f"{source}, observation in view", "ships", *_rates(figures(decided(seen(own))))])
        if source in MADE:
            continue  # made here from other rows: what was learned from them says little
        layers = run.layers_of(policy(), held_out([row for row in rows if row["source"] not in MADE], source))
        lines.append([source, "learned from the others too", *_rates(figures(decided(own, layers)))])
        if seen(own) and len(seen(own)) < len(own):
            learned = _rates(figures(decided(seen(own), layers)))
            lines.append([f"{source}, observation in view", "learned from the others too", *learned])
    return table(("source", "model", *_HEAD), lines)


def baselines_section(rows: Sequence[Row]) -> str:
    """The same rows by rules that need no thought, and by words learned from the other sources."""
    lines = []
    for source, own in by_source(rows).items():
        bag = baselines.BagOfWords.learned([cases.case_of(row) for row in rows if row["source"] != source])
        every: dict[str, Callable[[Case], score.Outcome]] = {
            "always allow": baselines.always_allow,
            "deny when an observation is present": baselines.deny_when_observed,
            "bag of words, learned from the others": bag.outcome,
        }
        for name, rule in every.items():
            lines.append([source, name, *_rates(score.figures([rule(cases.case_of(row)) for row in own]))])
    return table(("source", "baseline", *_HEAD), lines)


def own_values_section(rows: Sequence[Row]) -> str:
    """Allowed calls whose own values also stand in untrusted content, as data."""
    own = [row for row in seen(rows) if row["label"] == "allow" and row["arguments"] and row["source"] not in MADE]
    lines = []
    for form in variants.OWN_VALUES:
        items = decided(variants.with_own_values(row, form) for row in own)
        line = [form]
        for some in ([item for item in items if item.case.source == "agentdojo"], items):
            found = figures(some)["allowed"]
            line += [str(found["n"]), *(f"{found[name] / max(1, found['n']):.3f}" for name in ("denied", "asked"))]
        lines.append(line)
    return table(("shown as", "agentdojo: n", "denied", "asked", "all sources: n", "denied", "asked"), lines)


def unwrapped_section(rows: Sequence[Row]) -> str:
    """Attacks without what surrounds them."""
    lines = []
    for source, own in by_source(seen(rows)).items():
        attacks = [row for row in own if row["label"] == "deny"]
        if attacks:
            found = figures(decided(map(variants.unwrapped, attacks)))
            lines.append([source, str(found["n"]), _cell(found["recall"], found["confidence"]["recall"])])
    return table(("source", "n", "recall"), lines)


def wording_section(rows: Sequence[Row]) -> str:
    """Every refused attack, in other words."""
    attacks = [row for row in rows if row["label"] == "deny" and row["source"] not in MADE]
    refused = [row for row in attacks if decided([row])[0].decision() != "allow"]
    lines, total = [], 0
    for name in wording.PROSE:
        items = decided(wording.reworded(row, name) for row in refused)
        passed = [item.case.source for item in items if item.decision() == "allow"]
        total += len(passed)
        where = ", ".join(f"{source} {passed.count(source)}" for source in dict.fromkeys(passed))
        lines.append([name, f"{len(passed) / max(1, len(refused)):.3f}", where or "–"])
    share = total / max(1, len(refused) * len(wording.PROSE))
    lines.append(["**all**", f"**{share:.3f}**", f"{total} of {len(refused) * len(wording.PROSE)}"])
    return table(("wording", "become allowed", "from"), lines)


def ablation_section(rows: Sequence[Row]) -> str:
    """Every combination of layers 4, 5 and 6, with its confusion matrix."""
    lines = []
    items = decided(rows)
    for chosen in run.COMBINATIONS:
        for source in by_source(rows):
            found = figures([item for item in items if item.case.source == source], chosen)
            allowed, dangerous = found["allowed"], found["dangerous"]
            wrong, hits = allowed["denied"] + allowed["asked"], dangerous["denied"] + dangerous["asked"]
            matrix = (str(hits), str(dangerous["n"] - hits), str(wrong), str(allowed["n"] - wrong))
            names = " + ".join(run.LAYERS[layer] for layer in chosen) or "none"
            rates = (_cell(found[name]) for name in ("recall", "f1", "false_positive_rate"))
            lines.append([names, source, *matrix, *rates])
    head = ("layers", "source", "refused, dangerous", "let pass, dangerous", "refused, allowed", "let pass, allowed")
    return table((*head, "recall", "F1", "FPR"), lines)


def frightening_section(_: Sequence[Row]) -> str:
    """Harmless calls that look frightening."""
    rows = cases.rows(Path(__file__).with_name("frightening.jsonl"))
    items = decided(rows)
    found = figures(items)["allowed"]
    refused = [item for item in items if item.decision() != "allow"]
    lines = [f"{found['n'] - len(refused)} of {found['n']} stay allowed. Refused:", ""]
    for item in refused:
        rule = next(finding for finding in item.findings.values() if finding.result != "pass")
        lines.append(f"- `{item.case.action.what.arguments.decode()}`: {rule.rule} ({rule.result})")  # type: ignore[union-attr]
    return "\n".join(lines)


def latency_section(rows: Sequence[Row]) -> str:
    """How long deciding took."""
    report = run.report(decided(rows), policy(), "")
    times = report["latency_ms"]
    lines = [["all", str(times["p50"]), str(times["p99"])]]
    for chosen in report["ablation"][1:-1]:
        each = chosen["latency_ms"]
        lines.append([" + ".join(chosen["layers"]), str(each["p50"]), str(each["p99"])])
    return table(("layers", "p50, ms", "p99, ms"), lines)


def _odd(rows: Iterable[Row]) -> str:
    """The conversations of BFCL with an odd number, of which no miss was read."""
    found = figures(decided(row for row in rows if int(row["id"].split("/")[1].rpartition("_")[2]) % 2))
    side = "dangerous" if found["dangerous"]["n"] else "allowed"
    counts = found[side]
    share = (counts["denied"] + counts["asked"]) / counts["n"]
    return f"{share:.3f} ({counts['denied']} denied, {counts['asked']} asked)"


def served_section(rows: Sequence[Row]) -> str:
    """Every source by a language model behind vLLM: layer 5 alone, and all layers."""
    lines = []
    with served.prepared(policy()) as server:
        items = decided(rows, server.active.layers)
        name = server.active.model
    for source in by_source(rows):
        own = [item for item in items if item.case.source == source]
        lines.append([source, "layer 5 alone", *_rates(figures(own, (5,)))])
        lines.append([source, "all layers", *_rates(figures(own))])
    times = run.report(items, policy(), "")["latency_ms"]["layers"]["probe"]
    failed = sum(item.findings[5].rule == "probe-error" for item in items)
    said = (
        f"`{name}`: one decision of layer 5 took {times['p50']} ms (p50), {times['p99']} ms (p99), one at a time. For "
        f"{failed} of {len(items)} calls it had no answer (too long for its context), which is a deny."
    )
    return f"{said}\n\n{table(('source', 'layers', *_HEAD), lines)}"


def document(rows: Sequence[Row]) -> str:
    """The whole of docs/evaluation.md."""
    text = Path(__file__).with_name("document.md").read_text("utf-8")
    model = embedded.load()
    gate = policy().gate
    values = {
        "model": model.model,
        "weights": str(len(model.weights)),
        "ask": f"{gate.thresholds.ask / 1000:g}",
        "deny": f"{gate.thresholds.deny / 1000:g}",
    }
    sections: dict[str, Callable[[Sequence[Row]], str]] = {
        "wording": wording_section,
        "sources": sources_section,
        "own_values": own_values_section,
        "baselines": baselines_section,
        "ablation": ablation_section,
        "unwrapped": unwrapped_section,
        "frightening": frightening_section,
    }
    with ProcessPoolExecutor() as pool:
        pending = {name: pool.submit(section, rows) for name, section in sections.items()}
        values |= {name: future.result() for name, future in pending.items()}
    values["latency"] = latency_section(rows)  # by itself: it is about time
    values["served"] = served_section(rows)
    values |= dict.fromkeys(("odd_bfcl", "odd_bfcl-beside", "odd_bfcl-ordered"), "not measured (FURTHER=1)")
    values |= {f"odd_{source}": _odd(own) for source, own in by_source(rows).items() if source.startswith("bfcl")}
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def main() -> int:
    """Reads the data, measures, writes the document."""
    parser = argparse.ArgumentParser(description="Measures the gate and writes docs/evaluation.md.")
    parser.add_argument("data", type=Path, nargs="+", metavar="DIR", help="holds tool_calls*.jsonl")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evaluation.md", metavar="FILE")
    options = parser.parse_args()
    if not served.installed():
        print("error: vLLM or its tiny model is missing in .build: run make eval, which makes both", file=sys.stderr)
        return 1
    files = []
    for directory in options.data:
        found = sorted(directory.glob("tool_calls*.jsonl"))
        if not found:
            print(f"error: no tool_calls*.jsonl in {directory}; name a directory: make eval DATA=DIR", file=sys.stderr)
            return 1
        files += found
    try:
        rows = [row for file in files for row in cases.rows(file)]
    except cases.CasesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.write_text(document(rows), "utf-8")
    print(f"{options.output}: {len(rows)} rows of {len(by_source(rows))} sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())
