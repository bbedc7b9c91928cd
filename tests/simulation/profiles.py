"""What kind of life a seed gives its cluster: size, machines, disks, clocks, network, and which faults are frequent."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from store.raft.elections import Timing
from store.raft.environment import Limits
from tests.simulation.network import Weather

STORMY = Weather(loss=0.05, duplication=0.05, delay_s=0.004, delay_tail_s=0.8)
WEATHERS = (
    STORMY,
    STORMY,
    Weather(),
    Weather(loss=0.2, delay_s=0.002),
    Weather(duplication=0.5, delay_s=0.02, delay_tail_s=0.3),
    Weather(delay_s=0.01, delay_tail_s=0.5, in_order=True),
    Weather(delay_s=0.12, duplication=0.3, delay_tail_s=0.3),
)
FAULTS = {
    "power": 4,
    "power_at_call": 10,
    "power_everywhere": 2,
    "kill": 3,
    "kill_at_call": 4,
    "kill_at_rename": 3,
    "leave": 5,
    "isolate": 8,
    "one_way": 5,
    "groups": 5,
    "slow_link": 4,
    "pause": 5,
    "full_disk": 4,
    "transfer": 4,
    "heal": 12,
    "nothing": 15,
}


@dataclass(frozen=True)
class Profile:
    """Everything about one life that its seed decides before it begins."""

    name: str
    size: int = 3
    store: bool = False
    """Whether the real state machine runs, with clients whose history is checked, or a list."""
    weather: Weather = STORMY
    timing: Timing = field(default_factory=lambda: Timing(0.1, 1.0))
    limits: Limits = field(default_factory=Limits)
    window_entries: int = 128
    faults: tuple[tuple[str, int], ...] = tuple(FAULTS.items())
    rates: tuple[float, ...] = (1.0,)
    """How fast the members' clocks go."""
    sync_s: float = 0.0
    """How long a sync takes, more or less; one in fifty takes fifty times as long."""
    old_copies: float = 0.0
    """Share of frames that arrive once more, much later."""
    forgetful: float = 0.0
    """Share of votes after which the voter loses its power."""
    events: int = 25
    read_every_s: float = 0.1
    """How often somebody reads, where there are no clients who do."""


def profile_of(seed: int) -> Profile:
    """Return the life of a seed."""
    chance = random.Random(seed * 7919 + 13)
    kind = KINDS[seed % len(KINDS)]
    limits = Limits(
        request_timeout_s=3.0,
        snapshot_entries=chance.choice((10_000, 12, 5)),
        segment_bytes=chance.choice((1024, 4096, 1 << 20)),
        group_bytes_max=chance.choice((1 << 20, 1)),
    )
    faults = dict(FAULTS)
    size = chance.choice((3, 3, 3, 5))
    weather = chance.choice(WEATHERS)
    timing = Timing(0.1, 1.0)
    rates: tuple[float, ...] = (1.0,)
    sync_s = chance.choice((0.0, 0.0, 0.002))
    old_copies = 0.0
    window = chance.choice((128, 128, 3, 1))
    if kind == "elections":
        # Everybody stands at once, and each vote arrives more than once.
        size, timing = 5, Timing(0.05, 0.4)
        weather = Weather(duplication=0.5, delay_s=chance.choice((0.02, 0.08)), delay_tail_s=0.2)
        faults.update(power=12, isolate=12, pause=10)
    elif kind == "stale":
        # A leader that is one no longer and does not know it, and frames that come again when nobody thinks of them.
        old_copies, window = 0.05, chance.choice((1, 2, 3))
        rates = (1.0, 0.8, 1.2, 0.9, 1.1)
        faults.update(transfer=15, isolate=15, pause=12, one_way=10)
    elif kind == "disks":
        sync_s = chance.choice((0.0, 0.005, 0.03))
        faults.update(power_at_call=25, kill_at_call=20, kill_at_rename=15, full_disk=15, power_everywhere=6)
        limits = Limits(request_timeout_s=3.0, snapshot_entries=chance.choice((5, 12)), segment_bytes=1024)
    elif kind == "alone":
        size, weather = 1, Weather()
        faults.update(
            power_at_call=25,
            kill_at_call=20,
            kill_at_rename=15,
            full_disk=15,
            isolate=0,
            one_way=0,
            groups=0,
            transfer=0,
        )
    elif kind == "members":
        size = chance.choice((1, 3, 3))
        faults.update(change=30, leave=2, full_disk=2, nothing=8)
    elif kind in ("keys", "leases"):
        rates = chance.choice(((1.0,), (1.0, 0.95, 1.05, 1.02, 0.98)))
    return Profile(
        name=kind,
        size=size,
        store=kind in ("keys", "leases"),
        weather=weather,
        timing=timing,
        limits=limits,
        window_entries=window,
        faults=tuple(faults.items()),
        rates=rates,
        sync_s=sync_s,
        old_copies=old_copies,
        forgetful=0.3 if kind == "elections" else 0.0,
        read_every_s=0.03 if kind in ("stale", "elections") else 0.1,
        events=EVENTS.get(kind, 22),
    )


EVENTS = {"keys": 16, "leases": 16, "members": 35}
KINDS = ("plain", "disks", "keys", "elections", "stale", "leases", "members", "disks", "members", "alone")
