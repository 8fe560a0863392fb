"""The short way of a leased open, which subjects/covered.c goes: when a sandbox has one, and what it is told.

Everything that it does is done by lanes, pause/observe, decide and records as well; it is there for speed only.
"""

from collections.abc import Mapping

from governed_mcpd.journal.journal import Journal
from governed_mcpd.kernel.procfs import PROC
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause.object import DESCRIPTORS
from governed_mcpd.subjects.covered import Covered
from governed_mcpd.subjects.leases import Held
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.supervisor.pauses import Pause
from governed_mcpd.supervisor.questions import Questions
from governed_mcpd.supervisor.records import Ready, Recorder

IN_ADVANCE = 64 << 10  # bytes of a sandbox's budget that are taken at once
_OPENS = frozenset({Operation.FILE_READ, Operation.FILE_WRITE})
_FLAGS = {"flags"}


class ShortWay:
    """`names`: the held system calls by number."""

    def __init__(
        self, names: Mapping[int, str], journal: Journal, recorder: Recorder, questions: Questions, *, sealed: bool
    ) -> None:
        numbers = {name: number for number, name in names.items()}
        self._numbers = numbers.get("open", -1), numbers.get("openat", -1)
        self._journal = journal
        self._recorder = recorder
        self._questions = questions
        self._sealed = sealed

    def begin(self, sandbox: Sandbox) -> None:
        """The sandbox is supervised from here on. With a seal, in another root, or as a user that may change, its calls
        are received there and looked at the long way."""
        listener, place = sandbox.listener, sandbox.place
        assert listener is not None
        assert place is not None
        credentials = place.credentials
        looks = not self._sealed and place.root is None and credentials is not None
        sandbox.covered = Covered(
            listener.descriptor,
            self._numbers,
            credentials.fsuid if credentials is not None else 0,
            PROC,
            DESCRIPTORS,
            looks,
            sandbox,
            self._questions.waiting_in(sandbox),
            self._journal.direct(),
            bytearray() if listener.unanswered is None else listener.unanswered.single,
        )

    def learn(self, pause: Pause, lease: Held) -> None:
        """The lease has covered the one effect of this call, and its record is ready: the next one like it can go the
        short way."""
        sandbox, effect, ready = pause.sandbox, pause.effects[0], lease.prepared
        covered = sandbox.covered
        if covered is None or pause.acting is not sandbox.main or not isinstance(ready, Ready):
            return
        if effect.operation not in _OPENS or effect.details.keys() != _FLAGS:
            return
        if covered.room < IN_ADVANCE // 2 and self._recorder.take_in_advance(sandbox.id, IN_ADVANCE):
            covered.room += IN_ADVANCE
        covered.add(pause.held, lease, lease.expires, effect, ready.prepared.parts, pause.acting.ledger.changes)
