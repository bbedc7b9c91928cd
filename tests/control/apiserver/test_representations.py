"""How answers travel: compressed, laid out for a person, kept by a client; and OpenAPI in both versions."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

from control.apiserver.rest.exchange import GZIP_BYTES_MIN
from tests.control.apiserver.harness import CONFIG_MAPS, TABLE, Answer, config_map, next_event, running


async def test_long_answers_are_compressed_for_those_who_take_it() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("long", text="x" * GZIP_BYTES_MIN))
        await api.ask("POST", CONFIG_MAPS, config_map("short"))
        plain = await api.ask("GET", CONFIG_MAPS)
        packed = await api.ask("GET", CONFIG_MAPS, accept_encoding="deflate, gzip")
        assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
        assert int(packed.headers["content-length"]) == len(packed.body) < 3000
        assert gzip.decompress(packed.body) == plain.body
        for url, accepted in ((f"{CONFIG_MAPS}/short", "gzip"), (CONFIG_MAPS, "br"), (CONFIG_MAPS, "")):
            answer = await api.ask("GET", url, accept_encoding=accepted)
            assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("query", "agent", "laid_out"),
    [
        pytest.param("", "Go-http-client/1.1", False, id="a program"),
        pytest.param("", "curl/8.14.1", True, id="curl"),
        pytest.param("", "Mozilla/5.0 (X11)", True, id="a browser"),
        pytest.param("?pretty=true", "kubectl", True, id="asked for"),
        pytest.param("?pretty=0", "curl/8.14.1", False, id="not wanted"),
    ],
)
async def test_persons_get_many_lines(query: str, agent: str, laid_out: bool) -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        for url in (f"{CONFIG_MAPS}/a", CONFIG_MAPS, f"{CONFIG_MAPS}/none", "/apis"):
            answer = await api.ask("GET", url + query, user_agent=agent)
            assert (b'\n  "kind": ' in answer.body) is laid_out
            assert int(answer.headers["content-length"]) == len(answer.body)
            assert answer.json["kind"]


async def test_partial_metadata_of_objects_lists_and_watches() -> None:
    media = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
    async with running() as api:
        made = (await api.ask("POST", CONFIG_MAPS, config_map("a", key="value"))).json
        one = (await api.ask("GET", f"{CONFIG_MAPS}/a", accept=media.format(""))).json
        assert one == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}
        many = (await api.ask("GET", CONFIG_MAPS, accept=media.format("List"))).json
        assert (many["kind"], [item["kind"] for item in many["items"]]) == (
            "PartialObjectMetadataList", ["PartialObjectMetadata"],
        )  # fmt: skip
        async with api.watch(f"{CONFIG_MAPS}?watch=1", accept=media.format("")) as events:
            assert (await next_event(events))["object"] == one


async def test_what_names_its_hash_may_be_kept_for_ever() -> None:
    async with running() as api:
        url = (await api.ask("GET", "/openapi/v3")).json["paths"]["apis/apps/v1"]["serverRelativeURL"]
        kept = await api.ask("GET", url)
        assert (kept.headers["cache-control"], "expires" in kept.headers) == ("public, immutable", True)
        bare = await api.ask("GET", "/openapi/v3/apis/apps/v1")
        assert (bare.body, bare.headers["cache-control"]) == (kept.body, "no-cache, private")
        moved = await api.ask("GET", "/openapi/v3/apis/apps/v1?hash=OLD")
        assert (moved.code, moved.headers["location"]) == (301, url)


def fields(data: bytes) -> dict[int, list[bytes]]:
    """Return a protobuf message's length-delimited fields by number."""
    found: dict[int, list[bytes]] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(data):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            found.setdefault(tag >> 3, []).append(data[position : position + length])
            position += length
        elif tag & 7 == 1:
            position += 8
        else:
            assert tag & 7 == 0
            varint()
    return found


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


async def v2(accept: str) -> Answer:
    async with running() as api:
        return await api.ask("GET", "/openapi/v2", accept=accept)


async def test_openapi_v2_says_the_same_in_both_of_its_forms() -> None:
    document = (await v2("application/json")).json
    definitions = document["definitions"]
    assert references(document) <= {f"#/definitions/{name}" for name in definitions}
    pod = definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert (pod["x-kubernetes-patch-merge-key"], pod["items"]) == (
        "name", {"$ref": "#/definitions/io.k8s.api.core.v1.Container"},
    )  # fmt: skip
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert [each["in"] for each in patch["parameters"]] == ["body"] + ["query"] * 4
    answer = await v2("application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert answer.headers["content-type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    message = fields(answer.body)
    named = [fields(entry) for part in message[9] for entry in fields(part).get(1, [])]
    assert {entry[1][0].decode() for entry in named} == set(definitions)
    spec = next(fields(entry[2][0]) for entry in named if entry[1] == [b"io.k8s.api.core.v1.PodSpec"])
    properties = {fields(each)[1][0].decode(): fields(fields(each)[2][0]) for each in fields(spec[25][0])[1]}
    marks = {
        fields(mark)[1][0]: orjson.loads(fields(fields(mark)[2][0])[2][0]) for mark in properties["containers"][31]
    }
    assert marks[b"x-kubernetes-patch-merge-key"] == "name"
    assert len([entry for part in message[8] for entry in fields(part)[2]]) == len(document["paths"])


async def test_bookmarks_of_tables_carry_their_revision() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        url = f"{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        async with api.watch(url, accept=TABLE) as events:
            first, mark = await next_event(events), await next_event(events)
        assert (first["type"], mark["type"], mark["object"]["kind"]) == ("ADDED", "BOOKMARK", "Table")
        metadata = mark["object"]["rows"][0]["object"]["metadata"]
        assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert metadata["resourceVersion"] == mark["object"]["metadata"]["resourceVersion"]
