"""What an explanation asks about NetworkPolicies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from net.explain.things import Thing

Direction = Literal["egress", "ingress"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Hold what the policies say to one packet at one pod."""

    allowed: bool
    words: str
    owner: str = ""
    """The NetworkPolicy that allows it, or those that isolate the pod."""
    where: str = ""
    things: tuple[Thing, ...] = ()


class Judge(Protocol):
    """Tell what the policies of the cluster say."""

    def judge(self, direction: Direction, pod: str, peer: str, port: int, protocol: str) -> Judgement | None:
        """Judge a packet at a pod (namespace/name) from or to an address; None where it has no network of its own."""
        ...
