"""APIServices without wires: their rules, their status, which there should be, and what is told of them."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509

from control.api.meta import Object
from control.api.status import ApiError
from control.api.validation.aggregation import check_api_service
from control.api.validation.faults import Faults
from control.apiserver import kinds
from control.apiserver.aggregation import registration, trust
from control.apiserver.aggregation.aggregator import CHECK_INTERVAL_S, Aggregator
from control.apiserver.aggregation.backends import Answer
from control.apiserver.aggregation.documents import (
    DocumentError,
    Published,
    read_index,
    read_resources,
)
from control.apiserver.aggregation.proxy import identity
from control.apiserver.aggregation.registration import Priority
from control.apiserver.aggregation.services import LOCAL, PASSED, Route, Verdict, judge_service, route_of, with_verdict
from control.apiserver.request import UserInfo
from control.apiserver.rest.discovery import Discovery
from lab import pki


def api_service(**spec: Any) -> Object:
    service = {"namespace": "n", "name": "s", "port": 443}
    made = {"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": service}
    return {"metadata": {"name": "v1.g.io"}, "spec": {**made, **spec}}


RULES: list[tuple[str, Object, list[str]]] = [
    ("good", api_service(), []),
    ("local", api_service(service=None), []),
    ("core", {"metadata": {"name": "v1."}, "spec": {**api_service()["spec"], "group": ""}}, []),
    ("other name", {**api_service(), "metadata": {"name": "x"}}, ["metadata.name"]),
    ("no group", {"metadata": {"name": "v2."}, "spec": {**api_service(version="v2")["spec"], "group": ""}},
     ["spec.group"]),
    ("bad group", {"metadata": {"name": "v1.A"}, "spec": api_service(group="A")["spec"]}, ["spec.group"]),
    ("priorities", api_service(groupPriorityMinimum=0, versionPriority=1001),
     ["spec.groupPriorityMinimum", "spec.versionPriority"]),
    ("local with bundle", api_service(service=None, caBundle="YWI=", insecureSkipTLSVerify=True),
     ["spec.caBundle", "spec.insecureSkipTLSVerify"]),
    ("nobody", api_service(service={}), ["spec.service.namespace", "spec.service.name"]),
    ("bundle and insecure", api_service(caBundle="YWI=", insecureSkipTLSVerify=True), ["spec.insecureSkipTLSVerify"]),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "fields"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_api_services_are_held_to_their_rules(obj: Object, fields: list[str]) -> None:
    faults = Faults()
    check_api_service(obj, faults)
    assert [cause.field for cause in faults.causes] == fields


def entry(ready: bool | None = True, port: str = "https") -> Object:
    conditions = {} if ready is None else {"ready": ready}
    return {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}],
            "ports": [{"name": port, "port": 8443}]}  # fmt: skip


SERVICE: Object = {"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": 443}]}}
VERDICTS: list[tuple[str, Object | None, list[Object], str | None]] = [
    ("well", SERVICE, [entry()], None),
    ("ready by default", SERVICE, [entry(None)], None),
    ("no service", None, [], "ServiceNotFound"),
    ("other port", {"spec": {"ports": [{"port": 80}]}}, [entry()], "ServicePortError"),
    ("no endpoints", SERVICE, [], "EndpointsNotFound"),
    ("none ready", SERVICE, [entry(False)], "MissingEndpoints"),
    ("other port's endpoints", SERVICE, [entry(port="http")], "MissingEndpoints"),
    ("elsewhere", {"spec": {"type": "ExternalName"}}, [], None),
]


@pytest.mark.parametrize(
    ("service", "slices", "reason"), [case[1:] for case in VERDICTS], ids=[case[0] for case in VERDICTS]
)
def test_whether_a_service_can_be_asked(service: Object | None, slices: list[Object], reason: str | None) -> None:
    route = route_of(api_service())
    assert route is not None
    verdict = judge_service(route, service, slices)
    assert (verdict.reason if verdict else None) == reason


def test_a_verdict_is_written_once_and_keeps_its_time() -> None:
    first = with_verdict(api_service(), PASSED, "then")
    assert first is not None
    assert with_verdict(first, PASSED, "now") is None
    same = with_verdict(first, Verdict("True", "Passed", "other words"), "now")
    assert same is not None
    assert same["status"]["conditions"][0]["lastTransitionTime"] == "then"
    worse = with_verdict(first, Verdict("False", "FailedDiscoveryCheck", "no"), "now")
    assert worse is not None
    assert worse["status"]["conditions"] == [
        {"lastTransitionTime": "now", "type": "Available", "status": "False", "reason": "FailedDiscoveryCheck",
         "message": "no"}
    ]  # fmt: skip


def test_which_api_services_stand_for_ourselves() -> None:
    wanted = registration.wanted(kinds.load().all)
    assert {"v1.", "v1.apps", "v2.autoscaling", "v1.autoscaling"} <= set(wanted)
    assert "v1.apiregistration.k8s.io" not in wanted
    assert wanted["v1.apps"]["spec"]["groupPriorityMinimum"] == 17800
    assert wanted["v2.autoscaling"]["spec"]["versionPriority"] == 30
    for obj in wanted.values():
        faults = Faults()
        check_api_service(obj, faults)
        assert not faults
    first = registration.plan(wanted, {})
    assert len(first.create) == len(wanted)
    assert registration.plan(wanted, wanted) == registration.Plan((), (), ())
    custom = {**wanted["v1.apps"], "metadata": {"name": "v1.gone.io", "labels": {registration.MANAGED_LABEL: "true"}}}
    owned = api_service()
    stale = {**wanted["v1.apps"], "spec": {**wanted["v1.apps"]["spec"], "versionPriority": 1}}
    plan = registration.plan(wanted, {**wanted, "v1.gone.io": custom, "v1.g.io": owned, "v1.apps": stale})
    assert plan.delete == ("v1.gone.io",)
    assert [obj["spec"]["versionPriority"] for obj in plan.update] == [15]
    assert registration.local_status("t")["conditions"][0]["reason"] == LOCAL.reason


LISTED = {
    "kind": "APIResourceList",
    "resources": [
        {"name": "ships", "singularName": "ship", "namespaced": True, "kind": "Ship", "verbs": ["get"],
         "shortNames": ["s"]},
        {"name": "ships/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
        {"name": "lone/part", "kind": "Part", "verbs": ["create"]},
    ],
}  # fmt: skip


def test_a_list_of_resources_is_told_as_aggregated_discovery() -> None:
    ships, lone = read_resources(orjson.dumps(LISTED), "g.io", "v1")
    assert ships["responseKind"] == {"group": "g.io", "version": "v1", "kind": "Ship"}
    assert (ships["scope"], ships["shortNames"]) == ("Namespaced", ["s"])
    assert ships["subresources"][0]["responseKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert lone["subresources"][0]["subresource"] == "part"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"kind":"Status"}', b'{"kind":"APIResourceList","resources":[1]}',
     b'{"kind":"APIResourceList","resources":[{"name":"x","verbs":"get"}]}'],
)  # fmt: skip
def test_what_is_no_list_of_resources(body: bytes) -> None:
    with pytest.raises(DocumentError):
        read_resources(body, "g.io", "v1")


def test_a_server_tells_of_its_own_documents_alone() -> None:
    entries = {"apis/g.io/v1": {"serverRelativeURL": "/x"}, "api/v1": {"serverRelativeURL": "/y"}}
    assert read_index(orjson.dumps({"paths": entries}), ["/apis/g.io/v1"]) == {
        "apis/g.io/v1": {"serverRelativeURL": "/x"}
    }
    assert read_index(b"no", ["/apis/g.io/v1"]) == {}
    assert read_index(b'{"paths":{"apis/g.io/v1":1}}', ["/apis/g.io/v1"]) == {}


def test_discovery_tells_of_other_servers_by_their_priorities() -> None:
    found = Discovery(kinds.load())
    resources = read_resources(orjson.dumps(LISTED), "g.io", "v1")
    before = found.aggregated(False, "v2")
    found.publish(
        {
            ("g.io", "v1"): Published(Priority(17790, 1), resources, True),
            ("g.io", "v2"): Published(Priority(5, 7), (), False),
        }
    )
    items = orjson.loads(found.aggregated(False, "v2"))["items"]
    names = [item["metadata"]["name"] for item in items]
    assert names[:4] == ["apiregistration.k8s.io", "apps", "g.io", "events.k8s.io"]
    versions = items[2]["versions"]
    assert [(version["version"], version["freshness"]) for version in versions] == [("v2", "Stale"), ("v1", "Current")]
    assert versions[1]["resources"] == list(resources)
    plain = orjson.loads(found.group("g.io") or b"{}")
    assert plain["preferredVersion"]["version"] == "v2"
    found.publish({})
    assert found.aggregated(False, "v2") == before


def test_a_user_travels_in_headers() -> None:
    user = UserInfo("jürgen", "7", ("a", "b"), {"example.com/Scope%": ("x", "y")})
    assert list(identity(user)) == [
        ("X-Remote-User", "jürgen"), ("X-Remote-Uid", "7"), ("X-Remote-Group", "a"),
        ("X-Remote-Group", "b"), ("X-Remote-Extra-example.com%2FScope%25", "x"),
        ("X-Remote-Extra-example.com%2FScope%25", "y"),
    ]  # fmt: skip
    with pytest.raises(ApiError, match="line break"):
        list(identity(UserInfo("a\r\nX-Remote-Group: system:masters")))


def test_whom_to_believe_is_combined_with_what_others_say(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pki.make_authority(tmp_path, name, name)
    one, two = ((tmp_path / f"{name}.crt").read_text() for name in ("one", "two"))
    now = datetime.now(UTC)
    own = {trust.CLIENT_CA: two, trust.PROXY_CA: two, "requestheader-allowed-names": '["b","a"]'}
    standing = {trust.CLIENT_CA: one, "requestheader-allowed-names": '["a"]', "else": "kept"}
    made = trust.combined(standing, own, now)
    assert made["else"] == "kept"
    assert made["requestheader-allowed-names"] == '["a","b"]'
    assert len(x509.load_pem_x509_certificates(made[trust.CLIENT_CA].encode())) == 2
    assert trust.combined(made, own, now) == made
    assert trust.combined({trust.CLIENT_CA: "rubbish"}, own, now)[trust.CLIENT_CA].strip() == two.strip()
    assert trust.CLIENT_CA not in trust.combined(standing, {}, now + timedelta(days=100_000))


def test_a_bundle_that_is_none_is_found_when_it_is_used() -> None:
    route = route_of(api_service(caBundle="%"))
    assert route is not None
    assert route.bundle == b"unreadable"
    good = route_of(api_service(caBundle=base64.b64encode(b"x").decode()))
    assert good is not None
    assert good.bundle == b"x"


class LateServer:
    """The one server behind an aggregator: what it serves is there, its OpenAPI comes later."""

    def __init__(self) -> None:
        self.paths: Object = {}
        self.obj = api_service(insecureSkipTLSVerify=True)

    async def warm(self) -> None:
        """Know what there is to know."""

    def subscribe(self, resource: Any, changed: Any) -> None:
        """Tell of no change."""

    def get(self, resource: Any, name: str) -> Object:
        return self.obj

    def service(self, route: Route) -> tuple[Object, list[Object]]:
        return {"spec": {"type": "ExternalName", "externalName": "s", "ports": [{"port": 443}]}}, []

    async def ask(self, route: Route, path: str, timeout_s: float) -> Answer:
        if path == "/openapi/v3":
            return Answer(200, orjson.dumps({"paths": self.paths}))
        return Answer(200, orjson.dumps({"kind": "APIResourceList", "resources": []}))

    async def update(self, resource: Any, obj: Object, subresource: str) -> Object:
        self.obj = obj
        return obj


def test_openapi_that_comes_late_is_found_by_the_next_check() -> None:
    async def scenario() -> None:
        server: Any = LateServer()
        proxy: Any = None
        aggregator = Aggregator(server, server, kinds.Kinds(()), server, proxy, lambda found: None)
        route = route_of(server.obj)
        assert route is not None
        aggregator.routes["g.io", "v1"] = route
        assert await aggregator._tend("v1.g.io") == CHECK_INTERVAL_S
        assert aggregator.document_route("apis/g.io/v1") is None
        address = {"serverRelativeURL": "/openapi/v3/apis/g.io/v1?hash=A"}
        server.paths = {"apis/g.io/v1": address}
        assert await aggregator._tend("v1.g.io") == CHECK_INTERVAL_S
        assert aggregator.document_route("apis/g.io/v1") == route
        assert aggregator.openapi == {"apis/g.io/v1": address}

    asyncio.run(scenario())
