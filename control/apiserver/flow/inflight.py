"""The plain limit on requests that are served at once, for servers without priority and fairness."""

from __future__ import annotations

from collections.abc import Mapping

from control.api import status
from control.apiserver.flow.gate import TOO_MANY, Headers
from control.apiserver.request import RequestInfo, UserInfo

_READS = frozenset({"get", "head", "list", "watch"})
_PRIVILEGED = "system:masters"


class Slot:
    """One request's place, if there was one."""

    __slots__ = ("_held", "_slots", "admitted")

    headers: Headers = ()
    header_lines = b""

    def __init__(self, slots: Slots | None, admitted: bool) -> None:
        self.admitted = admitted
        self._slots = slots
        self._held = admitted and slots is not None
        if self._held and slots is not None:
            slots.taken += 1

    async def admission(self) -> None:
        """Raise TooManyRequests where there was no place; nobody waits here."""
        if not self.admitted:
            raise status.too_many_requests(TOO_MANY)

    def initialized(self) -> None:
        """Go on: watches have no place here."""

    def leave(self) -> None:
        """Give the place back."""
        if self._held and self._slots is not None:
            self._slots.taken -= 1
            self._held = False


class Slots:
    """Places for one sort of requests; a limit of 0 is none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0


class InFlightGate:
    """Limits reads and writes, each on their own; administrators are always let in."""

    def __init__(self, reads_max: int, writes_max: int) -> None:
        self.reads = Slots(reads_max)
        self.writes = Slots(writes_max)

    def enter(self, user: UserInfo, info: RequestInfo, query: Mapping[str, tuple[str, ...]]) -> Slot:
        """Take a request in where there is a place."""
        if info.verb == "watch":
            return Slot(None, admitted=True)
        slots = self.reads if info.verb in _READS else self.writes
        room = not slots.limit or slots.taken < slots.limit or _PRIVILEGED in user.groups
        return Slot(slots, room)

    def enter_at_once(self, user: UserInfo, info: RequestInfo) -> Slot | None:
        """Take a request in, None where there is no place."""
        slot = self.enter(user, info, {})
        return slot if slot.admitted else None

    def dump(self, what: str, details: bool) -> bytes | None:
        """Return None: there is nothing to be seen."""
        return None
