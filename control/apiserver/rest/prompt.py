"""The short road of a get: no task, one look at each memory, and the answer written in the pass that brings the news.

It is for the request that controllers and kubelets send most: one object as JSON, from memory, without a query, with
the headers of the one before. All that decides is asked as for any other request (who, may they, a seat, how new is
memory), by calls that do not wait. Where one would have to, or says no, the application answers as if nothing had been.
"""

from __future__ import annotations

import logging
from time import perf_counter

from control.api.status import ApiError
from control.apiserver.auditid import audit_id_of
from control.apiserver.cache import Entry
from control.apiserver.measures import RequestMetrics, RequestSeries
from control.apiserver.request import Credentials, Judge, Passage, Proof, RequestInfo, parse
from control.apiserver.rest.door import Host
from control.apiserver.rest.exchange import LARGE_BYTES, NOT_CACHED, PERSONS, read_headers
from control.apiserver.rest.negotiate import JSON, PLAIN, choose
from control.apiserver.rest.recall import Head, Target
from control.apiserver.service import Service

log = logging.getLogger(__name__)

PLANS_MAX = 4096
_HEAD = b"content-type: %b\r\ncache-control: %b\r\n" % (JSON.encode(), NOT_CACHED)


class _Asker:
    """What the headers of a connection's gets say."""

    __slots__ = ("headers", "proof")

    def __init__(self, headers: dict[str, tuple[str, ...]], proof: Proof | None) -> None:
        self.headers = headers
        self.proof = proof
        """Who asks; None where their requests go the long road."""


class _Plan:
    """What a target means while the served kinds stay as they are."""

    __slots__ = ("generation", "info", "key", "prefix", "series")

    def __init__(self, info: RequestInfo, prefix: str, key: str, series: RequestSeries, generation: int) -> None:
        self.info = info
        self.prefix = prefix
        """Of its kind's keys; empty where requests of this target go the long road."""
        self.key = key
        self.series = series
        self.generation = generation


class PromptGets:
    """Answers gets without a task."""

    def __init__(self, service: Service, judge: Judge, requests: RequestMetrics) -> None:
        self.in_flight = 0
        self._service = service
        self._judge = judge
        self._requests = requests
        self._feed = service.feed
        self._kinds = service.registry.kinds
        self._plans: dict[Target, _Plan] = {}

    def take(self, host: Host, head: Head, target: Target) -> bool:
        """Answer a get once memory is fresh; tell whether that will be done."""
        if target.method != "GET" or target.query or host.door.ending or not self._feed.following:
            return False
        asker: _Asker = head.note or self._meet(host, head)
        plan = self._plans.get(target)
        if plan is None or plan.generation != self._kinds.generation:
            plan = self._plan(target)
        if asker.proof is None or not plan.prefix:
            return False
        routes = self._service.routes
        if routes and (plan.info.group, plan.info.version) in routes:
            return False
        since = perf_counter()
        user = asker.proof()
        if user is None or not self._judge.decide(user, plan.info).allowed:
            return False
        gate = self._service.gate
        passage = gate.enter_at_once(user, plan.info) if gate is not None else None
        if passage is None and gate is not None:
            return False
        self._service.access.admitted_at_once(user.name, since)
        self.in_flight += 1
        plan.series.active += 1
        get = _Get(self, host, head, target, plan, passage, since)
        host.hold(get)
        self._feed.when_fresh(get.told)
        return True

    def _meet(self, host: Host, head: Head) -> _Asker:
        """Read the headers of requests that a connection repeats."""
        headers = dict(read_headers(head.headers))
        first = {name: values[0] for name, values in headers.items()}
        person = first.get("user-agent", "").startswith(PERSONS)
        proof = None
        if not person and _takes_json(first.get("accept", "")):
            authorization = first.get("authorization", "")
            proof = self._judge.proof(Credentials(host.certificate, authorization, headers, host.remote_address))
        asker = head.note = _Asker(headers, proof)
        return asker

    def _plan(self, target: Target) -> _Plan:
        """Find out what a target means, and whether the short road leads there."""
        info = parse(target.method, target.path, {})
        service, prefix, key = self._service, "", ""
        kind = self._kinds.find(info.group, info.version, info.resource)
        if (
            kind is not None
            and (info.verb, info.subresource, info.rest) == ("get", "", ())
            and bool(info.namespace) == kind.resource.namespaced
            and "get" in kind.verbs
            and not self._kinds.converts(kind)
            and service.handlers.object_handler(info) is None
            and service.handlers.stream_handler(info) is None
        ):
            prefix = self._kinds.key_prefix(kind)
            key = f"{info.namespace}/{info.name}" if info.namespace else info.name
        series = self._requests.series(info)
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        made = self._plans[target] = _Plan(info, prefix, key, series, self._kinds.generation)
        return made

    def entry(self, plan: _Plan) -> Entry | None:
        """Return what is asked for, as it stands in memory."""
        cache = self._feed.loaded_below(plan.prefix)
        return cache.entries.get(plan.key) if cache is not None else None


def _takes_json(accept: str) -> bool:
    try:
        return choose(accept) is PLAIN
    except ApiError:
        return False


class _Get:
    """One request that waits for memory to be fresh."""

    __slots__ = ("_gets", "_head", "_host", "_lost", "_passage", "_plan", "_since", "_target")

    def __init__(
        self,
        gets: PromptGets,
        host: Host,
        head: Head,
        target: Target,
        plan: _Plan,
        passage: Passage | None,
        since: float,
    ) -> None:
        self._gets = gets
        self._host = host
        self._head = head
        self._target = target
        self._plan = plan
        self._passage = passage
        self._since = since
        self._lost = False

    def lose(self) -> None:
        """Note that the client is gone."""
        self._lost = True

    def told(self, revision: int, error: Exception | None) -> None:
        """Answer, now that memory is fresh, or let the application find out what is the matter."""
        plan, passage, host = self._plan, self._passage, self._host
        if passage is not None:
            passage.leave()
        self._gets.in_flight -= 1
        if self._lost:
            RequestMetrics.end(plan.series, 0, 0.0)
            return
        entry = self._gets.entry(plan) if error is None else None
        if entry is None or len(entry.data) > LARGE_BYTES or host.door.ending:
            plan.series.active -= 1
            host.begin_slowly(self._head, self._target)
            return
        flow = passage.header_lines if passage is not None else b""
        data = entry.data
        audit_id = audit_id_of(self._head.note.headers)
        RequestMetrics.end(plan.series, 200, perf_counter() - self._since, len(data))
        host.write(
            b"HTTP/1.1 200 OK\r\n%b%b%baudit-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (host.door.date, _HEAD, flow, audit_id, len(data), data)
        )
        host.answered(keep_alive=True)
