"""`python tests/packaging/serve_options.py`, with a Python that has vLLM: whether vLLM's own parser takes the file."""

import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "packaging" / "vllm" / "serve.yaml"


def main() -> int:
    """Has vLLM parse the file as its server would; prints what it understood."""
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    taken = make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", str(FILE)])
    print(taken.model, taken.tensor_parallel_size, taken.pipeline_parallel_size, taken.data_parallel_size)
    return 0 if taken.enable_prefix_caching and taken.host == "127.0.0.1" else 1


if __name__ == "__main__":
    sys.exit(main())
