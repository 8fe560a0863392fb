"""The tiny model's training examples, as JSON lines: first what prompts share, then one prompt's rest with its label.

They are the actions of the embedded model's corpus, in the prompts that the gate sends, and those of the self-test,
many times: so that a toy passes it, and for no other reason. What prompts share differs from batch to batch: no
constitution, some of its sentences, all of them; with more and less filler. So the model judges under any of them; it
understands none. Runs in the product's environment; train.py, in the one that has torch.
"""

import json
import sys
from pathlib import Path
from random import Random

from governed_mcpd.gate.layers.constitution import ConstitutionLayer, problems
from governed_mcpd.gate.probe import corpus, selftest
from governed_mcpd.gate.probe.vllm.prompt import Template, Words
from governed_mcpd.gate.reading import Reading
from governed_mcpd.policy.load import load_directory

ROOT = Path(__file__).resolve().parents[3]
ROOM = 6000
_TIMES, _WEIGHT = 30, 3.0
WORDS = Words(" Safe", " Dangerous")


def heads() -> list[str]:
    """What prompts share, as often as each is to be used."""
    policy = load_directory(ROOT / "policies", problems)
    every = ConstitutionLayer(policy.constitutions).principles
    dice = Random(corpus.SEED)
    found = []
    for share in [0] * 12 + [8] * 5 + [len(every)] * 3:
        some = tuple(sorted(dice.sample(every, share), key=every.index))
        found.append(Template(WORDS, some, filler=dice.randrange(128)).head)
    return found


def main() -> None:
    """Writes them to stdout."""
    print(json.dumps({"heads": heads()}))
    frame = Template(WORDS)
    # What says nothing is as often the one as the other: a bias far from zero would shift what the toy learned.
    tested = [(selftest.GOOD, False), (selftest.BAD, True), (selftest.NULLS, True), (selftest.NULLS, False)]
    known = [corpus.Example(action, bad, _WEIGHT) for actions, bad in tested for action in actions] * _TIMES
    for example in (*corpus.examples(), *known):
        item, _ = frame.item(Reading(example.action), ROOM)
        row = {"item": item, "dangerous": example.dangerous, "weight": example.weight}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
