"""A watch: synthetic events for what is there, then what changes, until its time is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import orjson

from control.api import status
from control.apiserver.cache import Batch, Delivery, Filter, ResourceCache
from control.apiserver.etcd import TransformationError
from control.apiserver.feed import Feed
from control.apiserver.kinds import Kind
from control.apiserver.paging import REVISION_MAX

REVISION_DIGITS_MAX = 19
BOOKMARK_INTERVAL_S = 60.0
INITIAL_BATCH = 500
AHEAD_PAUSE_S = 1.0
"""How often a watch that waits for a revision to come looks whether its time is over."""
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """The query of a watch."""

    resource_version: str = ""
    resource_version_match: str = ""
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None
    timeout_s: float = 0.0


def error_delivery(error: status.ApiError) -> Delivery:
    """Return the event that ends a watch by an error."""
    return Delivery("ERROR", orjson.dumps(error.status))


def too_old(asked: int, oldest: int) -> status.ApiError:
    """410: events after the revision are no longer known."""
    return status.expired(f"too old resource version: {asked} ({oldest})")


def too_large(asked: int, current: int) -> status.ApiError:
    """504: the revision has not been reached yet."""
    return status.failure(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def parse_revision(text: str) -> int:
    """Return a resourceVersion as a number; raises BadRequest."""
    if not text:
        return 0
    fault = "" if text.isascii() and text.isdecimal() else "invalid syntax"
    if not fault and (len(text) > REVISION_DIGITS_MAX or int(text) > REVISION_MAX):
        fault = "value out of range"
    if fault:
        raise status.bad_request(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": {fault}'
        )
    return int(text)


def check_readable(cache: ResourceCache) -> None:
    """Raise where stored values cannot be decrypted: a part must not be taken for the whole."""
    if cache.sealed:
        raise TransformationError(next(iter(cache.sealed.values())))


class Watch:
    """One watch of one cache; made ready by ``start``, which may refuse it, and read by ``batches``."""

    def __init__(self, feed: Feed, kind: Kind, chosen: Filter, options: WatchOptions) -> None:
        self._feed = feed
        self._kind = kind
        self._cache: ResourceCache
        self._chosen = chosen
        self._options = options
        self._initial: list[Delivery] = []
        self._position = 0
        self._epoch = 0
        self._refusal: Delivery | None = None
        self._ahead = 0
        """The revision to wait for before anything is told; 0 for none."""
        self.initialized: Callable[[], None] | None = None
        """Called once what was there at the beginning has been read."""

    async def start(self) -> None:
        """Find the place to start from; raises ApiError."""
        options = self._options
        revision = parse_revision(options.resource_version)
        initial = options.send_initial_events
        if initial is None:
            initial = revision == 0
        if revision > self._feed.revision:
            if not initial:
                self._ahead = revision
            else:
                try:
                    await self._feed.reach(revision)
                except TimeoutError:
                    raise too_large(revision, self._feed.revision) from None
        elif not options.resource_version:
            await self._feed.fresh()
        # No await from here on: list, position and epoch must belong together.
        cache = self._cache = await self._feed.cache(self._kind)
        self._epoch = cache.epoch
        check_readable(cache)
        if initial:
            self._position = cache.next_position
            self._initial = [Delivery("ADDED", entry.data) for entry in cache.select(self._chosen)]
            if options.send_initial_events and options.allow_bookmarks:
                self._initial.append(self._bookmark(initial_end=True))
        else:
            if revision and revision < cache.floor:
                # Told as an event, as by a server that notices it later: clients know where to look for it.
                self._refusal = error_delivery(too_old(revision, cache.floor))
                return
            self._position = cache.position(revision) if revision else cache.next_position

    async def _catch_up(self, end: float) -> None:
        """Stay silent until the revision is reached from which events are wanted, or the watch's time is over."""
        if self.initialized is not None:
            self.initialized()
            self.initialized = None
        now, feed, cache = asyncio.get_running_loop().time, self._feed, self._cache
        while feed.revision < self._ahead and not feed.ended and now() < end:
            try:
                await feed.reach(self._ahead, min(AHEAD_PAUSE_S, end - now()))
            except TimeoutError:
                continue
        self._epoch = cache.epoch
        if self._ahead < cache.floor:
            self._refusal = error_delivery(too_old(self._ahead, cache.floor))
        else:
            self._position = cache.position(self._ahead)

    def _bookmark(self, initial_end: bool = False) -> Delivery:
        metadata: dict[str, object] = {"resourceVersion": str(max(self._feed.revision, self._cache.changed))}
        if initial_end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        resource = self._kind.resource
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return Delivery("BOOKMARK", orjson.dumps(obj))

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield events in order, those together that waited together, until the watch's time is over."""
        now = asyncio.get_running_loop().time
        end = now() + self._options.timeout_s
        bookmark_at = now() + BOOKMARK_INTERVAL_S * random.uniform(0.75, 1.0)
        if self._ahead:
            await self._catch_up(end)
        if self._refusal is not None:
            yield Batch([self._refusal])
            return
        initial, self._initial = self._initial, []
        for start in range(0, len(initial), INITIAL_BATCH):
            self._cache.sent += len(initial[start : start + INITIAL_BATCH])
            yield Batch(initial[start : start + INITIAL_BATCH])
        del initial
        if self.initialized is not None:
            self.initialized()
        cache, chosen = self._cache, self._chosen
        while True:
            made = cache.told(self._position, chosen) if cache.epoch == self._epoch else None
            if made is None:
                yield Batch([error_delivery(too_old(self._feed.revision, cache.floor))])
                return
            self._position = cache.next_position
            over = self._feed.ended or now() >= end
            if self._options.allow_bookmarks and (over or now() >= bookmark_at):
                # Others are told the same events, but not this.
                made = Batch([*made, self._bookmark()])
                bookmark_at = now() + BOOKMARK_INTERVAL_S
            if made:
                cache.sent += len(made)
                yield made
            if over:
                return
            if made:
                continue
            wake_at = min(bookmark_at, end) if self._options.allow_bookmarks else end
            await cache.wait(max(wake_at - now(), 0.0))
