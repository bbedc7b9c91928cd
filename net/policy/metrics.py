"""What /metrics tells of NetworkPolicy on one node."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from net.policy.apply import PolicyApplier, SyncResult

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class PolicyMetrics:
    """Count and time what is done, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.port = 0
        """Where metrics are served, 0 before."""
        self._sync = Histogram(
            "raftsman_policy_sync_duration_seconds", "Time from plan to kernel.",
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._latency = Histogram(
            "raftsman_policy_programming_duration_seconds", "Time from the first change seen until it is in force.",
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._admission = Histogram(
            "raftsman_policy_pod_admission_duration_seconds", "Time that a new pod waited for its isolation.",
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "raftsman_policy_sync_failures", "Syncs that the kernel refused.", registry=self.registry
        )
        self._repairs = Counter(
            "raftsman_policy_table_changes_by_others", "Changes of our table by somebody else.", registry=self.registry
        )
        self._written = Counter(
            "raftsman_policy_written_bytes", "Bytes of set elements sent to the kernel.", registry=self.registry
        )
        self._objects = Gauge(
            "raftsman_policy_objects", "Parts of the table, and policies.", ["kind"], registry=self.registry
        )

    def synced(self, took_s: float, waited_s: float | None, result: SyncResult, applier: PolicyApplier) -> None:
        """Note a sync, and how long the oldest of its changes waited for it."""
        self._sync.observe(took_s)
        if waited_s is not None:
            self._latency.observe(waited_s)
        self._written.inc(result.written_bytes)
        book = applier.book
        counts = {
            "policies": len(book.policies),
            "policies_refused": len(applier.refused),
            "chains": len(book.chains),
            "rules": sum(len(chain.rules) for chain in book.chains.values()),
            "sets": len(book.sets),
        }
        for kind, count in counts.items():
            self._objects.labels(kind).set(count)

    def failed(self) -> None:
        """Note a sync that failed."""
        self._failures.inc()

    def tampered(self) -> None:
        """Note that somebody else changed the table."""
        self._repairs.inc()

    def admitted(self, took_s: float) -> None:
        """Note a pod that passed the gate."""
        self._admission.observe(took_s)

    def serve(self, bind_address: str) -> WSGIServer:
        """Answer /metrics in a thread until the server is shut down."""
        address, _, port = bind_address.rpartition(":")
        server, _ = start_http_server(int(port), address.strip("[]"), self.registry)
        self.port = server.server_port
        return server
