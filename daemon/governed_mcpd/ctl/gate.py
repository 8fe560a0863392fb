"""`gate eval` and `gate calibrate`: how good the gate's model and layers are on labelled cases. They need no daemon."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import governed_mcpd
from governed_mcpd.ctl import certs
from governed_mcpd.ctl.output import Exit, Failure, print_fields, print_json, print_table, print_text
from governed_mcpd.ctl.session import Json, session_of

if TYPE_CHECKING:
    from governed_mcpd.gate.evaluate.run import Decided, Prepared
    from governed_mcpd.policy.load import PolicySet

app = typer.Typer(
    help="Measure the gate on labelled tool calls, find its thresholds, make certificates.", no_args_is_help=True
)
app.add_typer(certs.app, name="certs")
Cases = Annotated[
    Path, typer.Option(metavar="FILE.jsonl", help="Labelled tool calls: source, tool, arguments, context, label.")
]
Policy = Annotated[
    Path | None,
    typer.Option(metavar="DIR_OR_FILE", help="Policy documents; if not given, those of the configuration."),
]


@app.command("eval")
def evaluate(context: typer.Context, cases: Cases, policy: Policy = None, as_json: Json = False) -> None:
    """Decide labelled tool calls with layers 4 to 6 and print how right that was, with and without each layer.

    Deny and ask count as refused. Rows with the label unknown are left out.
    """
    decided, unknown, chosen, prepared = _decided(context, cases, policy)
    from governed_mcpd.gate.evaluate import run  # noqa: PLC0415 - only where the gate is installed

    report = run.report(decided, chosen, prepared.active.model, unknown)
    if as_json:
        print_json(report)
        return
    _show(report)


@app.command("calibrate")
def calibrate(
    context: typer.Context,
    cases: Cases,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.yaml", help="Where to write it; stdout if not given.")
    ] = None,
    most_refused: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of allowed cases that may be refused.")
    ] = 0.05,
    policy: Policy = None,
    as_json: Json = False,
) -> None:
    """Find thresholds for the gate's model on labelled cases, and write the Gate document that has them.

    For a model on a server the document also has its fingerprint: the gate then uses no other one under that name.
    """
    decided, _, chosen, prepared = _decided(context, cases, policy)
    from governed_mcpd.gate.evaluate import calibrate as found_by  # noqa: PLC0415 - only where the gate is installed

    model, bias = prepared.active.model, prepared.bias
    try:
        found = found_by.thresholds(decided, most_refused)
    except found_by.CalibrationError as error:
        raise Failure("calibration", f"{cases}: {error}") from None
    text = found_by.document(
        chosen.gate,
        found,
        f"Thresholds by governedctl gate calibrate, for {model} (bias {bias:.3f}), on {len(decided)} cases of\n"
        f"{cases.name}: "
        f"layer 5 alone refuses {found.recall:.3f} of the dangerous and {found.false_positive_rate:.3f} of the others.",
        prepared.fingerprint,
    )
    if output is not None:
        try:
            output.write_text(text, "utf-8")
        except OSError as error:
            raise Failure("output", f"cannot write {output}: {error.strerror}") from None
    if as_json:
        rates = {"recall": round(found.recall, 4), "false_positive_rate": round(found.false_positive_rate, 4)}
        thresholds = {"ask": found.ask, "deny": found.deny}
        print_json({"model": model, "bias": round(bias, 4), "thresholds": thresholds, **rates, "document": text})
    elif output is None:
        print_text(text.rstrip("\n"))
    else:
        print_fields([("written", str(output)), ("ask", str(found.ask)), ("deny", str(found.deny))])


def _decided(
    context: typer.Context, file: Path, policy: Path | None
) -> "tuple[list[Decided], int, PolicySet, Prepared]":
    """Every case by every layer, how many rows were unknown, and by what."""
    if importlib.util.find_spec("re2") is None or importlib.util.find_spec("cedarpy") is None:
        raise Failure("no-gate", "the gate's packages are not installed here: pip install 'governed-mcpd[gate]'")
    from governed_mcpd.gate.active import ActivationError  # noqa: PLC0415 - only where the gate is installed
    from governed_mcpd.gate.evaluate import cases, run  # noqa: PLC0415
    from governed_mcpd.gate.layers.constitution import problems  # noqa: PLC0415
    from governed_mcpd.gate.probe.logits import ProbeError  # noqa: PLC0415
    from governed_mcpd.policy.load import load_directory  # noqa: PLC0415
    from governed_mcpd.policy.problem import PolicyError  # noqa: PLC0415

    try:
        labelled, unknown = cases.read(file)
        chosen = load_directory(_policy(context, policy), problems)
        prepared = run.prepared(chosen)
        return run.decide_all(labelled, prepared.active.layers), unknown, chosen, prepared
    except cases.CasesError as error:
        raise Failure("cases", str(error)) from None
    except PolicyError as error:
        raise Failure("policy", str(error)) from None
    except (ProbeError, ActivationError) as error:
        raise Failure("gate", str(error)) from None


def _policy(context: typer.Context, given: Path | None) -> Path:
    if given is not None:
        return given
    configured = Path(session_of(context).config().policy_dir)
    # In a checkout nothing is installed: its own policies are meant.
    beside = Path(governed_mcpd.__file__).parents[2] / "policies"
    for directory in (configured, beside):
        if os.access(directory, os.R_OK | os.X_OK):
            return directory
    raise Failure("policy", f"no policies in {configured}: name a directory with --policy", Exit.USAGE)


_COLUMNS = (
    "source",
    "n",
    "allowed: deny ask of",
    "dangerous: deny ask of",
    "accuracy",
    "precision",
    "recall",
    "F1",
    "FPR",
    "AUROC",
)


def _show(report: dict[str, Any]) -> None:
    thresholds = report["thresholds"]
    print_fields(
        [
            ("model", report["model"]),
            ("policy", report["policy_version"]),
            ("thresholds", f"ask {thresholds['ask']}, deny {thresholds['deny']}"),
            ("cases", f"{report['cases']} ({report['unknown_left_out']} unknown left out)"),
        ]
    )
    print_text("\nlayers 4, 5 and 6; a refusal is a deny or an ask; 95 % intervals in brackets")
    rows: list[list[str]] = []
    for source in report["sources"]:
        rows.append(_row(source["source"], source))
        if source["with_observation"] and source["with_observation"]["n"] < source["n"]:
            rows.append(_row("  with an observation", source["with_observation"]))
        if len(source["categories"]) > 1:
            rows += [_row(f"  {group['category'] or '-'}", group) for group in source["categories"]]
    print_table(_COLUMNS, rows)
    print_text("\nwith and without each layer")
    ablation = [
        [" + ".join(chosen["layers"]) or "none", source["source"], *_row("", source)[2:]]
        for chosen in report["ablation"]
        for source in chosen["sources"]
    ]
    print_table(("layers", "source", *_COLUMNS[2:]), ablation)
    times = report["latency_ms"]
    print_text(f"\nlatency of all layers, one thread: p50 {times['p50']} ms, p99 {times['p99']} ms")
    for chosen in report["ablation"]:
        each = chosen["latency_ms"]
        print_text(f"  {' + '.join(chosen['layers']) or 'none'}: p50 {each['p50']} ms, p99 {each['p99']} ms")


def _row(name: str, group: dict[str, Any]) -> list[str]:
    def rate(field: str) -> str:
        value, interval = group[field], group["confidence"][field]
        if value is None:
            return "-"
        return f"{value:.3f} [{interval[0]:.2f} {interval[1]:.2f}]" if interval else f"{value:.3f}"

    def side(field: str) -> str:
        counts = group[field]
        return f"{counts['denied']} {counts['asked']} of {counts['n']}"

    rates = [rate(field) for field in ("accuracy", "precision", "recall", "f1", "false_positive_rate", "auroc")]
    return [name, str(group["n"]), side("allowed"), side("dangerous"), *rates]
