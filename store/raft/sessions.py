"""Which requests have been applied, so that a repeated proposal takes effect once.

A member numbers its requests; the upper half of a number is that of the member's start, so that none is ever used
twice. Requests may be applied out of order (a repeated one overtakes none, but passes gaps of abandoned ones), so
a session holds a floor, below which everything counts as applied, and the few numbers above it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

START_SHIFT = 32
ABOVE_MAX = 1 << 16
"""Numbers remembered above the floor of one session; a request that comes later than so many others is refused."""

_HEAD = struct.Struct("<qI")
_SESSION = struct.Struct("<QQI")


def first_sequence(start: int) -> int:
    """Return the first number to use after a start of the member."""
    return (start << START_SHIFT) + 1


class Session:
    """The applied requests of one member."""

    def __init__(self, floor: int = 0, above: set[int] | None = None) -> None:
        self.floor = floor
        self.above = above if above is not None else set()

    def holds(self, sequence: int) -> bool:
        """Tell whether a request has been applied, or is too old to be."""
        return sequence <= self.floor or sequence in self.above

    def admit(self, sequence: int) -> bool:
        """Take note of a request; return whether it is to be applied now."""
        if self.holds(sequence):
            return False
        start = sequence >> START_SHIFT << START_SHIFT
        if start > self.floor:
            # The member was started again: nobody waits for what it sent before.
            self.floor = start
            self.above.clear()
        self.above.add(sequence)
        while self.floor + 1 in self.above:
            self.floor += 1
            self.above.remove(self.floor)
        if len(self.above) > ABOVE_MAX:
            self.floor = min(self.above)
            self.above.remove(self.floor)
        return True


class Sessions:
    """The sessions of all members and the time of the last group: replicated state that belongs to the log itself."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self.now_ns = 0

    def admit(self, member_id: int, sequence: int) -> bool:
        """Take note of a request; return whether it is to be applied now."""
        return self._sessions.setdefault(member_id, Session()).admit(sequence)

    def holds(self, member_id: int, sequence: int) -> bool:
        """Tell whether a request has been applied."""
        session = self._sessions.get(member_id)
        return session is not None and session.holds(sequence)

    def advance(self, now_ns: int) -> int:
        """Take a group's time; return the time to apply it at, which never goes back."""
        self.now_ns = max(self.now_ns, now_ns)
        return self.now_ns

    def admit_run(self, member_id: int, first: int, count: int) -> bool:
        """Take note of requests whose numbers follow each other, where all are next in line.

        Otherwise nothing is noted, and each is to be admitted for itself.
        """
        session = self._sessions.get(member_id)
        if session is None or session.floor + 1 != first or session.above:
            return False
        session.floor += count
        return True

    def dump(self) -> bytes:
        """Return everything in one piece."""
        return b"".join(self._parts())

    def load(self, data: bytes) -> None:
        """Replace everything by what ``dump`` returned; raise ValueError where it is damaged."""
        try:
            self.now_ns, count = _HEAD.unpack_from(data)
            at = _HEAD.size
            sessions: dict[int, Session] = {}
            for _ in range(count):
                member_id, floor, length = _SESSION.unpack_from(data, at)
                at += _SESSION.size
                sessions[member_id] = Session(floor, set(struct.unpack_from(f"<{length}Q", data, at)))
                at += 8 * length
        except struct.error as error:
            raise ValueError("the snapshot's sessions are damaged") from error
        self._sessions = sessions

    def _parts(self) -> Iterator[bytes]:
        yield _HEAD.pack(self.now_ns, len(self._sessions))
        for member_id, session in sorted(self._sessions.items()):
            above = sorted(session.above)
            yield _SESSION.pack(member_id, session.floor, len(above))
            yield struct.pack(f"<{len(above)}Q", *above)
