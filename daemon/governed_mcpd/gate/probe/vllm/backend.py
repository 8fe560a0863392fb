"""Layer 5 asks vLLM: the model is measured before it is used, and again whenever another one may answer.

Every failure is a ProbeError, which the layer makes a deny with that reason; nothing needs a restart of the gate.
"""

import logging
import threading
import time
from collections.abc import Callable

from governed_mcpd.gate.probe.logits import Logits, ProbeError
from governed_mcpd.gate.probe.vllm.data import Data, TooLong
from governed_mcpd.gate.probe.vllm.measure import Memory, Model, alike, measure, null_items
from governed_mcpd.gate.probe.vllm.server import Reads, Server, ServerError
from governed_mcpd.gate.probe.vllm.transport import Transport
from governed_mcpd.gate.probe.vllm.witness import Witness
from governed_mcpd.gate.reading import MalformedArguments, Reading
from governed_mcpd.policy.documents import VllmServer

_LOG = logging.getLogger(__name__)
# What one measurement may take in all: a large model on CPUs reads some thirty short prompts.
_MEASURING_SECONDS = 240.0
# How long to wait after a measurement that failed: one that reached nobody cost nothing.
_UNREACHED_SECONDS = 0.5
_UNUSABLE_SECONDS = 5.0
# An answer that carries no name of its server's configuration could come from another one behind a proxy.
_RECHECK_SECONDS = 30.0
# Texts take three bytes per token or more in most tokenizers, and one at worst: the first is tried, the second holds.
_BYTES_PER_TOKEN = 3
_MOST_BYTES = 64 * 1024
Changed = Callable[[], None]


class VllmProbe:
    """One model on one server, for any number of threads."""

    def __init__(
        self,
        settings: VllmServer,
        principles: tuple[str, ...],
        memory: Memory | None = None,
        changed: Changed | None = None,
    ) -> None:
        """`changed` is called, on any thread, whenever the model begins or ceases to be usable."""
        self._settings = settings
        self._principles = principles
        self._memory = memory or Memory()
        self._changed = changed
        self._server = Server(Transport(settings.url, settings.concurrency), settings.model)
        self._news = threading.Condition()
        self._model: Model | None = None
        self._witness: Witness | None = None
        self._checked = 0.0
        self._reason = ""
        self._measuring = False
        self._closed = False

    @property
    def model(self) -> str:
        """Its name at the server, and which revision of it was measured."""
        model = self._model
        return f"{self._settings.model}@{model.revision}" if model else self._settings.model

    @property
    def trouble(self) -> str:
        """Why the model cannot be used at the moment; empty when it can."""
        with self._news:
            if self._model is not None:
                return ""
            return self._reason or f"{self._settings.model} is being measured"

    def prepare(self) -> None:
        """Begins to measure the model, and returns at once."""
        with self._news:
            self._begin()

    def wait(self) -> Model:
        """The measured model. Raises ProbeError with the reason when measuring failed."""
        return self._ready(time.monotonic() + _MEASURING_SECONDS)

    def close(self) -> None:
        """Measures no more. Whoever asks at this moment still gets an answer."""
        with self._news:
            self._closed = True

    def probe(self, reading: Reading) -> Logits:
        """The two logits for one action. Raises ProbeError."""
        deadline = time.monotonic() + self._settings.deadline_seconds
        model = self._ready(deadline)
        reads, data = self._asked(model, reading, deadline)
        self._still(model, reads, deadline)
        read = reads.reads[0]
        words = model.words
        because = [
            f"logit of {words.dangerous.strip()} {read.dangerous:.2f}",
            f"of {words.safe.strip()} {read.safe:.2f}",
            f"bias {model.bias:.2f}, label mass {read.mass:.2f}",
        ]
        if data.left_out:
            because.append(f"{data.left_out} characters of the context were left out")
        return Logits(read.safe, read.dangerous, read.mass, tuple(because), model.bias, data.left_out > 0)

    def _asked(self, model: Model, reading: Reading, deadline: float) -> tuple[Reads, Data]:
        """Asks with as much context as may fit; when that was too much, with what certainly fits."""
        sure = model.place.room
        rooms = (min(sure * _BYTES_PER_TOKEN, _MOST_BYTES), sure)
        for room in rooms:
            try:
                item, data = model.place.template.item(reading, room)
            except (TooLong, MalformedArguments) as error:
                raise ProbeError(str(error)) from None
            fits = len(data.lines) <= sure
            try:
                reads = self._server.read(model.method, model.place.head, [item], model.place.labels, deadline)
            except ServerError as error:
                if error.too_long and not fits and room > sure:
                    continue
                self._suspect(model, str(error))
                raise
            if model.method == "generative_scoring" and reads.tokens >= model.identity.longest - 1:
                # The server cut the prompt at its end, where the action and the verdict stand.
                if room > sure:
                    continue
                raise ProbeError("the model server cut the prompt: what it answered says nothing")
            return reads, data
        raise AssertionError("the last try returns or raises")

    # ---- whether the model that answers is the one that was measured

    def _still(self, model: Model, reads: Reads, deadline: float) -> None:
        """Raises ProbeError, and forgets the model, when another one may have answered."""
        witness = self._witness
        if witness is None or not witness.same:
            self._forget(model, "the model server ended or was restarted while it was asked")
        if reads.configuration != model.configuration:
            was, now = model.configuration or "nothing", reads.configuration or "nothing"
            self._forget(model, f"another model or configuration answers: it was {was}, it is {now}")
        if model.configuration and model.method == "completions":
            return
        begun = time.monotonic()
        if begun - self._checked < _RECHECK_SECONDS:
            return
        found = self._plain_nulls(model, deadline)
        if not alike(model.fingerprint, found):
            self._forget(model, "another model answers under this name: its fingerprint changed")
        self._checked = begun

    def _plain_nulls(self, model: Model, deadline: float) -> list[float]:
        items = null_items(model.plain.template)
        reads = self._server.read(model.method, model.plain.head, items, model.plain.labels, deadline)
        return [read.dangerous - read.safe for read in reads.reads]

    def _suspect(self, model: Model, reason: str) -> None:
        """After an exchange that failed: when the server's process is gone, the next answer may be of another model."""
        witness = self._witness
        if witness is None or not witness.same:
            self._lost(model, reason)

    def _forget(self, model: Model, reason: str) -> None:
        self._lost(model, reason)
        raise ProbeError(reason)

    def _lost(self, model: Model, reason: str) -> None:
        with self._news:
            if self._model is not model:
                return
            self._model = None
            # Nothing failed yet: those who come next wait for the measurement that begins now.
            self._reason = ""
            _LOG.warning("%s is measured again: %s", self._settings.model, reason)
            self._begin()
        self._tell()

    # ---- measuring

    def _ready(self, deadline: float) -> Model:
        """The model, as soon as it is measured. Raises ProbeError when the last one failed, or at `deadline`."""
        with self._news:
            model, witness = self._model, self._witness
        if model is not None and (witness is None or not witness.same):
            self._lost(model, "the server was restarted")
        with self._news:
            while self._model is None:
                self._begin()
                if self._reason:
                    raise ProbeError(self._reason)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ProbeError(f"{self._settings.model} is still being measured")
                self._news.wait(left)
            return self._model

    def _begin(self) -> None:
        """Starts measuring unless that is under way. With the lock held."""
        if not (self._measuring or self._closed):
            self._measuring = True
            threading.Thread(target=self._measure, name="measure", daemon=True).start()

    def _measure(self) -> None:
        """Until it succeeds: whoever asks meanwhile is told at once why it did not."""
        while True:
            model, witness, reason, pause = self._measured()
            with self._news:
                if reason and reason != self._reason:
                    _LOG.warning("layer 5 refuses: %s", reason)
                self._model, self._witness, self._reason = model, witness, reason
                self._checked = time.monotonic()
                self._news.notify_all()
                self._measuring = model is None and not self._closed
                again = self._measuring
            self._tell()
            if not again:
                return
            time.sleep(pause)

    def _measured(self) -> tuple[Model | None, Witness | None, str, float]:
        """One measurement: the model and its witness, or the reason and how long to wait before the next."""
        begun = time.monotonic()

        def deadline() -> float:
            now = time.monotonic()
            if now - begun > _MEASURING_SECONDS:
                raise ProbeError(f"measuring {self._settings.model} took longer than {_MEASURING_SECONDS:.0f} s")
            return now + self._settings.deadline_seconds

        try:
            witness = Witness(self._settings.url, self._settings.deadline_seconds)
        except OSError as error:
            where = f"cannot reach the model server at {self._settings.url}"
            return None, None, f"{where}: {error.strerror or error}", _UNREACHED_SECONDS
        try:
            model = measure(self._server, self._settings, self._principles, self._memory, deadline)
        except ProbeError as error:
            return None, None, str(error), _UNUSABLE_SECONDS
        except Exception as error:  # a defect of ours: still an answer, and a refusal
            _LOG.exception("measuring failed")
            return None, None, f"measuring failed: {type(error).__name__}: {error}", _UNUSABLE_SECONDS
        if not witness.same:
            return None, None, "the model server ended or was restarted while it was measured", _UNREACHED_SECONDS
        return model, witness, "", 0.0

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
