"""What clients accept and what they get: JSON, YAML and protobuf, one object, many, and a watch's events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.api.protobuf import decode_body
from control.api.protobuf_leaves import read_fields
from control.api.status import ApiError
from control.apiserver.rest.messages import Messages
from control.apiserver.rest.negotiate import choose, choose_stream, parse_accept
from tests.control.apiserver.harness import CONFIG_MAPS, PODS, config_map, deployment, pod, running

PROTOBUF = "application/vnd.kubernetes.protobuf"
META = f"{PROTOBUF};as=PartialObjectMetadata{{}};g=meta.k8s.io;v=v1"
ALL = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
STREAMS = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
ACCEPTED = "only the following media types are accepted: "
TABLE_V2 = "application/json;as=Table;v=v2;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("", ("application/json", ""), id="none"),
        pytest.param("*/*", ("application/json", ""), id="anything"),
        pytest.param("*", ("application/json", ""), id="a bare star"),
        pytest.param("application/*", ("application/json", ""), id="any application"),
        pytest.param(PROTOBUF, (PROTOBUF, ""), id="protobuf alone"),
        pytest.param(f"{PROTOBUF},application/json", (PROTOBUF, ""), id="as client-go asks"),
        pytest.param(f"{PROTOBUF};q=0.5,application/yaml;q=0.8", ("application/yaml", ""), id="weights"),
        pytest.param("*/*;q=0.9,application/yaml;q=0.1", ("application/yaml", ""), id="names before stars"),
        pytest.param(
            f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json", ("application/json", ""), id="no table"
        ),
        pytest.param("application/yaml;as=Table;v=v1;g=meta.k8s.io", ("application/yaml", "Table"), id="table in YAML"),
        pytest.param(f"{TABLE_V2},application/json", ("application/json", ""), id="a later table"),
        pytest.param(META.format(""), (PROTOBUF, "PartialObjectMetadata"), id="metadata"),
        pytest.param("application/json;stream=watch", ("application/json", ""), id="stream"),
        pytest.param("application/json;stream=log,application/yaml", ("application/yaml", ""), id="unknown stream"),
        pytest.param("nonsense,application/json;sv=v1", ("application/json", ""), id="nonsense is passed by"),
    ],
)
def test_what_is_chosen(header: str, expected: tuple[str, str]) -> None:
    found = choose(header)
    assert (found.type, found.transform) == expected


@pytest.mark.parametrize("header", ["text/html", TABLE_V2, "application/json;as=Pod;v=v1;g=", "application/json;sv=v2"])
def test_what_is_not_acceptable(header: str) -> None:
    with pytest.raises(ApiError) as refused:
        choose(header)
    assert (refused.value.code, refused.value.reason) == (406, "NotAcceptable")
    assert refused.value.message == ACCEPTED + ALL


def test_a_custom_kind_has_no_protobuf_but_its_metadata_has() -> None:
    with pytest.raises(ApiError):
        choose(PROTOBUF, custom=True)
    assert choose(f"{PROTOBUF},*/*", custom=True).type == "application/json"
    assert choose(META.format("List"), custom=True).type == PROTOBUF


def test_events_are_never_yaml() -> None:
    with pytest.raises(ApiError) as refused:
        choose_stream("application/yaml")
    assert refused.value.message == ACCEPTED + STREAMS


def test_a_header_of_many_entries_is_read_in_bounded_time() -> None:
    assert len(parse_accept(",".join(f"text/{number};q=0.{number}" for number in range(20_000)))) == 64


async def test_objects_lists_and_failures_in_protobuf() -> None:
    async with running() as api:
        made = await api.ask("POST", PODS, pod("p", hostNetwork=True), accept=PROTOBUF)
        assert (made.code, made.headers["content-type"]) == (201, PROTOBUF)
        plain = (await api.ask("GET", f"{PODS}/p")).json
        for answer in (made, await api.ask("GET", f"{PODS}/p", accept=PROTOBUF)):
            found = decode_body(answer.body)
            assert found["metadata"]["uid"] == plain["metadata"]["uid"]
            assert found["spec"] == plain["spec"]
        for number in range(60):
            await api.ask("POST", CONFIG_MAPS, config_map(f"m{number:02}", a="b"))
        listed = decode_body((await api.ask("GET", f"{CONFIG_MAPS}?limit=55", accept=PROTOBUF)).body)
        assert (listed["kind"], listed["apiVersion"], len(listed["items"])) == ("ConfigMapList", "v1", 55)
        assert listed["metadata"]["remainingItemCount"] == 5
        assert listed["items"][54]["data"] == {"a": "b"}
        refused = await api.ask("GET", f"{PODS}/none", accept=PROTOBUF)
        assert refused.headers["content-type"] == PROTOBUF
        assert decode_body(refused.body)["message"] == 'pods "none" not found'
        told = await api.ask("GET", f"{PODS}/none", accept="application/yaml")
        assert (told.headers["content-type"], b"kind: Status" in told.body) == ("application/yaml", True)


async def test_metadata_and_subresources_in_protobuf() -> None:
    async with running() as api:
        url = "/apis/apps/v1/namespaces/default/deployments"
        await api.ask("POST", url, deployment("web", 3))
        one = decode_body((await api.ask("GET", f"{url}/web", accept=META.format(""))).body)
        assert (one["kind"], one["metadata"]["name"], "spec" in one) == ("PartialObjectMetadata", "web", False)
        many = decode_body((await api.ask("GET", url, accept=META.format("List"))).body)
        assert [item["metadata"]["name"] for item in many["items"]] == ["web"]
        scale = decode_body((await api.ask("GET", f"{url}/web/scale", accept=PROTOBUF)).body)
        assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 3})
        refused = await api.ask("GET", url, accept=META.format(""))
        assert refused.code == 406
        wrong = "you requested PartialObjectMetadata, but the requested object is a list (*apps.DeploymentList)"
        assert refused.json["message"] == wrong


async def _frames(api: Any, url: str, accept: str, wanted: int) -> list[tuple[str, dict[str, Any]]]:
    """Open a watch in protobuf and return its first events."""
    data, enough = bytearray(), asyncio.Event()
    found: list[tuple[str, dict[str, Any]]] = []

    async def receive() -> Any:
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert dict(message["headers"])[b"content-type"] == f"{PROTOBUF};stream=watch".encode()
            return
        data.extend(message.get("body", b""))
        while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
            event = dict(read_fields(bytes(data[4 : 4 + size])))
            del data[: 4 + size]
            assert isinstance(event[1], bytes)
            assert isinstance(event[2], bytes)
            raw = dict(read_fields(event[2]))[1]
            assert isinstance(raw, bytes)
            found.append((event[1].decode(), decode_body(raw)))
        if len(found) >= wanted:
            enough.set()

    async with asyncio.timeout(10):
        await api.app(api.scope("GET", url, {"accept": accept}), receive, send)
    return found


async def test_events_in_protobuf() -> None:
    async with running() as api:
        for name in ("a", "b"):
            await api.ask("POST", CONFIG_MAPS, config_map(name, a="b"))
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1"
        events = await _frames(api, f"{CONFIG_MAPS}?{query}", PROTOBUF, 3)
        assert [(kind, obj["kind"]) for kind, obj in events] == [
            ("ADDED", "ConfigMap"), ("ADDED", "ConfigMap"), ("BOOKMARK", "ConfigMap"),
        ]  # fmt: skip
        assert [obj.get("data") for _, obj in events] == [{"a": "b"}, {"a": "b"}, None]
        for accept in (META.format(""), PROTOBUF):
            found = await _frames(api, f"{CONFIG_MAPS}?watch=1&resourceVersion=0", accept, 2)
            assert [obj["metadata"]["name"] for _, obj in found] == ["a", "b"]
        assert found[0][1]["data"] == {"a": "b"}


async def test_messages_are_made_once_and_bounded() -> None:
    async with running() as api:
        for name in ("a", "b", "c"):
            await api.ask("POST", CONFIG_MAPS, config_map(name, k=name * 100))
        kind = next(kind for kind in api.feed.kinds.all if kind.resource.plural == "configmaps")
        entries = list((await api.feed.cache(kind)).entries.values())
        messages = Messages(2 * (len(entries[0].data) + 300))
        first = messages.of(kind, entries[0])
        assert messages.of(kind, entries[0]) is first
        for entry in entries:
            messages.of(kind, entry)
        assert [messages.has(entry) for entry in entries] == [False, True, True]
        listed = await api.ask("GET", CONFIG_MAPS, accept=PROTOBUF)
        await api.ask("PATCH", f"{CONFIG_MAPS}/a", {"data": {"k": "new"}}, content_type="application/merge-patch+json")
        again = await api.ask("GET", CONFIG_MAPS, accept=PROTOBUF)
        values = [decode_body(answer.body)["items"][0]["data"]["k"] for answer in (listed, again)]
        assert values == ["a" * 100, "new"]
