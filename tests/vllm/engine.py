"""A real vLLM server on the tiny model, as `make test-vllm` installs and builds them."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.vllm.web import exchange

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".build" / "vllm" / "bin" / "python"
MODEL = ROOT / ".build" / "tiny-model"
OTHER = ROOT / ".build" / "tiny-model-other"
NAME = "tiny"
LONGEST = 4096
START_SECONDS = 280
QUICK_SECONDS = 1.0
_OPTIONS = ("--dtype", "float32", "--max-model-len", str(LONGEST), "--enforce-eager", "--max-num-seqs", "32")
# A generative model made a classifier of the two verdict tokens (byte-level BPE writes the blank before a word as Ġ).
CLASSIFIER = (
    *("--runner", "pooling", "--hf-overrides"),
    json.dumps(
        {
            "architectures": ["LlamaForSequenceClassification"],
            "classifier_from_token": ["ĠSafe", "ĠDangerous"],
            "method": "no_post_processing",
        }
    ),
)


class Vllm:
    """One server. `start` and `kill` may alternate; it keeps its address."""

    def __init__(self, *options: str, model: Path = MODEL, unix: bool = False, alone: bool = False) -> None:
        """`unix`: at a socket that every user may connect to. `alone`: with a network of its own (as root)."""
        self._directory = tempfile.TemporaryDirectory(prefix="vllm-")
        self.base = Path(self._directory.name)
        self.base.chmod(0o755)
        self.log = self.base / "vllm.log"
        self._options = options
        self._model = model
        self._alone = alone and os.geteuid() == 0
        self.port = free_port()
        self.path = self.base / "vllm.sock" if unix else None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As a Gate document names it."""
        return f"unix:{self.path}" if self.path else f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Vllm":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            if self.healthy() and self._quick():
                return
            time.sleep(0.25)
        said = self.log.read_text(errors="replace")[-4000:]
        self.kill()
        raise AssertionError(f"vLLM did not start:\n{said}")

    def _quick(self) -> bool:
        """Asks as layer 5 does, for a short prompt and a long one, and says whether that took less than a decision may.
        A server's first answers take long: it makes their kernels meanwhile."""
        begun = time.monotonic()
        for words in (1, LONGEST // 4):
            text = "x " * words
            if CLASSIFIER[0] in self._options:
                self.ask("/classify", {"model": NAME, "input": [text], "use_activation": False})
            else:
                wish = {"max_tokens": 1, "temperature": 0, "logprobs": 0, "logprob_token_ids": [5, 6]}
                self.ask("/v1/completions", {"model": NAME, "prompt": [text], **wish})
        return time.monotonic() - begun < QUICK_SECONDS

    def launch(self) -> None:
        """Starts it."""
        address = ("--uds", str(self.path)) if self.path else ("--host", "127.0.0.1", "--port", str(self.port))
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._model)]
        command += ["--served-model-name", NAME, "--enable-prompt-tokens-details", *_OPTIONS, *address, *self._options]
        if self._alone:
            command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "vllm", *command]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": "2",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.base, start_new_session=True, umask=0
            )

    def kill(self) -> None:
        """Ends it and the processes it started, at once."""
        if self.process is None:
            return
        process, self.process = self.process, None
        with suppress(ProcessLookupError):
            # Its own session: nobody else's processes are in this group.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def healthy(self) -> bool:
        """Whether it answers."""
        try:
            return exchange(self.url, "GET", "/health", None)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request, without the product."""
        status, content = exchange(self.url, "POST", path, json.dumps(body).encode())
        assert status == 200, content
        found: dict[str, Any] = json.loads(content)
        return found
