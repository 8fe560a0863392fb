"""Lines on stderr about what the daemon refused. Names come from an adversary: nothing in them steers a terminal."""

import os
import termios
import time

from governed_mcpd.launcher import protocol

PREFIX = "governed"
SEAL = "seal"  # supervisor/events
_BURST = 20
_PER_SECOND = 5.0
_MOST_CHARACTERS = 400
_BIDI = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def printable(text: str, most: int = _MOST_CHARACTERS) -> str:
    r"""The text with control, direction and lone surrogate characters as \x1b or \u202e, cut to `most` characters."""
    out = []
    for character in text[: most + 1]:
        code = ord(character)
        if code < 0x20 or 0x7F <= code < 0xA0 or 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code & 0xFF:02x}")
        elif 0xD800 <= code <= 0xDFFF or character in _BIDI:
            out.append(f"\\u{code:04x}")
        else:
            out.append(character)
    return "".join(out) if len(text) <= most else "".join(out[:most]) + "…"


def line(notice: protocol.Notice) -> str | None:
    """The notice for a person; None for those that only concern the launcher."""
    effect = f"{printable(notice.operation)} {printable(os.fsdecode(notice.object))}".strip()
    by = f"{printable(notice.layer)}/{printable(notice.rule)}: {printable(notice.reason)}"
    if notice.kind == protocol.REFUSED:
        return f"{PREFIX}: refused {effect} — {by} ({_how_to_ask(notice)})"
    if notice.kind == protocol.WAITING:
        return f"{PREFIX}: waiting for a person: {effect} — {by} ({_how_to_ask(notice)})"
    if notice.kind == protocol.FROZEN:
        return f"{PREFIX}: the sandbox is frozen: {printable(notice.reason)}"
    return None


def _how_to_ask(notice: protocol.Notice) -> str:
    if notice.approval:
        return f"to ask for it: governedctl approvals approve {printable(notice.approval)}"
    if notice.layer == SEAL:
        return f"not what had been judged; governedctl journal show {notice.record}"
    record = f"record {notice.record}; " if notice.record else ""
    if notice.rule == "envelope":
        return f"{record}outside the profile's envelope: to ask for it, have the profile widened (governedctl apply)"
    show = f"governedctl journal show {notice.record}" if notice.record else "governedctl journal tail"
    return f"{record}to ask for it: {show}, and have the policy changed (governedctl apply)"


class Printer:
    """Writes lines to stderr; past a burst of 20 and five a second it only counts."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._tokens = float(_BURST)
        self._at = time.monotonic()
        self._more = 0

    def notice(self, notice: protocol.Notice) -> None:
        if self._quiet:
            return
        text = line(notice)
        if text is None:
            return
        now = time.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._at) * _PER_SECOND)
        self._at = now
        # That it stands still is always said: the refusals that froze it would hide just this.
        if self._tokens < 1 and notice.kind != protocol.FROZEN:
            self._more += 1
            return
        self._tokens = max(0.0, self._tokens - 1)
        self.flush()
        say(text)

    def flush(self) -> None:
        """Says how many were left out so far."""
        if self._more:
            say(f"{PREFIX}: … and {self._more} more (governedctl journal tail)")
            self._more = 0


def say(text: str) -> None:
    """One line on stderr, whole. Where nobody reads, it is lost: that must not end the command."""
    data = text.encode("utf-8", "backslashreplace") + (b"\r\n" if _raw_terminal() else b"\n")
    try:
        os.write(2, data)
    except OSError:
        return


def _raw_terminal() -> bool:
    """Whether stderr is a terminal that does not turn a newline into carriage return and line feed."""
    try:
        return not termios.tcgetattr(2)[1] & termios.OPOST
    except termios.error:
        return False
