"""The metrics of requests, admission, storage and watches, under kube-apiserver's names."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from time import perf_counter

from control.apiserver.etcd import Etcd, StoreError
from control.apiserver.feed import Feed
from control.apiserver.keys import Keys
from control.apiserver.kinds import Kinds
from control.apiserver.metrics import Histogram, Labels, Metrics, exponential
from control.apiserver.request import LONG_RUNNING, RequestInfo, annotate

log = logging.getLogger(__name__)

DURATION_BOUNDS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
)  # fmt: skip
SLI_BOUNDS = DURATION_BOUNDS[2:]
ADMISSION_BOUNDS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5)
WEBHOOK_BOUNDS = (*ADMISSION_BOUNDS, 10, 25)
SIZE_BOUNDS = exponential(1000, 10, 7)
_REQUEST = ("verb", "group", "version", "resource", "subresource", "scope", "component")
_DRY_REQUEST = ("verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component")
_METHODS = {"create": "POST", "update": "PUT", "deletecollection": "DELETE", "head": "GET"}
_VERBS = frozenset({"GET", "LIST", "WATCH", "POST", "PUT", "PATCH", "APPLY", "DELETE", "CONNECT"})
_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/metrics", "/version", "/metrics/slis"})
COMPONENT = "apiserver"
APPLY = "application/apply-patch+yaml"

Key = tuple[str, str, str, str, str, bool, bool, str]


class RequestSeries:
    """All numbers of the requests that have the same labels."""

    __slots__ = ("aborted", "active", "codes", "durations", "labels", "long_running", "read_only", "sizes")

    def __init__(self, labels: Labels, dry_run: str, owner: RequestMetrics) -> None:
        self.labels = labels
        self.long_running = labels[0] in ("WATCH", "CONNECT")
        self.read_only = labels[0] in ("GET", "LIST", "WATCH")
        self.codes: dict[int, int] = {}
        self.durations = owner.durations.of(labels[0], dry_run, *labels[1:])
        self.sizes = owner.sizes.of(*labels) if labels[0] in ("GET", "LIST") else None
        self.active = 0
        self.aborted = 0


class RequestMetrics:
    """Counts the requests of resources and of other paths, whichever door they come through."""

    def __init__(self, metrics: Metrics, kinds: Kinds) -> None:
        self._kinds = kinds
        self._by_key: dict[Key, RequestSeries] = {}
        self._by_labels: dict[tuple[Labels, str], RequestSeries] = {}
        self.durations = metrics.histogram(
            "apiserver_request_duration_seconds",
            "Time from a request's arrival to the end of its answer, in seconds.",
            _DRY_REQUEST,
            DURATION_BOUNDS,
        )
        self.sli = metrics.histogram(
            "apiserver_request_sli_duration_seconds",
            "Time from a request's arrival to the end of its answer, in seconds, by which service levels are judged.",
            _REQUEST,
            SLI_BOUNDS,
        )
        self.sizes = metrics.histogram(
            "apiserver_response_sizes", "Bytes of the answers to GET and LIST.", _REQUEST, SIZE_BOUNDS
        )
        metrics.before(self._fill_sli)
        metrics.reading(
            "apiserver_request_total",
            "Requests, by what they asked for and the code of the answer.",
            (*_DRY_REQUEST, "code"),
            self._totals,
            "counter",
        )
        metrics.reading(
            "apiserver_request_aborts_total",
            "Requests whose client was gone before an answer began.",
            _REQUEST[:-1],
            self._aborted,
            "counter",
        )
        self._deprecated = metrics.gauge(
            "apiserver_requested_deprecated_apis",
            "Deprecated APIs that have been requested.",
            ("group", "version", "resource", "subresource", "removed_release"),
        )
        metrics.reading(
            "apiserver_longrunning_requests", "Watches and streams that are open now.", _REQUEST, self._long_running
        )
        metrics.reading(
            "apiserver_current_inflight_requests",
            "Requests that are served now, watches and streams apart.",
            ("request_kind",),
            self._inflight,
        )

    def begin(self, info: RequestInfo, content_type: str = "", dry_run: str = "") -> RequestSeries:
        """Note that a request is being served; its series is to be given to ``end``."""
        series = self.series(info, content_type, dry_run)
        series.active += 1
        return series

    def series(self, info: RequestInfo, content_type: str = "", dry_run: str = "") -> RequestSeries:
        """Return where requests like this one are counted."""
        key = (
            info.verb, info.group, info.version, info.resource, info.subresource, bool(info.name),
            bool(info.namespace), dry_run if content_type != APPLY else f"{dry_run}+",
        )  # fmt: skip
        return self._by_key.get(key) or self._series(key, info, content_type == APPLY, dry_run)

    def deprecated(self, info: RequestInfo) -> None:
        """Note that something deprecated is asked for."""
        self._deprecated.set(1, info.group, info.version, info.resource, info.subresource, "")
        annotate("k8s.io/deprecated", "true")

    @staticmethod
    def end(series: RequestSeries, code: int, seconds: float, size: int = 0) -> None:
        """Note a request's answer; code 0 is none at all."""
        series.active -= 1
        if not code:
            if series.labels[0] != "CONNECT":
                series.aborted += 1
                return
            code = 101
        codes = series.codes
        codes[code] = codes.get(code, 0) + 1
        found = series.durations
        found[bisect_left(DURATION_BOUNDS, seconds)] += 1
        found[-1] += seconds
        if series.sizes is not None:
            series.sizes[bisect_left(SIZE_BOUNDS, size)] += 1
            series.sizes[-1] += size

    def _series(self, key: Key, info: RequestInfo, apply: bool, dry_run: str) -> RequestSeries:
        """Return the series of requests like this one; what is not served shares one of each verb."""
        verb = _METHODS.get(info.verb, info.verb.upper())
        verb = "APPLY" if apply and verb == "PATCH" else verb
        dry_run = dry_run if dry_run in ("", "All") else "invalid"
        labels, known = self._labels(info, verb)
        series = self._by_labels.get((labels, dry_run))
        if series is None:
            series = self._by_labels[labels, dry_run] = RequestSeries(labels, dry_run, self)
        if known and dry_run != "invalid":
            self._by_key[key] = series
        return series

    def _labels(self, info: RequestInfo, verb: str) -> tuple[Labels, bool]:
        if not info.is_resource_request:
            path = info.path if info.path in _PATHS else ""
            return (verb if verb in _VERBS else "OTHER", "", "", "", path, "", COMPONENT), not path
        kind = self._kinds.find(info.group, info.version, info.resource)
        served = kind is not None and (not info.subresource or kind.subresource(info.subresource) is not None)
        if not served or verb not in _VERBS:
            return (verb if verb in _VERBS else "OTHER", "", "", "", "", "", COMPONENT), False
        if info.subresource in LONG_RUNNING:
            verb = "CONNECT"
        scope = "resource" if info.name or info.verb == "create" else "namespace" if info.namespace else "cluster"
        return (verb, info.group, info.version, info.resource, info.subresource, scope, COMPONENT), True

    # What is read when somebody asks.

    async def _fill_sli(self) -> None:
        """Make the second histogram of the first: the same times in fewer classes, dry runs or not."""
        self.sli.series.clear()
        below = len(DURATION_BOUNDS) - len(SLI_BOUNDS)
        for (labels, _), series in self._by_labels.items():
            counts = series.durations
            found = self.sli.of(*labels)
            for index, count in enumerate([sum(counts[: below + 1]), *counts[below + 1 :]]):
                found[index] += count

    def _totals(self) -> Mapping[Labels, float]:
        return {
            (labels[0], dry_run, *labels[1:], str(code)): count
            for (labels, dry_run), series in self._by_labels.items()
            for code, count in series.codes.items()
        }

    def _long_running(self) -> Mapping[Labels, float]:
        found: dict[Labels, float] = {}
        for (labels, _), series in self._by_labels.items():
            if series.long_running:
                found[labels] = found.get(labels, 0) + series.active
        return found

    def _aborted(self) -> Mapping[Labels, float]:
        found: dict[Labels, float] = {}
        for (labels, _), series in self._by_labels.items():
            if series.aborted:
                found[labels[:-1]] = found.get(labels[:-1], 0) + series.aborted
        return found

    def _inflight(self) -> Mapping[Labels, float]:
        found: dict[Labels, float] = {("mutating",): 0.0, ("readOnly",): 0.0}
        for series in self._by_labels.values():
            if not series.long_running:
                found[("readOnly",) if series.read_only else ("mutating",)] += series.active
        return found


class AdmissionMetrics:
    """How long admission takes, as a whole and plugin by plugin, and what webhooks do."""

    def __init__(self, metrics: Metrics) -> None:
        labels = ("name", "type", "operation", "rejected")
        self.step = metrics.histogram(
            "apiserver_admission_step_admission_duration_seconds",
            "Time of all of admission's admit or validate steps, in seconds.",
            ("type", "operation", "rejected"),
            ADMISSION_BOUNDS,
        )
        self.plugin = metrics.histogram(
            "apiserver_admission_controller_admission_duration_seconds",
            "Time of one admission plugin, in seconds.",
            labels,
            ADMISSION_BOUNDS,
        )
        self.webhook = metrics.histogram(
            "apiserver_admission_webhook_admission_duration_seconds",
            "Time of one admission webhook, in seconds.",
            labels,
            WEBHOOK_BOUNDS,
        )
        self.webhook_requests = metrics.counter(
            "apiserver_admission_webhook_request_total",
            "Questions put to admission webhooks, by the code of what came of them.",
            ("name", "type", "operation", "code", "rejected"),
        )
        self.webhook_rejections = metrics.counter(
            "apiserver_admission_webhook_rejection_count",
            "Requests that an admission webhook refused, or that its failure did.",
            ("name", "type", "operation", "error_type", "rejection_code"),
        )
        self.webhook_fail_open = metrics.counter(
            "apiserver_admission_webhook_fail_open_count",
            "Admission webhooks that failed and were passed by.",
            ("name", "type"),
        )


class AccessMetrics:
    """How long it takes to find out who asks and whether they may."""

    def __init__(self, metrics: Metrics) -> None:
        bounds = exponential(0.001, 2, 15)
        self.users = metrics.counter(
            "authenticated_user_requests", "Requests whose sender is known, by kinds of names.", ("username",)
        )
        self.authentication = metrics.histogram(
            "authentication_duration_seconds", "Time of authentication, in seconds.", ("result",), bounds
        )
        self.authorization = metrics.histogram(
            "authorization_duration_seconds", "Time of authorization, in seconds.", ("result",), bounds
        )
        metrics.reading(
            "authentication_attempts",
            "Requests whose sender was looked for, by what was found.",
            ("result",),
            self.authentication.counts,
            "counter",
        )
        metrics.reading(
            "authorization_attempts_total",
            "Questions put to the authorizers, by their answer.",
            ("result",),
            self.authorization.counts,
            "counter",
        )
        self._known = self.authentication.of("success")
        self._allowed = self.authorization.of("allowed")
        self._bounds = bounds

    def authenticated(self, username: str, since: float) -> None:
        """Note that a sender is known."""
        self.users.add(_kind_of_user(username))
        self._observe(self._known, perf_counter() - since)

    def admitted_at_once(self, username: str, since: float) -> None:
        """Note that a sender was known, and allowed, in so little time that both took it together."""
        self.users.add(_kind_of_user(username))
        spent_s = perf_counter() - since
        self._observe(self._known, spent_s)
        self._observe(self._allowed, 0.0)

    def not_authenticated(self, result: str, since: float) -> None:
        """Note that nothing was presented (failure), or something wrong (error)."""
        self.authentication.observe(perf_counter() - since, result)

    def authorized(self, allowed: bool, since: float) -> None:
        """Note an authorizer's answer."""
        self._observe(self._allowed if allowed else self.authorization.of("denied"), perf_counter() - since)

    def _observe(self, series: list[float], seconds: float) -> None:
        # Most take less than the first bound: then there is nothing to search.
        series[0 if seconds <= self._bounds[0] else bisect_left(self._bounds, seconds)] += 1
        series[-1] += seconds


def _kind_of_user(name: str) -> str:
    """Return the few words that stand for all users' names."""
    if name in ("admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"):
        return name
    return "email_id" if "@" in name else "other"


def watch_caches(metrics: Metrics, feed: Feed) -> None:
    """Tell of every loaded kind how many objects it has, what was received of it and what watches were sent."""

    def by_resource(attribute: str) -> Mapping[Labels, float]:
        return {
            (kind.resource.group, kind.resource.plural): getattr(cache, attribute)
            for kind, cache in ((cache.kind, cache) for cache in feed.caches())
        }

    def objects() -> Mapping[Labels, float]:
        return {(cache.kind.resource.group, cache.kind.resource.plural): len(cache.entries) for cache in feed.caches()}

    def objects_by_name() -> Mapping[Labels, float]:
        return {(f"{plural}.{group}" if group else plural,): count for (group, plural), count in objects().items()}

    def sent() -> Mapping[Labels, float]:
        return {
            (cache.kind.resource.group, cache.kind.resource.version, cache.kind.resource.plural): cache.sent
            for cache in feed.caches()
            if cache.sent
        }

    labels = ("group", "resource")
    metrics.reading("apiserver_resource_objects", "Stored objects of each resource in use.", labels, objects)
    metrics.reading(
        "apiserver_storage_objects", "Stored objects of each resource in use, by its name.", ("resource",),
        objects_by_name,
    )  # fmt: skip
    metrics.reading(
        "apiserver_storage_events_received_total",
        "Changes that the store's watch brought.",
        labels,
        lambda: by_resource("received"),
        "counter",
    )
    metrics.reading(
        "apiserver_watch_events_total",
        "Events that watches were sent.",
        ("group", "version", "resource"),
        sent,
        "counter",
    )


class StoreMetrics:
    """How long the store takes, by operation and resource."""

    def __init__(self, metrics: Metrics, keys: Keys) -> None:
        self._keys = keys
        labels = ("operation", "group", "resource")
        self.durations: Histogram = metrics.histogram(
            "etcd_request_duration_seconds", "Time of requests to the store, in seconds.", labels, DURATION_BOUNDS
        )
        self._requests = metrics.counter("etcd_requests_total", "Requests to the store.", labels)
        self._errors = metrics.counter("etcd_request_errors_total", "Requests to the store that failed.", labels)

    def note(self, operation: str, key: bytes, seconds: float, failed: bool) -> None:
        """Note one request to the store."""
        labels = (operation, *self._keys.resource(key.decode("utf-8", "replace")))
        self._requests.add(*labels)
        if failed:
            self._errors.add(*labels)
        self.durations.observe(seconds, *labels)


def watch_store(metrics: Metrics, store: Etcd) -> None:
    """Tell of the store's size, asking the store each time."""
    size = metrics.gauge("apiserver_storage_size_bytes", "Bytes of the store's file.", ("storage_cluster_id",))

    async def ask() -> None:
        try:
            size.set(await store.size(), "etcd-0")
        except StoreError as error:
            size.values.clear()
            log.warning("the store does not tell its size error=%s", error)

    metrics.before(ask)


def tell_build(metrics: Metrics, information: Mapping[str, str]) -> None:
    """Tell which version this is."""
    names = {
        "major": "major", "minor": "minor", "git_version": "gitVersion", "git_commit": "gitCommit",
        "git_tree_state": "gitTreeState", "build_date": "buildDate", "go_version": "goVersion",
        "compiler": "compiler", "platform": "platform",
    }  # fmt: skip
    build = metrics.gauge("kubernetes_build_info", "Which version this is; the value is 1.", tuple(names))
    build.set(1, *(information[name] for name in names.values()))
