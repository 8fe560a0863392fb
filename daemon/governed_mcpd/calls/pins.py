"""What a tool looked like when it was accepted: one file for each user and server, in the daemon's state directory.

A pin is a BLAKE3 hash (derive-key mode) over the canonical form of what a client is told of a tool. The form is kept as
well, so that a person can be shown what changed.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from blake3 import blake3

DOMAIN = "governed-mcpd 2026-11 tool pin"
FIRST_USE = "first use"
DIRECTORY = "tools"
FORMAT = 1
MOST_TOOLS = 4096  # that are remembered of one server


class PinsFailed(Exception):
    """What is accepted cannot be read or written. The text says which file and why."""


def pin_of(form: bytes) -> str:
    """The pin of a canonical form, in hex."""
    return blake3(form, derive_key_context=DOMAIN).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """One tool of one server: what was accepted (when, by whom), and what was listed last and why it is withheld."""

    pin: str = ""
    form: str = ""
    approved_us: int = 0
    approved_by: str = ""
    seen: str = ""
    seen_form: str = ""
    reason: str = ""

    @property
    def state(self) -> str:
        """approved, changed, new, gone, or withheld (for another reason than a change)."""
        if not self.pin:
            return "new"
        if not self.seen:
            return "gone"
        if self.pin != self.seen:
            return "changed"
        return "withheld" if self.reason else "approved"


class Pins:
    """All that is accepted on this machine. Any thread may ask."""

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(state_dir, DIRECTORY)
        self._lock = threading.RLock()
        self._loaded: dict[tuple[int, str], dict[str, Known]] = {}
        self._accepted: dict[tuple[int, str], dict[str, str]] = {}  # pins by name, of what is loaded
        self.generation = 0  # counts what was accepted: what was judged before may be judged otherwise

    def of(self, uid: int, server: str) -> Mapping[str, Known]:
        """Every tool that is known of a server, by name. PinsFailed."""
        with self._lock:
            return self._load(uid, server)

    def accepted(self, uid: int, server: str) -> Mapping[str, str]:
        """The pins of the tools that were accepted, by name. PinsFailed."""
        with self._lock:
            self._load(uid, server)
            return self._accepted[uid, server]

    def listed(self, uid: int, server: str, seen: Mapping[str, tuple[str, str, str]]) -> None:
        """What a server lists now: pin, form, and why it is withheld, by name. PinsFailed."""
        with self._lock:
            known = dict(self._load(uid, server))
            for name, (pin, form, reason) in seen.items():
                before = known.get(name, Known())
                known[name] = replace(before, seen=pin, seen_form=form, reason=reason)
            for name in known.keys() - seen.keys():
                known[name] = replace(known[name], seen="", seen_form="", reason="the server lists it no longer")
            known = {name: entry for name, entry in known.items() if entry.pin or entry.seen}
            if known != self._load(uid, server):
                self._store(uid, server, known)

    def approve(self, uid: int, server: str, tools: Iterable[str], by: str) -> dict[str, str]:
        """Accepts what the server listed last of these tools; the pins by name. PinsFailed."""
        with self._lock:
            known = dict(self._load(uid, server))
            accepted: dict[str, str] = {}
            for name in tools:
                entry = known[name]
                if not entry.seen:
                    continue
                now = time.time_ns() // 1000
                known[name] = replace(
                    entry, pin=entry.seen, form=entry.seen_form, approved_us=now, approved_by=by, reason=""
                )
                accepted[name] = entry.seen
            self._store(uid, server, known)
            self.generation += 1
            return accepted

    def everything(self) -> list[tuple[int, str]]:
        """User and server of all that is kept."""
        found: list[tuple[int, str]] = []
        try:
            users = [int(name) for name in os.listdir(self._directory) if name.isdigit()]
            for uid in users:
                names = os.listdir(os.path.join(self._directory, str(uid)))
                found += [(uid, name.removesuffix(".json")) for name in names if name.endswith(".json")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PinsFailed(f"{self._directory}: {error.strerror}") from None
        return sorted(found)

    def _path(self, uid: int, server: str) -> str:
        # Only servers with a Tool document come here: their names are those of documents, without a slash.
        return os.path.join(self._directory, str(uid), f"{server}.json")

    def _load(self, uid: int, server: str) -> dict[str, Known]:
        if (uid, server) not in self._loaded:
            path = self._path(uid, server)
            try:
                with open(path, "rb") as file:
                    content = json.loads(file.read())
                if content["format"] != FORMAT:
                    raise PinsFailed(f"{path} is of format {content['format']}: expected {FORMAT}")
                self._keep(uid, server, {name: Known(**entry) for name, entry in content["tools"].items()})
            except FileNotFoundError:
                self._keep(uid, server, {})
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PinsFailed(f"{path} cannot be read: {error}") from None
        return self._loaded[uid, server]

    def _store(self, uid: int, server: str, known: dict[str, Known]) -> None:
        if len(known) > MOST_TOOLS:
            raise PinsFailed(f"{server} has listed more than {MOST_TOOLS} tools: no more are remembered")
        path = self._path(uid, server)
        content = {"format": FORMAT, "tools": {name: asdict(entry) for name, entry in sorted(known.items())}}
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(path + ".new", path)
        except OSError as error:
            raise PinsFailed(f"{path} cannot be written: {error.strerror}") from None
        self._keep(uid, server, known)

    def _keep(self, uid: int, server: str, known: dict[str, Known]) -> None:
        self._loaded[uid, server] = known
        self._accepted[uid, server] = {name: entry.pin for name, entry in known.items() if entry.pin}
