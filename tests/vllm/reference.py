"""What transformers computes for the same prompts, in the environment that has it."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.vllm.engine import MODEL, PYTHON

_PROGRAM = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
directory, prompts, labels = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
found = []
for prompt in prompts:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1].double()
    some = logits[labels]
    found.append([*some.tolist(), *(some - logits.logsumexp(0)).tolist(), ids.shape[1]])
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Forward:
    """Logits and log-probabilities of the two verdict tokens after one prompt, and its length in tokens."""

    safe: float
    dangerous: float
    log_safe: float
    log_dangerous: float
    tokens: int


def forward(prompts: Sequence[str], labels: Sequence[int], model: Path = MODEL) -> tuple[Forward, ...]:
    """One forward pass for each prompt."""
    return _forward(tuple(prompts), tuple(labels), model)


@cache
def _forward(prompts: tuple[str, ...], labels: tuple[int, ...], model: Path) -> tuple[Forward, ...]:
    done = subprocess.run(
        [PYTHON, "-c", _PROGRAM],
        input=json.dumps([str(model), prompts, labels]),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(Forward(*row) for row in json.loads(done.stdout))
