"""A simulated network: frames that are lost, late, doubled, overtaken, and links that are cut one way or both."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.world import VirtualClock


@dataclass(frozen=True)
class Weather:
    """How the network behaves."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.001
    delay_tail_s: float = 0.0
    """Some frames take up to this long: they are overtaken."""
    in_order: bool = False
    """Frames of one link arrive in the order in which they were sent, as in one connection."""


@dataclass
class Agenda:
    """What happens at what time; things of one time happen in the order in which they were entered."""

    clock: VirtualClock
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    entered: int = 0

    def at(self, time: float, what: Callable[[], None]) -> None:
        self.entered += 1
        heapq.heappush(self.queue, (time, self.entered, what))

    def next_at(self) -> float:
        return self.queue[0][0] if self.queue else float("inf")

    def step(self) -> None:
        time, _, what = heapq.heappop(self.queue)
        if time > self.clock.now:
            self.clock.now = time
        what()


@dataclass
class SimulatedNetwork:
    """Links between members, each direction by itself."""

    agenda: Agenda
    chance: random.Random
    deliver: Callable[[int, int, bytes], None]
    weather: Weather = field(default_factory=Weather)
    cut: set[tuple[int, int]] = field(default_factory=set)
    """(source, target) of each direction that nothing passes."""
    slow: dict[tuple[int, int], float] = field(default_factory=dict)
    """Seconds that each frame of a direction takes longer."""
    copied: Callable[[int, int, bytes], bool] = lambda _source, _target, _data: False
    """Says of a frame whether it is to arrive again, later."""
    _last: dict[tuple[int, int], float] = field(default_factory=dict)

    def send(self, source: int, target: int, data: bytes, after_s: float = 0.0) -> None:
        weather, chance = self.weather, self.chance
        copies = 2 if chance.random() < weather.duplication else 1
        for _ in range(copies):
            if chance.random() < weather.loss:
                continue
            delay = weather.delay_s * (0.5 + chance.random()) + self.slow.get((source, target), 0.0)
            if chance.random() < 0.05:
                delay += weather.delay_tail_s * chance.random()
            self._send(source, target, data, self.agenda.clock.now + after_s + delay)
        if self.copied(source, target, data):
            self._send(source, target, data, self.agenda.clock.now + after_s + 3.0 * chance.random())

    def _send(self, source: int, target: int, data: bytes, at: float) -> None:
        if self.weather.in_order:
            at = self._last[source, target] = max(at, self._last.get((source, target), 0.0))
        self.agenda.at(at, lambda: self._arrive(source, target, data))

    def _arrive(self, source: int, target: int, data: bytes) -> None:
        if (source, target) not in self.cut:
            self.deliver(source, target, data)

    def separate(self, one: int, other: int) -> None:
        """Cut a link both ways."""
        self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()
        self.slow.clear()
