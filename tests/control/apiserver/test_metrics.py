"""What is counted, under which labels, and that Prometheus can read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from control.api.resources import PODS
from control.api.status import bad_request
from control.apiserver import kinds
from control.apiserver.admission.chain import AdmissionChain
from control.apiserver.admission.plugin import Plugin
from control.apiserver.keys import NOBODY, Keys
from control.apiserver.measures import AdmissionMetrics, RequestMetrics
from control.apiserver.metrics import SERIES_MAX, Counter, Histogram, Metrics
from control.apiserver.request import AdmissionRequest, UserInfo, parse
from tests.control.apiserver.harness import CONFIG_MAPS, config_map, running

KINDS = kinds.load()


async def samples(metrics: Metrics, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return a metric's samples by their labels."""
    found = {}
    for family in text_string_to_metric_families((await metrics.text()).decode()):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def one_sample(metrics: Metrics, metric: str, /, **labels: str) -> float:
    found = await samples(metrics, metric)
    return sum(value for held, value in found.items() if labels.items() <= dict(held).items())


@given(label=st.text(max_size=20), value=st.floats(min_value=0, max_value=1e9))
def test_any_label_and_number_can_be_read_back(label: str, value: float) -> None:
    counter = Counter("a_total", "help", ("label",))
    counter.add(label, by=value)
    text = "# TYPE a_total counter\n" + "\n".join(counter.lines()) + "\n"
    if not label.isprintable():
        # Prometheus' parser splits lines where Python does, the format only at line feeds.
        return
    [family] = text_string_to_metric_families(text)
    [sample] = family.samples
    assert sample.labels == {"label": label}
    assert sample.value == pytest.approx(value)


@given(values=st.lists(st.floats(min_value=0, max_value=10), max_size=30))
def test_histograms_count_what_is_not_above_each_bound(values: list[float]) -> None:
    histogram = Histogram("h", "help", (), (0.5, 1, 5))
    for value in values:
        histogram.observe(value)
    [family] = (
        text_string_to_metric_families("# TYPE h histogram\n" + "\n".join(histogram.lines()) + "\n")
        if values
        else [None]
    )
    if family is None:
        return
    found = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    for bound in ("0.5", "1", "5"):
        assert found[bound] == sum(value <= float(bound) for value in values)
    assert found["+Inf"] == found["h_count"] == len(values)
    assert found["h_sum"] == pytest.approx(sum(values))


def test_series_are_bounded() -> None:
    counter, histogram = Counter("c", "", ("a",)), Histogram("h", "", ("a",), (1,))
    for index in range(SERIES_MAX + 10):
        counter.add(str(index))
        histogram.observe(1, str(index))
    assert len(counter.values) == len(histogram.series) == SERIES_MAX


def test_a_name_is_taken_once() -> None:
    metrics = Metrics()
    metrics.counter("a", "")
    with pytest.raises(AssertionError, match="metric a is made twice"):
        metrics.gauge("a", "")


REQUESTS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "get": ("GET", "/api/v1/namespaces/a/pods/b", {}, {"verb": "GET", "scope": "resource", "resource": "pods"}),
    "list": ("GET", "/api/v1/namespaces/a/pods", {}, {"verb": "LIST", "scope": "namespace"}),
    "list all": ("GET", "/api/v1/pods", {}, {"verb": "LIST", "scope": "cluster", "group": "", "version": "v1"}),
    "watch": ("GET", "/api/v1/pods", {"watch": "1"}, {"verb": "WATCH", "scope": "cluster"}),
    "create": ("POST", "/apis/apps/v1/namespaces/a/deployments", {}, {"verb": "POST", "scope": "resource", "group": "apps"}),
    "update": ("PUT", "/api/v1/namespaces/a/pods/b/status", {}, {"verb": "PUT", "subresource": "status"}),
    "patch": ("PATCH", "/api/v1/namespaces/a/pods/b", {}, {"verb": "PATCH"}),
    "delete": ("DELETE", "/api/v1/namespaces/a/pods/b", {}, {"verb": "DELETE", "scope": "resource"}),
    "delete all": ("DELETE", "/api/v1/namespaces/a/pods", {}, {"verb": "DELETE", "scope": "namespace"}),
    "exec": ("POST", "/api/v1/namespaces/a/pods/b/exec", {}, {"verb": "CONNECT", "subresource": "exec"}),
    "health": ("GET", "/healthz", {}, {"verb": "GET", "subresource": "/healthz", "resource": "", "scope": ""}),
    "not served": ("GET", "/apis/x.y/v1/z", {}, {"verb": "LIST", "resource": "", "group": "", "scope": ""}),
    "no subresource": ("GET", "/api/v1/namespaces/a/pods/b/nothing", {}, {"resource": "", "subresource": ""}),
    "no path": ("GET", "/secret/path", {}, {"verb": "GET", "subresource": ""}),
    "no verb": ("BREW", "/api/v1/pods", {}, {"verb": "OTHER", "resource": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS)
async def test_requests_are_counted_under_upstreams_labels(case: str) -> None:
    method, path, query, labels = REQUESTS[case]
    metrics = Metrics()
    measured = RequestMetrics(metrics, KINDS)
    series = measured.begin(parse(method, path, {name: (value,) for name, value in query.items()}))
    measured.end(series, 200, 0.07, 1234)
    [(found, count)] = (await samples(metrics, "apiserver_request_total")).items()
    assert count == 1
    assert {**labels, "code": "200", "component": "apiserver"}.items() <= dict(found).items()


async def test_applying_and_dry_runs_are_told_apart() -> None:
    metrics = Metrics()
    measured = RequestMetrics(metrics, KINDS)
    info = parse("PATCH", "/api/v1/namespaces/a/pods/b", {})
    for content_type, dry_run in (("application/apply-patch+yaml", ""), ("", "All"), ("", "All,Some")):
        measured.end(measured.begin(info, content_type, dry_run), 200, 0.3)
    assert await one_sample(metrics, "apiserver_request_total", verb="APPLY", dry_run="") == 1
    assert await one_sample(metrics, "apiserver_request_total", verb="PATCH", dry_run="All") == 1
    assert await one_sample(metrics, "apiserver_request_total", verb="PATCH", dry_run="invalid") == 1


async def test_both_histograms_tell_the_same_times() -> None:
    metrics = Metrics()
    measured = RequestMetrics(metrics, KINDS)
    info = parse("GET", "/api/v1/namespaces/a/pods/b", {})
    for seconds in (0.001, 0.03, 0.07, 2.5, 100):
        measured.end(measured.begin(info), 200, seconds)
    for _ in range(2):
        for name in ("apiserver_request_duration_seconds", "apiserver_request_sli_duration_seconds"):
            assert await one_sample(metrics, f"{name}_count") == 5
            assert await one_sample(metrics, f"{name}_bucket", le="0.05") == 2
            assert await one_sample(metrics, f"{name}_bucket", le="60") == 4
            assert await one_sample(metrics, f"{name}_sum") == pytest.approx(102.601)


async def test_what_is_open_and_what_was_given_up_is_told() -> None:
    metrics = Metrics()
    measured = RequestMetrics(metrics, KINDS)
    watch = measured.begin(parse("GET", "/api/v1/pods", {"watch": ("1",)}))
    write = measured.begin(parse("POST", "/api/v1/namespaces/a/pods", {}))
    assert await one_sample(metrics, "apiserver_longrunning_requests", verb="WATCH", resource="pods") == 1
    assert await one_sample(metrics, "apiserver_current_inflight_requests", request_kind="mutating") == 1
    assert await one_sample(metrics, "apiserver_current_inflight_requests", request_kind="readOnly") == 0
    measured.end(watch, 200, 60)
    measured.end(write, 0, 1)
    assert await one_sample(metrics, "apiserver_longrunning_requests") == 0
    assert await one_sample(metrics, "apiserver_current_inflight_requests") == 0
    assert await one_sample(metrics, "apiserver_request_aborts_total", resource="pods") == 1
    assert await one_sample(metrics, "apiserver_request_total", verb="POST") == 0


class Refusing(Plugin):
    async def validate(self, request: AdmissionRequest) -> None:
        raise bad_request("no")


class ServiceAccountAdmission(Plugin):
    async def mutate(self, request: AdmissionRequest) -> None:
        """Do nothing."""


async def test_admission_is_timed_plugin_by_plugin() -> None:
    metrics = Metrics()
    chain = AdmissionChain([ServiceAccountAdmission(), Refusing()], AdmissionMetrics(metrics))
    request = AdmissionRequest("CREATE", PODS, UserInfo("a"))
    await chain.mutate(request)
    with pytest.raises(Exception, match="no"):
        await chain.validate(request)
    name = "apiserver_admission_controller_admission_duration_seconds_count"
    labels = {"type": "admit", "operation": "CREATE", "rejected": "false"}
    assert await one_sample(metrics, name, name="ServiceAccount", **labels) == 1
    assert await one_sample(metrics, name, name="Refusing", type="validate", rejected="true") == 1
    assert await one_sample(metrics, name, name="Refusing", type="admit") == 0, "a half that is not there is not asked"
    step = "apiserver_admission_step_admission_duration_seconds_count"
    assert await one_sample(metrics, step, type="validate", rejected="true") == 1


async def test_the_path_answers_all_of_it() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        answer = await api.ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"apiserver_request", "process_open_fds"} <= names


KEYS: dict[str, tuple[str, tuple[str, str]]] = {
    "pod": ("/registry/pods/a/b", ("", "pods")),
    "service": ("/registry/services/specs/a/b", ("", "services")),
    "endpoints": ("/registry/services/endpoints/a/b", ("", "endpoints")),
    "node": ("/registry/minions/b", ("", "nodes")),
    "event": ("/registry/events/a/b", ("", "events")),
    "deployment": ("/registry/deployments/a/b", ("apps", "deployments")),
    "definition": (
        "/registry/apiextensions.k8s.io/customresourcedefinitions/a",
        ("apiextensions.k8s.io", "customresourcedefinitions"),
    ),
    "custom": ("/registry/bears.example/pandas/a/b", ("bears.example", "pandas")),
    "ports": ("/registry/ranges/servicenodeports", ("", "servicenodeportallocations")),
    "server": ("/registry/masterleases/10.0.0.1", ("", "apiserveripinfo")),
    "nothing": ("/registry/nothing", NOBODY),
    "another prefix": ("/other/pods/a/b", NOBODY),
    "compaction": ("compact_rev_key", NOBODY),
}


@pytest.mark.parametrize("case", KEYS)
def test_keys_tell_whose_they_are(case: str) -> None:
    key, wanted = KEYS[case]
    assert Keys(KINDS).resource(key) == wanted
