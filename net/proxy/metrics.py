"""Count what the proxy does, under kube-proxy's names where it has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from control.api.meta import Object

TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
_SYNC_BUCKETS = tuple(0.0001 * 2**power for power in range(20))
_PROGRAMMING_BUCKETS = (
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, *(float(second) for second in range(1, 61, 3)), 120.0, 300.0,
)  # fmt: skip
FAMILIES = {4: "IPv4", 6: "IPv6"}


def trigger_time(obj: Object | None) -> float:
    """Return when the change behind a slice was made, in wall-clock seconds; 0 where it does not say."""
    text = (((obj or {}).get("metadata") or {}).get("annotations") or {}).get(TRIGGER_ANNOTATION)
    if not text:
        return 0.0
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class FrontCount:
    """Hold the connections that one way in has seen."""

    service: str
    port: str
    protocol: str
    front: str
    """address:port, or :port of a node port."""
    connections: int


class _Connections(Collector):
    """Hold what the kernel had counted when it was asked last."""

    def __init__(self) -> None:
        self.counts: Iterable[FrontCount] = ()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the one family."""
        family = CounterMetricFamily(
            "raftsman_proxy_service_connections",
            "Connections that asked for a Service on this node, by the address that they asked for.",
            labels=("namespace", "service", "port", "protocol", "front"),
        )
        for count in self.counts:
            namespace, _, name = count.service.partition("/")
            family.add_metric([namespace, name, count.port, count.protocol, count.front], count.connections)
        yield family


class ProxyMetrics:
    """Own the registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._connections = _Connections()
        self.registry.register(self._connections)
        family = ("ip_family",)
        self._sync = Histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds", "How long a sync took.", family,
            registry=self.registry, buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self._programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod or Service until the rules stood.", family,
            registry=self.registry, buckets=_PROGRAMMING_BUCKETS,
        )  # fmt: skip
        self._last = Gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last sync succeeded.", family,
            registry=self.registry,
        )  # fmt: skip
        counters = {
            kind: Counter(
                f"kubeproxy_sync_proxy_rules_{kind}_changes", f"Changes of {kind}s that matter.", family,
                registry=self.registry,
            )
            for kind in ("service", "endpoint")
        }  # fmt: skip
        # Finding a labelled counter takes longer than counting, and there are thousands at start.
        self._changes = {
            (kind, version): counter.labels(name)
            for kind, counter in counters.items()
            for version, name in FAMILIES.items()
        }
        self._failures = Counter(
            "kubeproxy_sync_proxy_rules_sync_failures", "Syncs that wrote nothing.", family, registry=self.registry
        )
        self._flows = Counter(
            "kubeproxy_conntrack_reconciler_deleted_entries", "Flows dropped from conntrack.", family,
            registry=self.registry,
        )  # fmt: skip
        self._flows_took = Histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds", "How long a look at the flows took.", family,
            registry=self.registry, buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self.tracked = Gauge("raftsman_proxy_conntrack_entries", "Flows that are tracked.", registry=self.registry)
        self.tracked_max = Gauge("raftsman_proxy_conntrack_entries_max", "Room for flows.", registry=self.registry)
        self.untracked = Gauge(
            "raftsman_proxy_conntrack_drops", "Packets dropped for want of room since start.", registry=self.registry
        )

    def changed(self, kind: str, ip_version: int) -> None:
        """Note a change of a Service or of its endpoints."""
        self._changes[kind, ip_version].inc()

    def synced(self, ip_version: int, took_s: float, latencies_s: Sequence[float], now_s: float) -> None:
        """Note a sync."""
        family = FAMILIES[ip_version]
        self._sync.labels(family).observe(took_s)
        self._last.labels(family).set(now_s)
        for latency_s in latencies_s:
            self._programming.labels(family).observe(max(0.0, latency_s))

    def failed(self, ip_version: int) -> None:
        """Note a sync that failed."""
        self._failures.labels(FAMILIES[ip_version]).inc()

    def reconciled(self, ip_version: int, dropped: int, took_s: float) -> None:
        """Note a look at the tracked flows."""
        self._flows.labels(FAMILIES[ip_version]).inc(dropped)
        self._flows_took.labels(FAMILIES[ip_version]).observe(took_s)

    def text(self, counts: Iterable[FrontCount] = ()) -> tuple[str, str]:
        """Return the exposition, with these counts of the kernel's, and its content type."""
        self._connections.counts = counts
        return generate_latest(self.registry).decode(), CONTENT_TYPE_LATEST
