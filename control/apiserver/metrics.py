"""What this server counts and measures, and how Prometheus is told.

Counting lies on the way of every request, telling does not: so a series is numbers in a dict, found by one lookup, and
prometheus-client, which knows this process and takes collectors of others, is imported when somebody first asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Labels = tuple[str, ...]
SERIES_MAX = 10_000
"""Series of one metric; what would be more is dropped, for labels may come from outside."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Return the bounds of buckets that grow by a factor."""
    return tuple(first * factor**index for index in range(count))


class Counter:
    """Numbers that grow."""

    kind: Literal["counter", "gauge"] = "counter"

    def __init__(self, name: str, help_text: str, labels: Labels = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self.values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        values = self.values
        if labels in values:
            values[labels] += by
        elif len(values) < SERIES_MAX:
            values[labels] = by

    def lines(self) -> Iterator[str]:
        """Yield the samples as text."""
        for labels, value in self.values.items():
            yield f"{self.name}{_pairs(self.labels, labels)} {_number(value)}"


class Gauge(Counter):
    """Numbers that come and go."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Note the number as it is now."""
        if labels in self.values or len(self.values) < SERIES_MAX:
            self.values[labels] = value


class Reading(Counter):
    """Numbers that somebody else keeps and that are read when they are asked for."""

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Labels,
        read: Callable[[], Mapping[Labels, float]],
        kind: Literal["counter", "gauge"],
    ) -> None:
        super().__init__(name, help_text, labels)
        self.kind = kind
        self._read = read

    def lines(self) -> Iterator[str]:
        """Yield the samples as text."""
        self.values = dict(self._read())
        return super().lines()


class Histogram:
    """How often which values occurred."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self.bounds = bounds
        self.series: dict[Labels, list[float]] = {}
        """For each set of labels a count for each bound, one for what is above all, and the sum."""

    def of(self, *labels: str) -> list[float]:
        """Return one series, to be kept by those who observe often."""
        found = self.series.get(labels)
        if found is None:
            found = [0.0] * (len(self.bounds) + 2)
            if len(self.series) < SERIES_MAX:
                self.series[labels] = found
        return found

    def observe(self, value: float, *labels: str) -> None:
        """Note one value."""
        series = self.of(*labels)
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def counts(self) -> dict[Labels, float]:
        """Return how many values each series has."""
        return {labels: sum(series[:-1]) for labels, series in self.series.items()}

    def lines(self) -> Iterator[str]:
        """Yield the samples as text."""
        names = (*self.labels, "le")
        bounds = [*(_number(bound) for bound in self.bounds), "+Inf"]
        for labels, series in self.series.items():
            total = 0.0
            for bound, count in zip(bounds, series, strict=False):
                total += count
                yield f"{self.name}_bucket{_pairs(names, (*labels, bound))} {_number(total)}"
            yield f"{self.name}_sum{_pairs(self.labels, labels)} {_number(series[-1])}"
            yield f"{self.name}_count{_pairs(self.labels, labels)} {_number(total)}"


class Metrics:
    """All metrics of one server, each made once by who counts it."""

    def __init__(self) -> None:
        self._all: dict[str, Counter | Histogram] = {}
        self._refresh: list[Callable[[], Awaitable[None]]] = []
        self._registry: CollectorRegistry | None = None

    def _add(self, metric: Counter | Histogram) -> None:
        assert metric.name not in self._all, f"metric {metric.name} is made twice"
        self._all[metric.name] = metric

    def counter(self, name: str, help_text: str, labels: Labels = ()) -> Counter:
        """Make a counter."""
        made = Counter(name, help_text, labels)
        self._add(made)
        return made

    def gauge(self, name: str, help_text: str, labels: Labels = ()) -> Gauge:
        """Make a gauge."""
        made = Gauge(name, help_text, labels)
        self._add(made)
        return made

    def histogram(self, name: str, help_text: str, labels: Labels, bounds: tuple[float, ...]) -> Histogram:
        """Make a histogram."""
        made = Histogram(name, help_text, labels, bounds)
        self._add(made)
        return made

    def reading(
        self,
        name: str,
        help_text: str,
        labels: Labels,
        read: Callable[[], Mapping[Labels, float]],
        kind: Literal["counter", "gauge"] = "gauge",
    ) -> None:
        """Have a metric's numbers read each time they are asked for."""
        self._add(Reading(name, help_text, labels, read, kind))

    def before(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Have this awaited before each answer: for numbers that must be fetched."""
        self._refresh.append(refresh)

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of prometheus-client that is told beside our own metrics."""
        if self._registry is None:
            from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

            self._registry = CollectorRegistry()
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._registry)
        return self._registry

    async def text(self, *, process: bool = True) -> bytes:
        """Return everything in Prometheus' text format, with what the process itself is like or without."""
        for refresh in self._refresh:
            await refresh()
        parts: list[str] = []
        for name in sorted(self._all):
            metric = self._all[name]
            lines = list(metric.lines())
            if lines:
                parts += (f"# HELP {name} {_escaped(metric.help_text)}", f"# TYPE {name} {metric.kind}", *lines)
        own = "\n".join(parts).encode() + (b"\n" if parts else b"")
        if not process:
            return own
        from prometheus_client import generate_latest

        return own + generate_latest(self.registry)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _pairs(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    shown = (f'{name}="{_quoted(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(shown) + "}"


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"') if '"' in text or "\\" in text or "\n" in text else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
