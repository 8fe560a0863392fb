"""Open streams to the gate (Gate.DecideEach): one question at a time on each, and none is ever waited for.

Setting a call up costs gRPC as much as deciding costs the gate. So a thread that waits for a verdict borrows a stream
that is open; when none is free and there are enough, it makes a call of its own instead. A stream that anything went
wrong with is not used again.
"""

import queue
import threading
import time
from collections.abc import Iterator

import governed_mcpd.nouns.transport  # noqa: F401 - before grpc, which reads it when it is imported

# isort: split
import grpc

from governed.v1 import gate_pb2, gate_pb2_grpc

MOST_STREAMS = 4  # the gate serves eight, and other daemons' as well
_WATCH_SECONDS = 0.25


class NoStream(Exception):
    """All are in use, or the gate has none: the question goes as a call of its own. Nothing was asked yet."""


class StreamFailed(Exception):
    """The question has no answer. `late`: it did not come within the deadline; otherwise `error` is gRPC's."""

    def __init__(self, error: grpc.RpcError | None, *, late: bool) -> None:
        super().__init__("late" if late else str(error))
        self.error = error
        self.late = late


class _Stream:
    """One open stream. `deadline` (monotonic) is set while a question is out."""

    def __init__(self, stub: gate_pb2_grpc.GateStub) -> None:
        self._questions: queue.SimpleQueue[gate_pb2.DecideRequest | None] = queue.SimpleQueue()
        self._answers = stub.DecideEach(iter(self._questions.get, None))
        self.deadline: float | None = None
        self.late = False

    @property
    def usable(self) -> bool:
        return bool(self._answers.is_active())

    def ask(self, request: gate_pb2.DecideRequest) -> gate_pb2.DecideAnswer:
        """RpcError; StopIteration when the gate has ended the stream in order."""
        self._questions.put(request)
        answers: Iterator[gate_pb2.DecideAnswer] = self._answers
        return next(answers)

    def close(self) -> None:
        self._questions.put(None)
        self._answers.cancel()


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

    def ask(self, request: gate_pb2.DecideRequest, seconds: float) -> gate_pb2.DecideAnswer:
        """The answer to one question. NoStream, StreamFailed."""
        stream = self._take(seconds)
        try:
            answer = stream.ask(request)
        except (grpc.RpcError, StopIteration) as failure:
            self._drop(stream)
            error = failure if isinstance(failure, grpc.RpcError) else None
            if error is not None and not stream.late and _code(error) in _NOT_ASKED:
                self._without = self._without or _code(error) is grpc.StatusCode.UNIMPLEMENTED
                raise NoStream from None
            raise StreamFailed(error, late=stream.late) from None
        except BaseException:
            self._drop(stream)  # an answer may still come on it, to a question that nobody remembers
            raise
        self._give_back(stream)
        return answer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams, self._free = [*self._free, *self._out], []
        for stream in streams:
            stream.close()

    def _take(self, seconds: float) -> _Stream:
        with self._lock:
            if self._closed or self._without:
                raise NoStream
            while self._free:
                stream = self._free.pop()
                if stream.usable:
                    break
                stream.close()  # the gate was started again meanwhile
            else:
                if len(self._out) >= MOST_STREAMS:
                    raise NoStream
                stream = _Stream(self._stub)
            stream.deadline = time.monotonic() + seconds
            self._out.add(stream)
            if not self._busy.is_set():
                self._busy.set()
        return stream

    def _give_back(self, stream: _Stream) -> None:
        with self._lock:
            stream.deadline = None
            self._out.discard(stream)
            if not self._closed and not stream.late:
                self._free.append(stream)

    def _drop(self, stream: _Stream) -> None:
        with self._lock:
            self._out.discard(stream)
        stream.close()

    def _watch(self) -> None:
        """A stream has no deadline for each of its answers: this cancels what is late, and sleeps while nothing is."""
        while not self._closed:
            self._busy.wait()
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                now = time.monotonic()
                late = [stream for stream in self._out if stream.deadline is not None and stream.deadline < now]
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
