"""`python -m governed_mcpd.gate.probe.train`: fits the embedded model and writes its artifact.

Logistic regression with an L2 penalty, by Newton's method in plain Python: the loss is convex, so the result does not
depend on a starting point, and the weights are rounded, so that it does not depend on the last bits either. The
features are shifted by α times their mean over the null actions, as the calibration does when the gate runs, so that
P(dangerous) is calibrated as it is used. There is no intercept: an action that shows nothing scores one half.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from governed_mcpd.gate.evaluate import cases
from governed_mcpd.gate.probe import corpus, features, selftest
from governed_mcpd.gate.probe.embedded import ARTIFACT, FORMAT, from_document
from governed_mcpd.gate.probe.logits import Calibration, ProbeError, sigmoid
from governed_mcpd.gate.reading import Reading

_PENALTY = 2.0
_STEPS = 30
_DIGITS = 3
Matrix = list[list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the artifact (or --output), prints what it scores on its own corpus."""
    parser = argparse.ArgumentParser(description="Trains the embedded model of the gate.")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="labelled tool calls (JSON lines) to train on besides"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(ARTIFACT), metavar="FILE")
    options = parser.parse_args(arguments)
    examples = corpus.examples()
    source = f"governed_mcpd.gate.probe.corpus, seed {corpus.SEED}, {len(examples)} examples"
    if options.data is not None:
        try:
            extra, _ = cases.read(options.data)
        except cases.CasesError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        examples += [corpus.Example(case.action, case.dangerous) for case in extra]
        source += f"; {options.data.name}, {len(extra)} rows"
    document = train(examples, source)
    options.output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    head = from_document(document)
    try:
        bias = selftest.prove(head)
    except ProbeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    calibration = Calibration(bias, selftest.ALPHA)
    right = sum(
        (calibration.dangerous(head.probe(Reading(example.action))) >= 0.5) is example.dangerous for example in examples
    )
    print(f"{options.output}: {document['model']}; {right} of {len(examples)} of its own examples on the right side")
    return 0


def train(examples: Sequence[corpus.Example], source: str) -> dict[str, object]:
    """The artifact for `examples`: the same examples, the same bytes."""
    return train_on([features.extract(Reading(example.action)) for example in examples], examples, source)


def train_on(rows: Sequence[list[float]], examples: Sequence[corpus.Example], source: str) -> dict[str, object]:
    """The same from features that were extracted before, one row for each example."""
    nulls = [features.extract(Reading(action)) for action in selftest.NULLS]
    shift = [selftest.ALPHA * math.fsum(column) / len(nulls) for column in zip(*nulls, strict=True)]
    shifted = [[value - offset for value, offset in zip(row, shift, strict=True)] for row in rows]
    weights = _fit(shifted, [example.dangerous for example in examples], [example.weight for example in examples])
    rounded = {name: round(weight, _DIGITS) for name, weight in zip(features.NAMES, weights, strict=True)}
    return {
        "format": FORMAT,
        "model": "embedded-" + hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()[:12],
        "what": "a logistic head over hand-made features; not a language model",
        "features_version": features.version(),
        "trained_on": source,
        "corpus_sha256": _corpus_hash(rows, examples),
        "alpha": selftest.ALPHA,
        "penalty": _PENALTY,
        "weights": rounded,
    }


def _corpus_hash(rows: Sequence[Sequence[float]], examples: Sequence[corpus.Example]) -> str:
    hasher = hashlib.sha256()
    for row, example in zip(rows, examples, strict=True):
        numbers = " ".join(f"{value:.4f}" for value in row)
        hasher.update(f"{int(example.dangerous)} {example.weight:.2f} {numbers}\n".encode())
    return hasher.hexdigest()


def _fit(rows: Sequence[Sequence[float]], labels: Sequence[bool], counts: Sequence[float]) -> list[float]:
    """Newton's method on the penalised log loss, with equal total weight for both labels."""
    positive = math.fsum(count for count, label in zip(counts, labels, strict=True) if label)
    negative = math.fsum(counts) - positive
    scale = [
        count * (0.5 * (positive + negative) / (positive if label else negative))
        for count, label in zip(counts, labels, strict=True)
    ]
    size = len(rows[0])
    sparse = [[(index, value) for index, value in enumerate(row) if value] for row in rows]
    weights = [0.0] * size
    for _ in range(_STEPS):
        gradient = [_PENALTY * weight for weight in weights]
        hessian: Matrix = [[_PENALTY if i == j else 0.0 for j in range(size)] for i in range(size)]
        for row, label, times in zip(sparse, labels, scale, strict=True):
            score = sigmoid(sum(weights[index] * value for index, value in row))
            error, curve = times * (score - label), times * score * (1.0 - score)
            for index, value in row:
                gradient[index] += error * value
                line = hessian[index]
                for other, second in row:
                    line[other] += curve * value * second
        step = _solve(hessian, gradient)
        weights = [weight - change for weight, change in zip(weights, step, strict=True)]
        if max(map(abs, step)) < 1e-10:
            break
    return weights


def _solve(matrix: Matrix, right: list[float]) -> list[float]:
    """Gaussian elimination; the penalty makes the matrix positive definite, so no pivot vanishes."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for at in range(size):
        for below in range(at + 1, size):
            factor = rows[below][at] / rows[at][at]
            if factor:
                rows[below] = [low - factor * high for low, high in zip(rows[below], rows[at], strict=True)]
    result = [0.0] * size
    for at in range(size - 1, -1, -1):
        result[at] = (rows[at][size] - sum(rows[at][j] * result[j] for j in range(at + 1, size))) / rows[at][at]
    return result


if __name__ == "__main__":
    sys.exit(main())
