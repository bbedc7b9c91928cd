"""Tell what the resolver counts, under CoreDNS's names, and whether it is well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from net.dns.resolver import LATENCY_BUCKETS_S

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_S = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Counts = dict[str, Any]
Ask = Callable[[], Awaitable[Counts | None]]


class _Collected:
    """The families of one scrape."""

    def __init__(self, counts: Counts, zone: str) -> None:
        self._counts, self._zone = counts, zone

    def _name(self, zone: str) -> str:
        return self._zone if zone == "own" else zone

    def collect(self) -> Iterator[Metric]:
        """Return what was counted."""
        counts = self._counts
        requests = CounterMetricFamily(
            "coredns_dns_requests", "Questions by zone, transport and type.", labels=["zone", "proto", "type"]
        )
        for proto, kind, zone, count in counts["requests"]:
            requests.add_metric([self._name(zone), proto, kind], count)
        yield requests
        responses = CounterMetricFamily("coredns_dns_responses", "Answers by zone and code.", labels=["zone", "rcode"])
        for code, zone, count in counts["responses"]:
            responses.add_metric([self._name(zone), code], count)
        yield responses
        yield self._latencies()
        told = counts["upstream"]
        yield CounterMetricFamily("coredns_cache_hits", "Answers from the cache.", value=told["hits"])
        yield CounterMetricFamily("coredns_cache_misses", "Questions that it did not know.", value=told["misses"])
        yield GaugeMetricFamily("coredns_cache_entries", "Answers that are kept.", value=counts["cached"])
        yield CounterMetricFamily("coredns_forward_requests", "Questions sent to other servers.", value=told["asked"])
        yield CounterMetricFamily(
            "coredns_forward_max_concurrent_rejects", "Questions that nobody could be asked.", value=told["refused"]
        )
        yield CounterMetricFamily("raftsman_dns_forward_failures", "Questions nobody answered.", value=told["failed"])
        yield GaugeMetricFamily("raftsman_dns_names", "Names of the zone.", value=counts["names"])

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "coredns_dns_request_duration_seconds", "How long answers took, by zone.", labels=["zone"]
        )
        for zone, total_s in self._counts["latency_sums"].items():
            by_bucket = {bucket: count for found, bucket, count in self._counts["latencies"] if found == zone}
            running, buckets = 0, []
            for number, limit in enumerate([*map(str, LATENCY_BUCKETS_S), "+Inf"]):
                running += by_bucket.get(number, 0)
                buckets.append((limit, float(running)))
            family.add_metric([self._name(zone)], buckets, total_s)
        return family


def text(counts: Counts, zone: str) -> bytes:
    """Return counts in Prometheus' form."""
    registry = CollectorRegistry()
    registry.register(_Collected(counts, zone))
    return generate_latest(registry)


async def respond(path: str, ask: Ask, zone: str) -> tuple[int, bytes]:
    """Answer one path."""
    counts = await ask()
    match path:
        case "/health":
            return (200, b"OK") if counts is not None else (503, b"the resolver does not answer")
        case "/ready":
            if counts is None:
                return 503, b"the resolver does not answer"
            return (200, b"OK") if counts["complete"] else (503, b"kubernetes")
        case "/metrics":
            return (200, text(counts, zone)) if counts is not None else (503, b"the resolver does not answer")
        case _:
            return 404, b"not found; there are /metrics, /health and /ready"


async def serve(bind_address: str, ask: Ask, zone: str) -> None:
    """Answer until cancelled; an address that is taken is said and does no harm."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                words = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].split(b" ")
                path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else ""
                code, body = await respond(path, ask, zone)
                head = f"HTTP/1.1 {code} {'OK' if code == 200 else 'Unavailable'}\r\nContent-Type: {CONTENT_TYPE}\r\n"
                head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a scrape is cut short error=%r", error)
        finally:
            writer.close()

    address, _, port = bind_address.rpartition(":")
    try:
        server = await asyncio.start_server(answer, address.strip("[]"), int(port), limit=REQUEST_BYTES_MAX)
    except OSError as error:
        log.warning("metrics are not served address=%s error=%s", bind_address, error)
        return
    async with server:
        await server.serve_forever()
