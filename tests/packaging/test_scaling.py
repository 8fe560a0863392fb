"""The configuration of a vLLM server that docs/scaling.md describes: every option is one that vLLM has."""

import re
from pathlib import Path

import yaml

from governed_mcpd.gate.text.words import words

ROOT = Path(__file__).parents[2]
FILE = ROOT / "packaging" / "vllm" / "serve.yaml"
# As `vllm serve --help` of vLLM 0.32 lists them; tests/vllm/served_options.py asks its own parser (make test-vllm).
KNOWN = frozenset(
    words(
        """
        model served-model-name host port dtype max-model-len enable-prefix-caching max-num-seqs gpu-memory-utilization
        tensor-parallel-size pipeline-parallel-size data-parallel-size data-parallel-backend
        distributed-executor-backend
        """
    )
)


def options() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(FILE.read_text())
    return found


def test_the_file_has_options_of_vllm_only_and_the_page_names_no_others() -> None:
    assert options().keys() <= KNOWN
    page = (ROOT / "docs" / "scaling.md").read_text().partition("## vLLM")[2]
    named = set(re.findall(r"`((?:[a-z]+-)*(?:parallel|caching|num|executor)-?[a-z-]*?)(?::[^`]*)?`", page))
    assert named, "the page names options"
    assert named <= KNOWN, named - KNOWN


def test_it_listens_on_loopback_and_caches_the_prefix() -> None:
    found = options()
    assert found["host"] == "127.0.0.1"
    assert found["enable-prefix-caching"] is True
    copies = int(str(found["data-parallel-size"])) * int(str(found["tensor-parallel-size"]))
    assert copies * int(str(found["pipeline-parallel-size"])) == 4  # GPUs, as its first lines say
