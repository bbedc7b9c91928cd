"""Where requests come in: each is told to which level it belongs, waits for a seat there, and gives it back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from control.api import flowcontrol, meta, status
from control.api.meta import Object
from control.apiserver.flow.fairness import ONE_SEAT, State, Ticket, Work
from control.apiserver.flow.level import EXECUTION_BOUNDS, WAIT_BOUNDS, FlowCounts, Level, observe
from control.apiserver.flow.levels import (
    BrokenConfigurationError,
    Claim,
    Wish,
    allocate,
    claim,
    divide,
    read_wish,
)
from control.apiserver.flow.matching import Classifier, Schema
from control.apiserver.flow.work import ESTIMATED, Estimator, Watches
from control.apiserver.request import RequestInfo, UserInfo

log = logging.getLogger(__name__)

TOO_MANY = "Too many requests, please try again later."
LEVEL_HEADER = b"x-kubernetes-pf-prioritylevel-uid"
SCHEMA_HEADER = b"x-kubernetes-pf-flowschema-uid"
WATCH_START_S = 10.0
"""A watch gives its seats back by then, though its client may still be reading what there was."""

WAYS_MAX = 4096
Headers = tuple[tuple[bytes, bytes], ...]


class _Route:
    """Where the requests of one schema go."""

    __slots__ = ("counts", "header_lines", "headers", "level", "schema")

    def __init__(self, schema: Schema, level: Level) -> None:
        self.schema = schema
        self.level = level
        self.counts: FlowCounts = level.count_of(schema.name)
        self.headers: Headers = (
            (SCHEMA_HEADER, schema.uid.encode()),
            (LEVEL_HEADER, level.wish.uid.encode()),
        )
        self.header_lines = b"".join(b"%b: %b\r\n" % header for header in self.headers)


_Way = tuple[_Route, str, tuple[int, ...]]
"""Where a request goes, of which flow it is there, and the queues that it may wait in."""


class Passage(Ticket):
    """One request on its way through its level."""

    __slots__ = ("_timer", "_waiter", "_watches", "entered_at", "flow", "gate", "info", "route", "user")

    def __init__(
        self, gate: FlowGate, route: _Route, user: UserInfo, info: RequestInfo, flow: str, work: Work = ONE_SEAT
    ) -> None:
        super().__init__(work)
        self.route = route
        self.user = user
        self.info = info
        self.flow = flow
        self.gate = gate
        self.entered_at = self.started_at = gate.clock()
        self._waiter: asyncio.Future[None] | None = None
        self._watches: Watches | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def headers(self) -> Headers:
        """What the answer tells of the way that its request went."""
        return self.route.headers

    @property
    def header_lines(self) -> bytes:
        """The same as lines of the answer's head."""
        return self.route.header_lines

    @property
    def admitted(self) -> bool:
        """Whether the request may be served now."""
        return self.state is State.EXECUTING

    def admit(self) -> None:
        """Be told that it may begin."""
        counts = self.route.counts
        counts.dispatched += 1
        waiter = self._waiter
        if waiter is None and self.started_at <= self.entered_at:
            counts.wait_executed[0] += 1
            return
        observe(counts.wait_executed, WAIT_BOUNDS, self.started_at - self.entered_at)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def reject(self, reason: str) -> None:
        """Count it among those that were not served."""
        self.route.level.tickets.discard(self)
        counts = self.route.counts
        counts.rejected[reason] = counts.rejected.get(reason, 0) + 1
        observe(counts.wait_rejected, WAIT_BOUNDS, max(self.gate.clock() - self.entered_at, 0.0))

    async def admission(self) -> None:
        """Wait until it may be served; raises TooManyRequests where that will not be soon."""
        if self.state is State.WAITING:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._waiter], timeout=self.gate.wait_max_s)
            if self.state is State.WAITING:
                self._abandon("time-out")
        if self.state is State.REJECTED:
            level = self.route.level
            raise status.too_many_requests(TOO_MANY, level.retry_after.note(self.gate.clock()))

    def _abandon(self, reason: str) -> None:
        self.route.level.queues.abandon(self, self.gate.clock())
        self.reject(reason)

    def begin_watch(self, watches: Watches) -> None:
        """Count a watch, which leaves its seats to others once it has begun."""
        self._watches = watches
        watches.add(self.info)
        self._timer = asyncio.get_running_loop().call_later(WATCH_START_S, self.initialized)

    def initialized(self) -> None:
        """Give the seats back: the rest of a watch costs little."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state is not State.EXECUTING:
            return
        route, now = self.route, self.gate.clock()
        level = route.level
        observe(route.counts.execution, EXECUTION_BOUNDS, now - self.started_at)
        if level.queues.answered(self, now):
            asyncio.get_running_loop().call_later(self.work.final_s, self._finish)
        else:
            level.tickets.discard(self)

    def _finish(self) -> None:
        level = self.route.level
        level.queues.finish(self, self.gate.clock())
        level.tickets.discard(self)

    def leave(self) -> None:
        """End, whatever has become of it; to be called once for each that entered."""
        if self.state is State.WAITING:
            self._abandon("cancelled")
        else:
            self.initialized()
        if self._watches is not None:
            self._watches.remove(self.info)
            self._watches = None


class FlowGate:
    """All levels of one server."""

    def __init__(
        self,
        seats: int,
        wait_max_s: float,
        count: Callable[[RequestInfo], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seats = seats
        """Seats of all levels together."""
        self.wait_max_s = wait_max_s
        self.clock = clock
        self.watches = Watches()
        self.levels: dict[str, Level] = {}
        self.fair_share = 1.0
        """Of what all levels would like, how much they get."""
        self._estimator = Estimator(count, self.watches)
        self._classifier: Classifier
        self._routes: dict[str, _Route] = {}
        self._ways: dict[tuple[int, int], tuple[UserInfo, RequestInfo, _Way]] = {}
        self.configure((), ())

    # Configuration.

    def configure(self, levels: Iterable[Object], schemas: Iterable[Object]) -> dict[str, str]:
        """Follow these objects; return the levels that schemas name in vain, by the schema's name."""
        now = self.clock()
        wishes = self._wishes(levels)
        dangling: dict[str, str] = {}
        read: dict[str, Schema] = {}
        for obj in schemas:
            try:
                schema = Schema(obj)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("flow schema is ignored name=%s reason=%r", meta.name(obj), error)
                continue
            if schema.level_name in wishes:
                read[schema.name] = schema
            else:
                dangling[schema.name] = schema.level_name
        for fixed in flowcontrol.flow_schemas():
            if meta.name(fixed) in (flowcontrol.EXEMPT, flowcontrol.CATCH_ALL):
                read.setdefault(meta.name(fixed), Schema(fixed))
        self._set_levels(wishes, now)
        self._classifier = Classifier(read.values())
        self._ways = {}
        self._routes = {schema.name: _Route(schema, self.levels[schema.level_name]) for schema in read.values()}
        return dangling

    @staticmethod
    def _wishes(levels: Iterable[Object]) -> dict[str, Wish]:
        wishes: dict[str, Wish] = {}
        for obj in levels:
            try:
                wish = read_wish(obj)
            except (BrokenConfigurationError, KeyError, TypeError, ValueError) as error:
                log.warning("priority level is ignored name=%s reason=%s", meta.name(obj), error)
                continue
            wishes[wish.name] = wish
        for fixed in flowcontrol.priority_levels():
            if meta.name(fixed) in (flowcontrol.EXEMPT, flowcontrol.CATCH_ALL):
                wishes.setdefault(meta.name(fixed), read_wish(fixed))
        return wishes

    def _set_levels(self, wishes: Mapping[str, Wish], now: float) -> None:
        leaving = {name: level for name, level in self.levels.items() if name not in wishes and not level.idle}
        limits = divide(self.seats, [*wishes.values(), *(level.wish for level in leaving.values())])
        kept: dict[str, Level] = {}
        for name, wish in wishes.items():
            level = self.levels.get(name)
            if level is None:
                level = Level(wish, limits[name], now)
            else:
                level.configure(wish, limits[name], now)
                level.quiescing = False
            kept[name] = level
        for name, level in leaving.items():
            level.configure(level.wish, limits[name], now)
            level.quiescing = True
            kept[name] = level
        self.levels = kept

    def borrow(self) -> None:
        """Move seats from levels that do not use theirs to those that want more; to be called every ten seconds."""
        now = self.clock()
        self.levels = {name: level for name, level in self.levels.items() if not (level.quiescing and level.idle)}
        total = float(sum(level.limits.nominal for level in self.levels.values()))
        limited: list[Level] = []
        claims: list[Claim] = []
        for level in self.levels.values():
            level.demand.update(*level.queues.take_demand(now))
            made = claim(level.demand, level.limits)
            if level.wish.exempt:
                # Nobody can keep exempt requests from being served: the others share what those leave.
                level.current = round(max(level.demand.peak, level.limits.lower))
                total -= level.current
            else:
                limited.append(level)
                claims.append(made)
        if limited:
            granted, self.fair_share = allocate(max(total, 0.0), claims)
            for level, seats in zip(limited, granted, strict=True):
                level.set_current(round(seats), now)

    # Requests.

    def enter(self, user: UserInfo, info: RequestInfo, query: Mapping[str, tuple[str, ...]]) -> Passage:
        """Take a request in; it may be admitted, have to wait, or be rejected: ``Passage.admission`` tells."""
        route, flow, hand = self._way(user, info)
        level = route.level
        work = ONE_SEAT
        if info.verb in ESTIMATED and not level.wish.exempt and info.is_resource_request:
            work = self._estimator.estimate(info, query, level.seats_max)
        passage = Passage(self, route, user, info, flow, work)
        level.tickets.add(passage)
        reason = level.queues.enter(passage, hand, passage.entered_at)
        if reason:
            passage.reject(reason)
        elif info.verb == "watch" and info.is_resource_request:
            passage.begin_watch(self.watches)
        return passage

    def enter_at_once(self, user: UserInfo, info: RequestInfo) -> Passage | None:
        """Take in a request of one seat that need not wait; None, and no trace of it, where it would have to."""
        route, flow, hand = self._way(user, info)
        level = route.level
        if not level.queues.has_room:
            return None
        passage = Passage(self, route, user, info, flow)
        level.tickets.add(passage)
        level.queues.enter(passage, hand, passage.entered_at)
        return passage

    def _way(self, user: UserInfo, info: RequestInfo) -> _Way:
        """Return which way the user's requests of this sort go; remembered until the configuration changes."""
        key = (id(user), id(info))
        known = self._ways.get(key)
        if known is not None and known[0] is user and known[1] is info:
            return known[2]
        route = self._routes[self._classifier.classify(user, info).name]
        flow = route.schema.distinguisher(user, info)
        hand = route.level.hand(route.schema.name, flow) if route.level.wish.queuing is not None else ()
        if len(self._ways) >= WAYS_MAX:
            self._ways.clear()
        way = route, flow, hand
        self._ways[key] = user, info, way
        return way

    def dump(self, what: str, details: bool) -> bytes | None:
        """Return a table of its state for people, None where there is none of this name."""
        from control.apiserver.flow.dump import dump

        return dump(self, what, details)
