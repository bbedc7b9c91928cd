"""Read the proxies' metrics: connections by Service, and how soon changes stand in the kernel. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

CONNECTIONS = "raftsman_proxy_service_connections"
PROGRAMMING = "kubeproxy_network_programming_duration_seconds"
SYNC = "kubeproxy_sync_proxy_rules_duration_seconds"


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """Name one way into a Service."""

    service: str
    port: str
    protocol: str
    front: str


@dataclass(frozen=True, slots=True)
class Durations:
    """Hold a histogram: how many took at most how long."""

    buckets: tuple[tuple[float, float], ...] = ()
    """Upper bound in seconds, and the number of those that took no longer."""

    @property
    def count(self) -> int:
        """How many there were."""
        return int(self.buckets[-1][1]) if self.buckets else 0

    def quantile_s(self, share: float) -> float:
        """Return the bucket's bound below which this share lies, in seconds; infinite above the last."""
        wanted = share * self.count
        return next((bound for bound, number in self.buckets if number and number >= wanted), float("inf"))


@dataclass(frozen=True)
class Counters:
    """Hold what one node's proxy tells."""

    connections: Mapping[Way, int] = field(default_factory=dict)
    programming: Durations = field(default_factory=Durations)
    sync: Durations = field(default_factory=Durations)


def parse(exposition: str) -> Counters:
    """Read the text that /metrics answers; both IP versions' durations are added up."""
    connections: dict[Way, int] = {}
    buckets: dict[str, dict[float, float]] = {PROGRAMMING: {}, SYNC: {}}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = sample.labels
            if sample.name in (CONNECTIONS, f"{CONNECTIONS}_total"):
                service = f"{labels['namespace']}/{labels['service']}"
                way = Way(service, labels.get("port", ""), labels.get("protocol", ""), labels.get("front", ""))
                connections[way] = connections.get(way, 0) + int(sample.value)
            elif sample.name.endswith("_bucket") and (name := sample.name.removesuffix("_bucket")) in buckets:
                bound = float(labels["le"])
                buckets[name][bound] = buckets[name].get(bound, 0.0) + sample.value
    durations = {name: Durations(tuple(sorted(held.items()))) for name, held in buckets.items()}
    return Counters(connections, durations[PROGRAMMING], durations[SYNC])


def totals(found: Mapping[str, Counters], service: str = "") -> dict[Way, dict[str, int]]:
    """Return the connections of each way by node; of one Service where one is named."""
    ways = sorted({way for counted in found.values() for way in counted.connections if service in ("", way.service)})
    return {way: {node: counted.connections.get(way, 0) for node, counted in found.items()} for way in ways}


def as_json(found: Mapping[str, Counters], service: str = "") -> dict[str, object]:
    """Return the counters as JSON-shaped values."""
    ways = [
        {"service": w.service, "port": w.port, "protocol": w.protocol, "front": w.front, "connections": nodes}
        for w, nodes in totals(found, service).items()
    ]
    return {"services": ways, "nodes": {node: _durations(counted) for node, counted in found.items()}}


def _durations(counted: Counters) -> dict[str, object]:
    told: dict[str, object] = {}
    for name, held in (("programming", counted.programming), ("sync", counted.sync)):
        shares = {f"p{round(share * 100)}_s": held.quantile_s(share) for share in (0.5, 0.99)} if held.count else {}
        told[name] = {"count": held.count, **shares}
    return told
