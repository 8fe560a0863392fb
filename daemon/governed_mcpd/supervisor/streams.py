"""Open streams to the gate (Gate.DecideEach): one question at a time on each, and none is ever waited for.

Setting a call up costs gRPC as much as deciding costs the gate, so questions go on streams that stay open. Who asks
hands the question over and goes on: the message is made on the thread on which gRPC sends, and each stream has a thread
that takes its answers. When all streams are taken, the question goes as a call of its own instead. A stream that
anything went wrong with is not used again.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    """The question has no answer. `late`: it did not come within the deadline; otherwise `error` is gRPC's."""

    def __init__(self, error: grpc.RpcError | None, *, late: bool) -> None:
        super().__init__("late" if late else str(error))
        self.error = error
        self.late = late


@dataclass(frozen=True, slots=True)
class Question:
    """`request` makes the message, on gRPC's thread. Either `answered` or `failed` is called, once: with the answer; or
    with NoStream, StreamFailed, or what `request` raised. Neither raises or waits. `deadline` is monotonic."""

    deadline: float
    request: Callable[[], gate_pb2.DecideRequest]
    answered: Callable[[gate_pb2.DecideAnswer], None]
    failed: Callable[[Exception], None]


class _Stream:
    """One open stream; `question` is out on it."""

    def __init__(self, stub: gate_pb2_grpc.GateStub, streams: "Streams") -> None:
        self._streams = streams
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self.question: Question | None = None
        self.late = False
        self._answers = stub.DecideEach(self._requests())
        threading.Thread(target=self._take_answers, name="answers", daemon=True).start()

    @property
    def usable(self) -> bool:
        return bool(self._answers.is_active())

    def ask(self, question: Question) -> None:
        self._questions.put(question)

    def close(self) -> None:
        self._questions.put(None)
        self._answers.cancel()

    def _requests(self) -> Iterator[gate_pb2.DecideRequest]:
        """For gRPC's thread."""
        while (question := self._questions.get()) is not None:
            try:
                request = question.request()
            except Exception as error:
                out = self._streams.free(self)  # none, where the stream has failed meanwhile
                if out is not None:
                    out.failed(error)
            else:
                yield request

    def _take_answers(self) -> None:
        error = None
        try:
            for answer in self._answers:
                question = self._streams.free(self)
                if question is None:
                    log.error("the gate answers what it was not asked: this stream is not used again")
                    break
                question.answered(answer)
        except grpc.RpcError as failure:
            error = failure
        except Exception:
            log.exception("a stream to the gate is not used again")
        self._streams.ended(self, error)


class Streams:
    """A few, opened when they are first needed. Any thread may ask."""

    def __init__(self, stub: gate_pb2_grpc.GateStub) -> None:
        self._stub = stub
        self._lock = threading.Lock()
        self._free: list[_Stream] = []
        self._out: set[_Stream] = set()
        self._busy = threading.Event()
        self._without = False  # the gate has no such thing
        self._closed = False
        threading.Thread(target=self._watch, name="streams", daemon=True).start()

    def ask(self, question: Question) -> bool:
        """Asks on a stream that is free; False when none is."""
        return self._ask(question, opening=False)

    def open(self, question: Question) -> bool:
        """Asks on a stream that is free, or on a new one, which takes a while; False when there are enough."""
        return self._ask(question, opening=True)

    def _ask(self, question: Question, *, opening: bool) -> bool:
        with self._lock:
            stream = self._take() or (self._open() if opening else None)
            if stream is None:
                return False
            stream.question = question
            self._out.add(stream)
            if not self._busy.is_set():
                self._busy.set()
        stream.ask(question)
        return True

    def close(self) -> None:
        """What is out fails."""
        with self._lock:
            self._closed = True
            streams, self._free = [*self._free, *self._out], []
        for stream in streams:
            stream.close()

    # ---- for the streams themselves

    def free(self, stream: _Stream) -> Question | None:
        """It has its answer, or needs none any more: what was out on it."""
        with self._lock:
            question, stream.question = stream.question, None
            self._out.discard(stream)
            if question is not None and not self._closed and not stream.late:
                self._free.append(stream)
        return question

    def ended(self, stream: _Stream, error: grpc.RpcError | None) -> None:
        """Nothing comes on it any more. Without an error, the gate has ended it in order."""
        stream.close()
        code = _code(error) if error is not None else None
        not_asked = code in _NOT_ASKED and not stream.late
        with self._lock:
            question, stream.question = stream.question, None
            self._out.discard(stream)
            if stream in self._free:
                self._free.remove(stream)
            self._without = self._without or code is grpc.StatusCode.UNIMPLEMENTED
        if question is not None:
            question.failed(NoStream() if not_asked else StreamFailed(error, late=stream.late))

    # ---- with the lock

    def _take(self) -> _Stream | None:
        while self._free:
            stream = self._free.pop()
            if stream.usable:
                return stream
            stream.close()  # the gate was started again meanwhile
        return None

    def _open(self) -> _Stream | None:
        if self._closed or self._without or len(self._out) >= MOST_STREAMS:
            return None
        return _Stream(self._stub, self)

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
                if not self._out:
                    self._busy.clear()
            for stream in late:
                stream.close()


# With these, the gate has not looked at the question: the stream was refused as such.
_NOT_ASKED = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def _code(error: grpc.RpcError) -> "grpc.StatusCode | None":
    code: grpc.StatusCode | None = error.code() if hasattr(error, "code") else None
    return code
