"""The files of options that ship, as vLLM's own parser takes them."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.vllm.engine import PYTHON

SHIPPED = Path(__file__).parents[2] / "packaging" / "vllm"
PARSED = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
taken = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", sys.argv[1]]))
print(json.dumps({name: taken[name] for name in sys.argv[2:]}))
"""


def parsed(path: Path) -> subprocess.CompletedProcess[str]:
    names = [name.replace("-", "_") for name in yaml.safe_load(path.read_text())]
    command = [str(PYTHON), "-c", PARSED, str(path), *names]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)


@pytest.mark.parametrize("name", ["serve.yaml", "vllm.yaml"])
def test_vllm_takes_every_option_as_it_is_meant(name: str) -> None:
    done = parsed(SHIPPED / name)
    assert done.returncode == 0, done.stderr[-2000:]
    taken = json.loads(done.stdout.splitlines()[-1])
    for option, value in yaml.safe_load((SHIPPED / name).read_text()).items():
        found = taken[option.replace("-", "_")]
        assert (found if isinstance(value, list) or not isinstance(found, list) else found[0]) == value, option


def test_an_option_that_vllm_does_not_have_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "serve.yaml"
    wrong.write_text((SHIPPED / "serve.yaml").read_text() + "tensor-paralel-size: 2\n")
    done = parsed(wrong)
    assert done.returncode != 0
    assert "tensor-paralel-size" in done.stderr
