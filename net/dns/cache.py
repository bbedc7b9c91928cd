"""PURE: other servers' answers, kept for as long as they allow, the longest unused dropped first."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from net.dns import wire
from net.dns.wire import Query, Response

CacheKey = tuple[bytes, int, int, bool, int]
"""Name, type, class, DNSSEC wanted, and whether checking is off."""


def cache_key(query: Query) -> CacheKey:
    """Return under what the answer of a question is kept."""
    return query.key, query.kind, query.klass, query.wants_dnssec, query.flags & wire.CD


class Kept(NamedTuple):
    """An answer and until when it holds."""

    data: bytes
    response: Response
    since: float
    until: float


def lifetime_s(response: Response, ttl_max_s: int) -> float:
    """Return how long an answer may be kept; 0 is not at all."""
    if response.flags & wire.TC or response.rcode not in (wire.NOERROR, wire.NXDOMAIN):
        return 0.0
    answers = response.counts[0]
    if response.rcode == wire.NXDOMAIN or not answers:
        if response.negative_ttl_s is None:
            return 0.0
        return float(min(response.negative_ttl_s, ttl_max_s))
    ttls = [ttl for _, ttl in response.ttls[:answers]]
    if response.negative_ttl_s is not None:
        ttls.append(response.negative_ttl_s)  # an alias that leads to nothing
    return float(min(*ttls, ttl_max_s))


def present(kept: Kept, query: Query, now: float, size_max: int) -> bytes:
    """Return a kept answer as the answer of a question: its id, its letters, and what is left of the times to live."""
    response = kept.response
    age_s = max(0, int(now - kept.since))
    body = bytearray(kept.data[: response.end])
    head_flags = wire.QR | wire.RA | (query.flags & (wire.RD | wire.CD)) | (response.flags & (wire.AD | 0xF))
    ending = wire.opt(query, response.rcode)
    answers, authorities, others = response.counts
    if len(body) + len(ending) > size_max:
        # Whole or not at all: the asker comes back by TCP.
        del body[response.question_end :]
        head_flags |= wire.TC
        answers = authorities = others = 0
    elif age_s:
        for offset, ttl in response.ttls:
            body[offset : offset + 4] = max(0, ttl - age_s).to_bytes(4, "big")
    wire.HEADER.pack_into(body, 0, query.id, head_flags, 1, answers, authorities, others + (1 if ending else 0))
    body[wire.HEADER.size : wire.HEADER.size + len(query.name)] = query.name
    return bytes(body) + ending


class Cache:
    """Keeps answers by question, up to a number and a size."""

    def __init__(self, entries_max: int = 10_000, bytes_max: int = 8 << 20, ttl_max_s: int = 30) -> None:
        self._entries_max, self._bytes_max, self._ttl_max_s = entries_max, bytes_max, ttl_max_s
        self._kept: OrderedDict[CacheKey, Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: CacheKey, now: float) -> Kept | None:
        """Return what is kept and holds still."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: CacheKey, data: bytes, response: Response, now: float) -> Kept:
        """Keep an answer as long as it allows, and return it in the kept form."""
        kept = Kept(data, response, now, now + lifetime_s(response, self._ttl_max_s))
        self._drop(key)
        if kept.until > now:
            self._kept[key] = kept
            self._bytes += len(data)
            while len(self._kept) > self._entries_max or self._bytes > self._bytes_max:
                self._drop(next(iter(self._kept)))
        return kept

    def _drop(self, key: CacheKey) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.data)
