"""Where ADD waits for a pod's isolation: the agent puts NetworkPolicy's gate here, or an open one.

A pod's interface is made only after `admit` has returned, so no packet of a pod precedes its rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class NotYet(Exception):  # noqa: N818 -- not a fault: the answer is to come again
    """The pod's isolation cannot be committed now; the runtime is told to try again, with this text."""


@dataclass(frozen=True, slots=True)
class PodReference:
    """Name one pod as the hub knows it; uid and names are empty where neither runtime nor hub said them."""

    namespace: str
    name: str
    uid: str


class Gate(Protocol):
    """Decide when a pod may be wired."""

    async def admit(self, pod: PodReference, addresses: tuple[str, ...]) -> None:
        """Return once the pod's isolation is committed for these addresses, or raise NotYet.

        Called again for a pod that is admitted already (a repeated ADD, a restart, a new sandbox with
        other addresses): the newest addresses count.
        """

    def release(self, uid: str) -> None:
        """Forget a pod: it has no interface any more. An unknown uid is fine."""


class OpenGate:
    """Let every pod pass at once."""

    async def admit(self, pod: PodReference, addresses: tuple[str, ...]) -> None:
        """Return at once."""

    def release(self, uid: str) -> None:
        """Have nothing to forget."""


OPEN = OpenGate()
