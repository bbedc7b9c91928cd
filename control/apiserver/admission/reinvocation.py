"""What makes the mutating half of admission run twice: somebody changed an object that somebody else had already seen.

Webhooks and policies share one `Reinvocation` of a request. Who changes the object wants the second turn; in it all
plugins run again, and of webhooks and policies those that asked for it (reinvocationPolicy IfNeeded), ran in the first
turn, and did not see the last change.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from control.api.meta import Object
from control.api.patch import copy_json

if TYPE_CHECKING:
    from control.apiserver.request import AdmissionRequest


@dataclass(slots=True)
class Turns:
    """Which of one plugin's webhooks or policies are to run again."""

    _ran: set[Hashable] = field(default_factory=set)
    """Those that may run again and have seen the object as it stands."""
    _due: set[Hashable] = field(default_factory=set)
    _seen: Object | None = None

    def changed(self) -> None:
        """Note a change: all that ran before it are due again."""
        self._due |= self._ran
        self._ran = set()

    def ran(self, key: Hashable) -> None:
        """Note that one that may run again has run."""
        self._ran.add(key)

    def due(self, key: Hashable) -> bool:
        """Tell whether one is to run again."""
        return key in self._due

    def begin(self, obj: Object | None) -> None:
        """Begin the second turn, in which other plugins may have changed the object."""
        if self._ran and obj != self._seen:
            self.changed()

    def end(self, obj: Object | None) -> None:
        """Remember what the object looks like after a turn, where that may matter."""
        self._seen = copy_json(obj) if self._ran and obj is not None else None


@dataclass(slots=True)
class Reinvocation:
    """The turns of one request."""

    again: bool = False
    """Whether this is the second one."""
    wanted: bool = False
    webhooks: Turns = field(default_factory=Turns)
    policies: Turns = field(default_factory=Turns)


def reinvocation_of(request: AdmissionRequest) -> Reinvocation:
    """Return a request's turns."""
    if request.reinvocation is None:
        request.reinvocation = Reinvocation()
    return request.reinvocation
