"""Open streams to the gate (Gate.DecideEach): one question at a time on each, and none is ever waited for.

Setting a call up costs gRPC as much as deciding costs the gate, so questions go on streams that stay open. Who asks
hands the question over and goes on: the message is made on the thread on which gRPC sends, and each stream has a thread
that takes its answers. When all streams are taken, the question goes as a call of its own instead. A stream that
anything went wrong with is not used again.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import governed_mcpd.nouns.transport  # noqa: F401 - before grpc, which reads it when it is imported

# isort: split
import grpc

from governed.v1 import gate_pb2, gate_pb2_grpc

log = logging.getLogger(__name__)
MOST_STREAMS = 4  # the gate serves eight, and other daemons' as well
_WATCH_SECONDS = 0.25


class NoStream(Exception):
    """The gate has none for us: the question goes as a call of its own. Nothing was asked yet."""


class StreamFailed(Exception):
    """The question has no answer. `late`: it did not come within the deadline; `wrong`: another one came; otherwise
    `error` is gRPC's, None where the gate has ended the stream in order."""

    def __init__(self, error: grpc.RpcError | None, *, late: bool, wrong: bool) -> None:
        super().__init__("late" if late else "wrong" if wrong else str(error))
        self.error = error
        self.late = late
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class Question:
    """`request` makes the message, on gRPC's thread. Either `answered` or `failed` is called, once: with the answer; or
    with NoStream, StreamFailed, or what `request` raised. Neither raises or waits. `deadline` is monotonic."""

    deadline: float
    request: Callable[[], gate_pb2.DecideRequest]
    answered: Callable[[gate_pb2.DecideAnswer], None]
    failed: Callable[[Exception], None]


class _Stream:
    """One stream. `question` is out on it, as the `number`th."""

    def __init__(self, stub: gate_pb2_grpc.GateStub, streams: "Streams") -> None:
        self._stub = stub
        self._streams = streams
        self._questions: queue.SimpleQueue[tuple[int, Question] | None] = queue.SimpleQueue()
        self._answers: Any = None
        self.question: Question | None = None
        self.number = 0
        self.late = False
        self.wrong = False
        self.over = False

    def open(self) -> None:
        """Starts the call and the thread that takes its answers. What goes wrong leaves neither."""
        self._answers = self._stub.DecideEach(self._requests())
        try:
            threading.Thread(target=self._take_answers, name="answers", daemon=True).start()
        except BaseException:
            self.close()
            raise

    @property
    def usable(self) -> bool:
        return bool(self._answers.is_active())

    def ask(self, number: int, question: Question) -> None:
        self._questions.put((number, question))

    def close(self) -> None:
        self._questions.put(None)
        if self._answers is not None:
            self._answers.cancel()

    def _requests(self) -> Iterator[gate_pb2.DecideRequest]:
        """For gRPC's thread."""
        while (asked := self._questions.get()) is not None:
            number, question = asked
            try:
                request = question.request()
            except Exception as error:
                out = self._streams.take_back(self, number)  # none, where the stream has failed meanwhile
                if out is not None:
                    out.failed(error)
            else:
                request.question = number
                yield request

    def _take_answers(self) -> None:
        error = None
        try:
            for answer in self._answers:
                question = self._streams.take_back(self, answer.question)
                if question is None:
                    log.error("the gate answers what it was not asked: this stream is not used again")
                    self.wrong = True
                    break
                question.answered(answer)
        except grpc.RpcError as failure:
            error = failure
        except Exception:  # whatever it was: the question that is out fails, which is a refusal
            log.exception("a stream to the gate is not used again")
        self._streams.ended(self, error)


class Streams:
    """A few, opened when they are first needed. Any thread may ask."""

    def __init__(self, stub: gate_pb2_grpc.GateStub) -> None:
        self._stub = stub
        # Never held while gRPC is called or a thread is started: the leader asks.
        self._lock = threading.Lock()
        self._free: list[_Stream] = []
        self._out: set[_Stream] = set()
        self._busy = threading.Event()
        self._without_until = 0.0  # the gate refuses streams
        self._closed = False
        threading.Thread(target=self._watch, name="streams", daemon=True).start()

    def ask(self, question: Question) -> bool:
        """Asks on a stream that is free; False when none is."""
        while True:
            with self._lock:
                if not self._free:
                    return False
                stream = self._free.pop()
                number = self._put(stream, question)
            if stream.usable:
                stream.ask(number, question)
                return True
            # The gate was started again meanwhile: nothing was asked yet.
            if self.take_back(stream, number, again=False) is None:
                return True  # and the question has failed with the stream
            stream.close()

    def open(self, question: Question) -> bool:
        """Asks on a stream that is free, or on a new one, which takes a while; False when there are enough."""
        if self.ask(question):
            return True
        with self._lock:
            if self._closed or len(self._out) >= MOST_STREAMS or time.monotonic() < self._without_until:
                return False
            stream = _Stream(self._stub, self)
            number = self._put(stream, question)
        try:
            stream.open()
        except BaseException:
            if self.take_back(stream, number, again=False) is None:
                return True
            raise
        stream.ask(number, question)
        if self._closed:
            stream.close()
        return True

    def close(self) -> None:
        """What is out fails."""
        with self._lock:
            self._closed = True
            streams, self._free = [*self._free, *self._out], []
            self._busy.set()
        for stream in streams:
            stream.close()

    def _put(self, stream: _Stream, question: Question) -> int:
        """With the lock."""
        stream.question = question
        stream.number += 1
        self._out.add(stream)
        if not self._busy.is_set():
            self._busy.set()
        return stream.number

    # ---- for the streams themselves

    def take_back(self, stream: _Stream, number: int, *, again: bool = True) -> Question | None:
        """The question that is out as the `number`th, which is out no longer; None when that is another, or none. The
        stream is free then, unless it is not to be used `again`."""
        with self._lock:
            if stream.number != number or stream.question is None:
                return None
            question, stream.question = stream.question, None
            self._out.discard(stream)
            if again and not (self._closed or stream.late or stream.over):
                self._free.append(stream)
        return question

    def ended(self, stream: _Stream, error: grpc.RpcError | None) -> None:
        """Nothing comes on it any more, or it is given up."""
        stream.close()
        code = _code(error) if error is not None else None
        not_asked = code in _NOT_ASKED and not stream.late
        with self._lock:
            stream.over = True
            question, stream.question = stream.question, None
            self._out.discard(stream)
            if stream in self._free:
                self._free.remove(stream)
            if not_asked and stream.number == 1:  # later, it was about one question, which was too large
                self._without_until = time.monotonic() + _NOT_ASKED[code]
        if question is not None:
            question.failed(NoStream() if not_asked else StreamFailed(error, late=stream.late, wrong=stream.wrong))

    def _watch(self) -> None:
        """A stream has no deadline for each of its answers: this cancels what is late, and sleeps while nothing is."""
        while not self._closed:
            self._busy.wait()
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                now = time.monotonic()
                late = [stream for stream in self._out if stream.question and stream.question.deadline < now]
                for stream in late:
                    stream.late = True
                if not self._out and not self._closed:
                    self._busy.clear()
            for stream in late:
                stream.close()


# With these, the gate has not looked at the question: the stream was refused as such. Seconds until another is tried.
_NOT_ASKED: dict[grpc.StatusCode | None, float] = {
    grpc.StatusCode.UNIMPLEMENTED: math.inf,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 1.0,
}


def _code(error: grpc.RpcError) -> "grpc.StatusCode | None":
    code: grpc.StatusCode | None = error.code() if hasattr(error, "code") else None
    return code
