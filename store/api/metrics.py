"""What /metrics says: etcd's names and types, of what there is here to measure.

Nothing is computed before somebody asks. What etcd counts of its bbolt file, its v2 store, its Go runtime and its gRPC
proxy does not exist here and is left out; ``ABSENT`` names it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from store.api.backend import VERSION, Backend
from store.api.errors import Code
from store.raft.statistics import BOUNDS_S, Histogram

ABSENT = {
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds": "bbolt's",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds": "bbolt's",
    "etcd_debugging_disk_backend_commit_write_duration_seconds": "bbolt's",
    "etcd_debugging_lease_ttl_total": "a histogram of lifetimes; nobody needed it yet",
    "etcd_debugging_mvcc_db_compaction_last": "compaction frees in small steps, without an end that has a time",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": "compaction frees in small steps",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": "compaction frees in small steps",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "compaction frees in small steps",
    "etcd_debugging_mvcc_total_put_size_in_bytes": "not counted",
    "etcd_debugging_snap_save_marshalling_duration_seconds": "snapshots are written in slices",
    "etcd_debugging_snap_save_total_duration_seconds": "snapshots are written in slices",
    "etcd_debugging_store_expires_total": "etcd's v2 store",
    "etcd_debugging_store_reads_total": "etcd's v2 store",
    "etcd_debugging_store_watch_requests_total": "etcd's v2 store",
    "etcd_debugging_store_watchers": "etcd's v2 store",
    "etcd_debugging_store_writes_total": "etcd's v2 store",
    "etcd_disk_backend_defrag_duration_seconds": "there is no file to rewrite",
    "etcd_disk_backend_snapshot_duration_seconds": "a snapshot is sent as fast as its client reads",
    "etcd_disk_wal_write_bytes_total": "not counted",
    "etcd_disk_wal_write_duration_seconds": "writes only fill the page cache; the sync is what takes time",
    "etcd_grpc_proxy_cache_hits_total": "etcd's proxy",
    "etcd_grpc_proxy_cache_keys_total": "etcd's proxy",
    "etcd_grpc_proxy_cache_misses_total": "etcd's proxy",
    "etcd_grpc_proxy_events_coalescing_total": "etcd's proxy",
    "etcd_grpc_proxy_watchers_coalescing_total": "etcd's proxy",
    "etcd_mvcc_db_open_read_transactions": "bbolt's",
    "etcd_mvcc_hash_duration_seconds": "not timed",
    "etcd_mvcc_hash_rev_duration_seconds": "not timed",
    "etcd_server_apply_duration_seconds": "requests are applied by groups, not timed one by one",
    "etcd_server_go_version": "Go's",
    "etcd_server_heartbeat_send_failures_total": "not counted",
    "etcd_server_learner_promote_successes": "not counted",
    "etcd_server_slow_apply_total": "requests are applied by groups, not timed one by one",
    "etcd_server_slow_read_indexes_total": "not timed",
    "etcd_server_snapshot_apply_in_progress_total": "a snapshot is applied in one step",
    "etcd_snap_db_fsync_duration_seconds": "bbolt's",
    "etcd_snap_db_save_total_duration_seconds": "bbolt's",
    "process_network_receive_bytes_total": "of the whole machine, not of the process",
    "process_network_transmit_bytes_total": "of the whole machine, not of the process",
    "process_virtual_memory_max_bytes": "without a meaning here",
    "promhttp_metric_handler_requests_in_flight": "Go's",
    "promhttp_metric_handler_requests_total": "Go's",
}
"""etcd 3.5's metrics that are not served, and why; ``go_*`` and ``grpc_go_*`` apart."""


@dataclass(frozen=True)
class Metric:
    """One metric and its samples, each as what stands behind the name, and the value."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[str, float], ...]

    def lines(self) -> Iterator[str]:
        """The text that Prometheus reads."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            yield f"{self.name}{labels} {float(value):.17g}"


def text(backend: Backend) -> bytes:
    """All metrics of a member."""
    lines = [line for metric in _all(backend) for line in metric.lines()]
    return ("\n".join(lines) + "\n").encode()


def _all(backend: Backend) -> Iterable[Metric]:
    yield from _of_server(backend)
    yield from _of_keys(backend)
    yield from _of_disk(backend)
    yield from _of_calls(backend)
    yield from _of_process()


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return Metric(name, "gauge", help_text, (("", value),))


def _counter(name: str, help_text: str, value: float) -> Metric:
    return Metric(name, "counter", help_text, (("", value),))


def _labelled(name: str, help_text: str, **labels: str) -> Metric:
    return Metric(name, "gauge", help_text, ((_labels(**labels), 1),))


def _labels(**labels: str) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    samples: list[tuple[str, float]] = []
    total = 0
    for bound_s, count in zip((*BOUNDS_S, float("inf")), histogram.counts, strict=True):
        total += count
        samples.append((_labels(le="+Inf" if bound_s == float("inf") else f"{bound_s:g}"), total))
    return _Histogram(name, "histogram", help_text, (*samples, ("sum", histogram.sum_s), ("count", total)))


class _Histogram(Metric):
    """A metric whose samples have names of their own."""

    def lines(self) -> Iterator[str]:
        """The text that Prometheus reads."""
        yield from (f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}")
        for labels, value in self.samples:
            part = f"_bucket{labels}" if labels.startswith("{") else f"_{labels}"
            yield f"{self.name}{part} {float(value):.17g}"


def _of_server(backend: Backend) -> Iterator[Metric]:
    consensus, counters, auth = backend.consensus, backend.counters, backend.machine.auth
    yield _gauge("etcd_server_has_leader", "1 where a leader is known.", bool(consensus.leader_id))
    yield _gauge("etcd_server_is_leader", "1 where this member leads.", consensus.is_leader)
    yield _gauge("etcd_server_is_learner", "1 where this member does not vote.", backend.is_learner())
    yield _counter("etcd_server_leader_changes_seen_total", "New leaders seen.", consensus.statistics.leader_changes)
    yield _gauge("etcd_server_proposals_committed_total", "Index of the newest commit.", consensus.commit_index)
    yield _gauge("etcd_server_proposals_applied_total", "Index of what is applied.", consensus.applied_index)
    yield _gauge("etcd_server_proposals_pending", "Proposals without a result yet.", consensus.proposals_pending)
    yield _counter("etcd_server_proposals_failed_total", "Proposals without a result.", counters.proposals_failed)
    yield _counter(
        "etcd_server_read_indexes_failed_total", "Reads that no leader confirmed.", counters.read_indexes_failed
    )
    yield _gauge(
        "etcd_server_quota_backend_bytes", "From here on writes are refused.", backend.limits.quota_backend_bytes
    )
    yield _labelled("etcd_server_version", "The etcd version whose API is spoken.", server_version=VERSION)
    yield _labelled(
        "etcd_cluster_version", "The etcd version that all members speak.", cluster_version=VERSION.rpartition(".")[0]
    )
    yield _labelled("etcd_server_id", "This member's id.", server_id=f"{consensus.member_id:x}")
    yield _counter("etcd_server_health_success", "Probes answered well.", counters.health_successes)
    yield _counter("etcd_server_health_failures", "Probes answered badly.", counters.health_failures)
    yield _gauge("etcd_debugging_auth_revision", "Revision of users and roles.", auth.revision)


def _of_keys(backend: Backend) -> Iterator[Metric]:
    store, watchers, lessor = backend.machine.store, backend.machine.watchers, backend.machine.lessor
    methods = backend.counters.methods
    ranges = methods["/etcdserverpb.KV/Range"].started if "/etcdserverpb.KV/Range" in methods else 0
    yield _counter("etcd_mvcc_put_total", "Puts, those of a restored state included.", store.puts)
    yield _counter("etcd_mvcc_delete_total", "Deleted keys.", store.deletes)
    yield _counter("etcd_mvcc_txn_total", "Transactions.", backend.machine.transactions)
    yield _counter("etcd_mvcc_range_total", "Ranges asked for.", ranges)
    yield _counter("etcd_debugging_mvcc_range_total", "The same.", ranges)
    yield _gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of all kept records.", store.size_bytes)
    yield _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "The same: there are no holes.", store.size_bytes)
    yield _gauge("etcd_debugging_mvcc_keys_total", "Keys.", len(store))
    yield _gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", store.current_revision)
    yield _gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", store.compact_revision)
    yield _counter("etcd_debugging_mvcc_db_compaction_keys_total", "Changes freed by compaction.", store.dropped)
    yield _gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", len(watchers))
    yield _gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watchers.", watchers.streams)
    yield _gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read the history.", watchers.behind)
    yield _gauge("etcd_debugging_mvcc_pending_events_total", "Changes that wait to be sent.", watchers.pending_changes)
    yield _counter("etcd_debugging_mvcc_events_total", "Changes sent to watchers.", watchers.changes_sent)
    yield _gauge("etcd_debugging_lease_total", "Leases.", len(lessor))
    yield _counter("etcd_debugging_lease_granted_total", "Leases made.", lessor.granted)
    yield _counter("etcd_debugging_lease_revoked_total", "Leases ended.", lessor.ended)
    yield _counter("etcd_debugging_lease_renewed_total", "Renewals, at the leader.", backend.counters.leases_renewed)
    yield _counter(
        "etcd_debugging_server_lease_expired_total", "Leases whose time was up.", backend.counters.leases_expired
    )


def _of_disk(backend: Backend) -> Iterator[Metric]:
    statistics = backend.consensus.statistics
    yield _histogram("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", statistics.log_syncs)
    yield _histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Syncs of the state, which are those of snapshots.",
        statistics.snapshot_syncs,
    )
    yield _histogram("etcd_snap_fsync_duration_seconds", "Syncs of snapshots.", statistics.snapshot_syncs)
    yield _gauge("etcd_disk_defrag_inflight", "1 while the member is defragmented, which takes no time.", 0)


def _of_calls(backend: Backend) -> Iterator[Metric]:
    counters = backend.counters
    started, handled, received, sent = [], [], [], []
    for path, counts in sorted(counters.methods.items()):
        service, _, method = path[1:].partition("/")
        labels = {"grpc_method": method, "grpc_service": service, "grpc_type": counts.kind}
        started.append((_labels(**labels), counts.started))
        received.append((_labels(**labels), counts.received))
        sent.append((_labels(**labels), counts.sent))
        for code in Code:
            if counts.handled[code] or code == Code.OK:
                handled.append((_labels(grpc_code=_CODE_NAMES[code], **labels), counts.handled[code]))
    yield Metric("grpc_server_started_total", "counter", "Calls begun.", tuple(started))
    yield Metric("grpc_server_handled_total", "counter", "Calls ended.", tuple(handled))
    yield Metric("grpc_server_msg_received_total", "counter", "Messages of clients.", tuple(received))
    yield Metric("grpc_server_msg_sent_total", "counter", "Messages to clients.", tuple(sent))
    yield _counter(
        "etcd_network_client_grpc_received_bytes_total", "Bytes of clients' messages.", counters.received_bytes
    )
    yield _counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients.", counters.sent_bytes)
    requests = tuple(
        (_labels(client_api_version=version, type=kind), count)
        for version, counts in sorted(counters.client_requests.items())
        for kind, count in zip(("unary", "stream"), counts, strict=True)
        if count
    )
    yield Metric("etcd_server_client_requests_total", "counter", "Calls by the client's version.", requests)


def _of_process() -> Iterator[Metric]:
    page_bytes, ticks_per_s = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    # The program's name may hold anything and stands in parentheses; field 3 follows.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    booted_at_s = next(
        float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    descriptors, descriptors_max = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield _counter("process_cpu_seconds_total", "Processor time.", usage.ru_utime + usage.ru_stime)
    yield _gauge("process_open_fds", "Open files.", descriptors)
    yield _gauge("process_max_fds", "Files that may be open.", descriptors_max)
    yield _gauge("os_fd_used", "Open files.", descriptors)
    yield _gauge("os_fd_limit", "Files that may be open.", descriptors_max)
    yield _gauge("process_resident_memory_bytes", "Memory in use.", int(fields[21]) * page_bytes)
    yield _gauge("process_virtual_memory_bytes", "Address space.", int(fields[20]))
    yield _gauge("process_start_time_seconds", "When it started.", booted_at_s + int(fields[19]) / ticks_per_s)


_CODE_NAMES = {code: "".join(part.title() for part in code.name.split("_")) for code in Code}
_CODE_NAMES |= {Code.OK: "OK", Code.CANCELLED: "Canceled"}
