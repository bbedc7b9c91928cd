"""How the server's seats are divided among its levels, now and as demand moves. No clock, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

from control.api import meta
from control.api.flowcontrol import EXEMPT, HASH_BITS_MAX
from control.api.meta import Object
from control.apiserver.flow.fairness import Queuing

TARGET_MIN = 0.001
SMOOTHING = 0.977
"""How much of a level's former demand stays when it wants less: upstream's coefficient for ten seconds."""
SEATS_SHARE_MAX = 0.15
"""How much of a level one request may take."""
SEATS_MAX = 10
RETRY_AFTER_MAX_S = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What a PriorityLevelConfiguration asks for."""

    name: str
    uid: str
    exempt: bool
    shares: int
    lendable_percent: int
    borrowing_percent: int | None
    queuing: Queuing | None


class BrokenConfigurationError(Exception):
    """An object that cannot be followed; it counts as if it were not there."""


def read_wish(obj: Object) -> Wish:
    """Read a PriorityLevelConfiguration; raises BrokenConfigurationError."""
    name, spec = meta.name(obj), obj.get("spec") or {}
    exempt = spec.get("type") == "Exempt"
    if exempt != (name == EXEMPT):
        raise BrokenConfigurationError("type must be Exempt if and only if the name is exempt")
    part: Mapping[str, Any] = spec.get("exempt" if exempt else "limited") or {}
    if not exempt and not part:
        raise BrokenConfigurationError("limited is missing")
    default = 0 if exempt else 30
    shares = part.get("nominalConcurrencyShares")
    return Wish(
        name,
        meta.uid(obj),
        exempt,
        default if shares is None else int(shares),
        int(part.get("lendablePercent") or 0),
        part.get("borrowingLimitPercent"),
        None if exempt else _queuing(part.get("limitResponse") or {}),
    )


def _queuing(response: Mapping[str, Any]) -> Queuing | None:
    queuing = response.get("queuing")
    if (response.get("type") == "Queue") != (queuing is not None):
        raise BrokenConfigurationError("limitResponse has queuing if and only if its type is Queue")
    if queuing is None:
        return None
    made = Queuing(int(queuing["queues"]), int(queuing["handSize"]), int(queuing["queueLengthLimit"]))
    if made.queues < 1 or not 1 <= made.hand_size <= made.queues or entropy_bits(made) > HASH_BITS_MAX:
        raise BrokenConfigurationError("queues and handSize do not fit each other")
    return made


def entropy_bits(queuing: Queuing) -> int:
    """Return how many bits a hash must have for every hand to be possible."""
    return ceil(log2(max(queuing.queues, 1)) * queuing.hand_size)


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which bounds a level's seats may move."""

    nominal: int
    lower: int
    upper: int

    def seats_max(self, queuing: Queuing | None) -> int:
        """Return how many seats one request may take."""
        if queuing is None:
            return SEATS_MAX
        share = min(ceil(self.nominal * SEATS_SHARE_MAX), self.nominal // queuing.hand_size)
        return max(1, min(share, SEATS_MAX))


def divide(total: int, wishes: Sequence[Wish]) -> dict[str, Limits]:
    """Divide the server's seats by shares."""
    shares = sum(wish.shares for wish in wishes)
    nominal = {wish.name: ceil(total * wish.shares / shares) if shares else 0 for wish in wishes}
    everything = sum(nominal.values())
    found = {}
    for wish in wishes:
        own = nominal[wish.name]
        lower = own - round(own * wish.lendable_percent / 100)
        upper = everything if wish.borrowing_percent is None else own + round(own * wish.borrowing_percent / 100)
        found[wish.name] = Limits(own, lower, max(upper, own))
    return found


@dataclass(slots=True)
class Demand:
    """How many seats a level wanted lately."""

    mean: float = 0.0
    deviation: float = 0.0
    peak: float = 0.0
    smoothed: float = 0.0

    def update(self, mean: float, deviation: float, peak: float) -> None:
        """Take what was seen in one period: more is believed at once, less only slowly."""
        self.mean, self.deviation, self.peak = mean, deviation, peak
        envelope = mean + deviation
        self.smoothed = max(envelope, SMOOTHING * self.smoothed + (1 - SMOOTHING) * envelope)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a level may get at least and at most, and what it would like."""

    target: float
    lower: float
    upper: float


def claim(demand: Demand, limits: Limits) -> Claim:
    """Return a level's claim: what it used of its own share cannot be lent to others."""
    lower = max(float(limits.lower), min(float(limits.nominal), demand.peak))
    upper = max(float(limits.upper), lower)
    return Claim(max(demand.smoothed, lower, TARGET_MIN), lower, upper)


def allocate(total: float, claims: Sequence[Claim]) -> tuple[list[float], float]:
    """Divide seats in proportion to targets within everybody's bounds; return too the share of targets that is met.

    What all get together grows with that share, by straight lines between the bounds: the line that passes the
    total is found and followed.
    """

    def granted(share: float) -> list[float]:
        return [min(max(each.lower, share * each.target), each.upper) for each in claims]

    below, above = 0.0, 0.0
    for bound in sorted({limit / each.target for each in claims for limit in (each.lower, each.upper)}):
        above = bound
        if sum(granted(bound)) >= total:
            break
        below = bound
    low, high = sum(granted(below)), sum(granted(above))
    if high > low:
        above = below + (above - below) * min(max((total - low) / (high - low), 0.0), 1.0)
    return granted(above), above


class RetryAfter:
    """How long rejected clients are asked to stay away: longer while many are rejected."""

    def __init__(self) -> None:
        self.seconds = 1
        self._second = 0
        self._count = 0
        self._history: list[tuple[int, int]] = []
        self._grown_at = 0

    def note(self, now: float) -> int:
        """Count one rejection; return the seconds to tell."""
        second = int(now)
        if second == self._second:
            self._count += 1
            return self.seconds
        self._history.append((self._second, self._count))
        self._history = [entry for entry in self._history if second - entry[0] <= RETRY_AFTER_MAX_S]
        self._second, self._count = second, 1
        lately = sum(count for when, count in self._history if second - when <= self.seconds)
        if second - self._grown_at >= self.seconds and lately >= 3 * self.seconds:
            self.seconds = min(self.seconds * 2, RETRY_AFTER_MAX_S)
            self._grown_at = second
        elif lately < self.seconds and self.seconds > 1:
            self.seconds -= 1
        return self.seconds
