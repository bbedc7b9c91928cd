"""Representations, versions, discovery and health as clients see them, over a store in memory."""

from __future__ import annotations

import uuid

import pytest

from tests.control.apiserver.harness import (
    CONFIG_MAPS,
    PODS,
    TABLE,
    config_map,
    next_event,
    pod,
    running,
)


async def test_tables() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("p"))
        table = (await api.ask("GET", f"{PODS}?limit=500", accept=TABLE)).json
        assert (table["kind"], table["rows"][0]["cells"][:3]) == ("Table", ["p", "0/1", "Pending"])
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        one = (await api.ask("GET", f"{PODS}/p?includeObject=Object", accept=TABLE)).json
        assert one["rows"][0]["object"]["kind"] == "Pod"
        async with api.watch(f"{PODS}?watch=1", accept=TABLE) as events:
            first = await next_event(events)
            await api.ask("DELETE", f"{PODS}/p")
            second = await next_event(events)
        assert [bool(event["object"]["columnDefinitions"]) for event in (first, second)] == [True, False]


async def test_one_kind_in_two_versions() -> None:
    async with running() as api:
        scaler = {
            "apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                     "targetCPUUtilizationPercentage": 50},
        }  # fmt: skip
        v1, v2 = (
            f"/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers" for version in ("v1", "v2")
        )
        made = await api.ask("POST", v1, scaler)
        assert (made.code, made.json["apiVersion"]) == (201, "autoscaling/v1")
        new = (await api.ask("GET", f"{v2}/web")).json
        assert new["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 50}
        old = (await api.ask("GET", v1)).json["items"][0]
        assert old["spec"]["targetCPUUtilizationPercentage"] == 50
        event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n",
                 "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
                 "reportingController": "c", "reportingInstance": "c-0", "action": "Look", "reason": "Seen"}  # fmt: skip
        url = "/apis/events.k8s.io/v1/namespaces/default/events"
        assert (await api.ask("POST", url, event)).json["note"] == "n"
        core = (await api.ask("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")).json
        assert core["items"][0]["message"] == "n"
        for asked, count in (("regarding.name%3Dp", 1), ("regarding.name%3Dq", 0), ("reportingController%3Dc", 1)):
            assert len((await api.ask("GET", f"{url}?fieldSelector={asked}")).json["items"]) == count
        refused = await api.ask("POST", url, {**event, "metadata": {"name": "f"}, "deprecatedCount": 3, "type": "Odd"})
        assert [cause["field"] for cause in refused.json["details"]["causes"]] == ["type", "count"]
        async with api.watch(f"{url}?watch=1") as events:
            assert (await next_event(events))["object"]["regarding"]["name"] == "p"


async def test_yaml_in_and_out() -> None:
    async with running() as api:
        body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {when: '2026-01-01'}\n"
        assert (await api.ask("POST", CONFIG_MAPS, body, content_type="application/yaml")).code == 201
        answer = await api.ask("GET", f"{CONFIG_MAPS}/a", accept="application/yaml")
        assert (answer.headers["content-type"], b"kind: ConfigMap" in answer.body) == ("application/yaml", True)
        refused = await api.ask("GET", f"{CONFIG_MAPS}/a", accept="text/html")
        assert (refused.code, refused.json["reason"]) == (406, "NotAcceptable")


async def test_warnings_travel_in_headers() -> None:
    async with running() as api:
        answer = await api.ask("POST", CONFIG_MAPS, {**config_map("a"), "no": 1})
        assert (answer.code, answer.headers["warning"]) == (201, '299 - "unknown field \\"no\\""')


@pytest.mark.parametrize(
    ("accept", "kind", "content_type"),
    [
        pytest.param("application/json", "APIGroupList", "application/json", id="plain"),
        pytest.param(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            "APIGroupDiscoveryList",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            id="aggregated",
        ),
        pytest.param(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
            "APIGroupDiscoveryList",
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            id="aggregated, older",
        ),
    ],
)
async def test_discovery_by_accept(accept: str, kind: str, content_type: str) -> None:
    async with running() as api:
        answer = await api.ask("GET", "/apis", accept=accept)
        assert (answer.json["kind"], answer.headers["content-type"]) == (kind, content_type)


async def test_discovery_names_every_group_version() -> None:
    async with running() as api:
        for group in (await api.ask("GET", "/apis")).json["groups"]:
            for version in group["versions"]:
                listed = (await api.ask("GET", f"/apis/{version['groupVersion']}")).json
                assert listed["groupVersion"] == version["groupVersion"]
                assert listed["resources"]
        core = (await api.ask("GET", "/api/v1")).json["resources"]
        eviction = next(entry for entry in core if entry["name"] == "pods/eviction")
        assert (eviction["group"], eviction["version"], eviction["kind"]) == ("policy", "v1", "Eviction")


async def test_openapi_documents_are_found_through_the_index() -> None:
    async with running() as api:
        index = (await api.ask("GET", "/openapi/v3")).json["paths"]
        url = index["apis/apps/v1"]["serverRelativeURL"]
        answer = await api.ask("GET", url)
        assert "io.k8s.api.apps.v1.Deployment" in answer.json["components"]["schemas"]
        again = await api.ask("GET", url, if_none_match=answer.headers["etag"])
        assert again.code == 304


async def test_health() -> None:
    async with running() as api:
        assert (await api.ask("GET", "/readyz")).body == b"ok"
        assert b"[+]ping ok" in (await api.ask("GET", "/livez?verbose")).body
        assert (await api.ask("GET", "/healthz/ping")).code == 200
        assert (await api.ask("GET", "/healthz/nope")).code == 404
        assert (await api.ask("GET", "/version")).json["gitVersion"].startswith("v1.36")


async def test_every_answer_names_its_request() -> None:
    async with running() as api:
        answers = [
            await api.ask("GET", url) for url in (CONFIG_MAPS, f"{CONFIG_MAPS}/none", "/livez", "/nowhere", "/version")
        ]
        names = [answer.headers["audit-id"] for answer in answers]
        assert len(set(names)) == len(names)
        assert {str(uuid.UUID(name)) for name in names} == set(names)
        assert (await api.ask("GET", CONFIG_MAPS, audit_id="mine")).headers["audit-id"] == "mine"


async def test_what_is_deprecated_warns_whoever_uses_it() -> None:
    wanted = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    url = "/api/v1/namespaces/default/endpoints"
    async with running() as api:
        made = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}}
        merge = "application/merge-patch+json"
        for answer in (
            await api.ask("POST", url, made),
            await api.ask("PATCH", f"{url}/e", {"metadata": {"labels": {"a": "b"}}}, content_type=merge),
            await api.ask("GET", url),
            await api.ask("GET", f"{url}/none"),
        ):
            assert answer.headers["warning"] == wanted
        assert "warning" not in (await api.ask("GET", CONFIG_MAPS)).headers
        assert 'apiserver_requested_deprecated_apis{group="",' in (await api.ask("GET", "/metrics")).body.decode()
