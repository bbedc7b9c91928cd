"""What is told of which request, through both doors' one record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from control.apiserver.audit.auditor import AuditMetrics, Auditor, Place
from control.apiserver.audit.policy import parse
from control.apiserver.audit.record import source_addresses
from control.apiserver.config import TruncateConfig
from control.apiserver.metrics import Metrics
from control.apiserver.rest.app import App
from control.apiserver.rest.discovery import Discovery
from control.apiserver.rest.health import Health
from control.apiserver.rest.openapi import OpenAPI
from tests.control.apiserver.harness import CONFIG_MAPS, Api, config_map, next_event, running


class Kept:
    """A place that keeps events, or loses them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.keeps = True

    async def put(self, event: bytes) -> bool:
        if self.keeps:
            self.events.append(orjson.loads(event))
        return self.keeps

    async def run(self) -> None:
        await asyncio.Event().wait()

    def stages(self) -> list[str]:
        return [event["stage"] for event in self.events]


@asynccontextmanager
async def audited(
    *rules: Any, truncate: TruncateConfig | None = None, **policy: Any
) -> AsyncIterator[tuple[Api, Kept, Metrics]]:
    """Run an API server that tells of requests by these rules."""
    document = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **policy}
    wishes, _ = parse(document)
    kept, metrics = Kept(), Metrics()
    async with running() as api:
        auditor = Auditor(wishes, [Place(kept, truncate)], AuditMetrics(metrics))
        kinds = api.feed.kinds
        api.app = App(api.service, Discovery(kinds), Health({}, {}), OpenAPI(kinds), metrics, auditor)
        yield api, kept, metrics


async def test_a_write_is_told_twice_with_what_was_asked_and_answered() -> None:
    async with audited({"level": "RequestResponse"}) as (api, kept, _):
        made = await api.ask(
            "POST", f"{CONFIG_MAPS}?fieldManager=me", config_map("a", x="1"), authorization="alice",
            user_agent="test/1", audit_id="mine",
        )  # fmt: skip
    assert kept.stages() == ["RequestReceived", "ResponseComplete"]
    received, complete = kept.events
    assert made.headers["audit-id"] == "mine"
    assert complete == {
        "level": "RequestResponse",
        "auditID": "mine",
        "stage": "ResponseComplete",
        "requestURI": f"{CONFIG_MAPS}?fieldManager=me",
        "verb": "create",
        "user": {"username": "alice"},
        "userAgent": "test/1",
        "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestObject": config_map("a", x="1"),
        "responseObject": made.json,
        "requestReceivedTimestamp": complete["requestReceivedTimestamp"],
        "stageTimestamp": complete["stageTimestamp"],
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    }
    assert received["stageTimestamp"] == received["requestReceivedTimestamp"] < complete["stageTimestamp"]
    assert {"requestObject", "responseObject", "responseStatus", "annotations"}.isdisjoint(received)


@pytest.mark.parametrize(
    ("level", "told"),
    [("Metadata", set()), ("Request", {"requestObject"}), ("RequestResponse", {"requestObject", "responseObject"})],
)
async def test_each_level_tells_more(level: str, told: set[str]) -> None:
    async with audited({"level": level}, omitStages=["RequestReceived"]) as (api, kept, metrics):
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        text = (await metrics.text()).decode()
    [event] = kept.events
    assert {"requestObject", "responseObject"} & set(event) == told
    assert event["objectRef"]["name"] == "a"
    assert f'apiserver_audit_level_total{{level="{level}"}} 1' in text
    assert "apiserver_audit_event_total 1" in text


async def test_nothing_is_told_of_what_no_rule_wants() -> None:
    async with audited({"level": "Metadata", "verbs": ["delete"]}) as (api, kept, _):
        answer = await api.ask("POST", CONFIG_MAPS, config_map("a"))
    assert answer.code == 201
    assert kept.events == []


async def test_patches_are_told_as_they_were_sent() -> None:
    async with audited({"level": "Request", "verbs": ["patch"]}, omitStages=["RequestReceived"]) as (api, kept, _):
        await api.ask("POST", CONFIG_MAPS, config_map("a", x="1"))
        patch = [{"op": "replace", "path": "/data/x", "value": "2"}]
        await api.ask("PATCH", f"{CONFIG_MAPS}/a", patch, content_type="application/json-patch+json")
        body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {y: z}\n"
        await api.ask("PATCH", f"{CONFIG_MAPS}/a?fieldManager=f", body, content_type="application/apply-patch+yaml")
    assert kept.events[0]["requestObject"] == patch
    assert kept.events[1]["requestObject"]["data"] == {"y": "z"}


async def test_refusals_are_told_with_their_reason() -> None:
    async with audited({"level": "Metadata"}, omitStages=["RequestReceived"]) as (api, kept, _):
        api.door.denied.add("bob")
        await api.ask("GET", f"{CONFIG_MAPS}/a", authorization="bob")
        await api.ask("GET", f"{CONFIG_MAPS}/a", authorization="alice")
        await api.ask("POST", CONFIG_MAPS, b"{", authorization="alice")
    forbidden, missing, broken = kept.events
    assert forbidden["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert forbidden["responseStatus"]["reason"] == "Forbidden"
    assert forbidden["responseStatus"]["code"] == 403
    assert missing["responseStatus"]["status"] == "Failure"
    assert missing["responseStatus"]["message"] == 'configmaps "a" not found'
    assert missing["responseStatus"]["details"] == {"name": "a", "kind": "configmaps"}
    assert broken["responseStatus"]["code"] == 400
    assert "requestObject" not in broken


async def test_who_proves_nothing_is_told_too() -> None:
    async with audited({"level": "RequestResponse"}) as (api, kept, _):
        api.service.config = type(api.service.config)(api.service.config.etcd, anonymous_auth=False)
        await api.ask("GET", f"{CONFIG_MAPS}/a")
    [event] = kept.events
    assert event["stage"] == "ResponseStarted"
    assert event["user"] == {}
    assert event["responseStatus"] == {
        "metadata": {}, "message": "Authentication failed, no credentials provided", "code": 401,
    }  # fmt: skip


async def test_watches_are_told_when_they_begin_and_end() -> None:
    async with audited({"level": "RequestResponse", "verbs": ["watch"]}) as (api, kept, _):
        async with api.watch(f"{CONFIG_MAPS}?watch=1") as events:
            await api.ask("POST", CONFIG_MAPS, config_map("a"))
            assert (await next_event(events))["type"] == "ADDED"
            assert kept.stages() == ["RequestReceived", "ResponseStarted"]
        assert kept.stages() == ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    assert all("responseObject" not in event for event in kept.events)
    assert kept.events[1]["responseStatus"] == {"metadata": {}, "code": 200}


async def test_paths_that_are_no_resources_are_told_without_objects() -> None:
    async with audited({"level": "RequestResponse", "nonResourceURLs": ["/version"]}) as (api, kept, _):
        await api.ask("GET", "/version")
        await api.ask("GET", CONFIG_MAPS)
    assert kept.stages() == ["RequestReceived", "ResponseComplete"]
    event = kept.events[1]
    assert {"objectRef", "requestObject", "responseObject"}.isdisjoint(event)
    assert (event["verb"], event["requestURI"]) == ("get", "/version")


async def test_managed_fields_are_left_out_of_objects_and_lists() -> None:
    async with audited({"level": "RequestResponse"}, omitManagedFields=True) as (api, kept, _):
        path = f"{CONFIG_MAPS}/a?fieldManager=me"
        made = await api.ask("PATCH", path, config_map("a", x="1"), content_type="application/apply-patch+yaml")
        await api.ask("GET", CONFIG_MAPS)
        table = "application/json;as=Table;v=v1;g=meta.k8s.io"
        await api.ask("GET", f"{CONFIG_MAPS}?includeObject=Object", accept=table)
    assert "managedFields" in made.json["metadata"]
    told = [event["responseObject"] for event in kept.events if "responseObject" in event]
    assert len(told) == 3
    assert b"managedFields" not in orjson.dumps(told)


async def test_a_strict_place_that_loses_events_stops_requests() -> None:
    async with audited({"level": "Metadata"}) as (api, kept, metrics):
        kept.keeps = False
        answer = await api.ask("POST", CONFIG_MAPS, config_map("a"))
        kept.keeps = True
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).code == 404
        assert "apiserver_audit_requests_rejected_total 1" in (await metrics.text()).decode()
    assert answer.code == 500
    assert answer.json["message"] == "Internal error occurred: failed to store audit event"


async def test_failures_of_our_own_are_told_as_panics(monkeypatch: pytest.MonkeyPatch) -> None:
    async with audited({"level": "Metadata"}) as (api, kept, _):

        async def broken(*arguments: Any) -> Any:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(api.service, "get", broken)
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).code == 500
    assert kept.stages() == ["RequestReceived", "Panic"]
    assert kept.events[1]["responseStatus"]["reason"] == "InternalError"
    assert "secret detail" not in str(kept.events)


async def test_large_events_lose_their_objects_first_and_then_everything() -> None:
    async with audited({"level": "RequestResponse"}, truncate=TruncateConfig(1500, 10_000)) as (api, kept, metrics):
        await api.ask("POST", CONFIG_MAPS, config_map("a", x="1" * 2000))
        await api.ask("GET", f"{CONFIG_MAPS}/{'b' * 2000}")
        assert 'apiserver_audit_error_total{plugin="truncate"}' in (await metrics.text()).decode()
    complete = kept.events[1]
    assert "requestObject" not in complete
    assert complete["annotations"]["audit.k8s.io/truncated"] == "true"
    assert len(kept.events) == 2


async def test_objects_that_are_too_deep_are_told_of_without_them() -> None:
    async with audited({"level": "RequestResponse"}, omitStages=["RequestReceived"]) as (api, kept, _):
        body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"deep"},"x":' + b"[" * 400 + b"]" * 400 + b"}"
        answer = await api.ask("POST", CONFIG_MAPS, body)
    [event] = kept.events
    assert event["responseStatus"]["code"] == answer.code
    assert "requestObject" not in event


ADDRESSES: dict[str, tuple[dict[str, tuple[str, ...]], str, list[str]]] = {
    "the connection's": ({}, "10.0.0.1", ["10.0.0.1"]),
    "proxies before it": (
        {"x-forwarded-for": ("10.1.1.1, 10.2.2.2", "10.3.3.3")}, "10.0.0.1", ["10.1.1.1", "10.2.2.2", "10.3.3.3", "10.0.0.1"],
    ),
    "a proxy's word": ({"x-real-ip": ("10.9.9.9",)}, "10.0.0.1", ["10.9.9.9", "10.0.0.1"]),
    "itself said so": ({"x-forwarded-for": ("10.0.0.1",)}, "10.0.0.1", ["10.0.0.1"]),
    "nonsense": ({"x-forwarded-for": ("<script>",), "x-real-ip": ("me",)}, "::1", ["::1"]),
    "nobody": ({}, "", []),
}  # fmt: skip


@pytest.mark.parametrize("case", ADDRESSES)
def test_source_addresses(case: str) -> None:
    headers, remote, wanted = ADDRESSES[case]
    assert source_addresses(headers, remote) == wanted
