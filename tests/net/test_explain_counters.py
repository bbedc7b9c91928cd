"""What the proxies' metrics say, added up."""

from __future__ import annotations

from net.explain import counters
from net.explain.counters import Way
from net.proxy.metrics import FrontCount, ProxyMetrics

WEB = Way("default/web", "http", "TCP", "10.96.0.1:80")


def exposition(connections: int, latencies_s: list[float]) -> str:
    """Return what a proxy answers that counted and wrote this."""
    metrics = ProxyMetrics()
    for latency_s in latencies_s:
        metrics.synced(4, 0.0015, [latency_s], 0.0)
    return metrics.text([FrontCount("default/web", "http", "TCP", "10.96.0.1:80", connections)])[0]


def test_connections_are_summed_by_way_and_node() -> None:
    found = {"n1": counters.parse(exposition(3, [])), "n2": counters.parse(exposition(4, []))}
    assert counters.totals(found) == {WEB: {"n1": 3, "n2": 4}}
    assert counters.totals(found, "default/other") == {}


def test_latencies_are_told_by_their_buckets() -> None:
    found = counters.parse(exposition(0, [0.003] * 98 + [0.3, 0.3]))
    assert found.programming.count == 100
    assert found.programming.quantile_s(0.5) == 0.005
    assert found.programming.quantile_s(0.99) == 0.5
    assert found.sync.quantile_s(0.5) < 0.002
    assert counters.as_json({"n1": found})["nodes"] == {
        "n1": {
            "programming": {"count": 100, "p50_s": 0.005, "p99_s": 0.5},
            "sync": {"count": 100, "p50_s": 0.0016, "p99_s": 0.0016},
        }
    }


def test_a_proxy_that_wrote_nothing_yet_has_no_quantiles() -> None:
    assert counters.as_json({"n1": counters.parse("")})["nodes"] == {
        "n1": {"programming": {"count": 0}, "sync": {"count": 0}}
    }
