"""Custom objects whose definition has changed since they were stored, or that are asked for in another version."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.control.apiserver.originals.conversations import Reply
from tests.control.apiserver.test_original_answers import InProcess, serving

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
JSON = {"content-type": "application/json"}


def definition(**schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a definition with the spec's properties of each version; the last one is stored."""
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == list(schemas)[-1],
            "schema": {
                "openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": {"type": "object", "properties": properties}},
                }
            },
        }
        for name, properties in schemas.items()
    ]
    names = {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions},
    }


def boats(version: str) -> str:
    return f"/apis/example.com/{version}/namespaces/default/boats"


def boat(version: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": f"example.com/{version}", "kind": "Boat", "metadata": {"name": "argo"}, "spec": spec}


async def sent(speaker: InProcess, method: str, url: str, body: Any, kind: str = "application/json") -> Any:
    reply = await speaker.ask(method, url, {"content-type": kind}, orjson.dumps(body))
    assert reply.code in (200, 201), reply.body
    return orjson.loads(reply.body)


async def served(speaker: InProcess, url: str) -> None:
    async with asyncio.timeout(20):
        while (await speaker.ask("GET", url, {}, b"")).code != 200:
            await asyncio.sleep(0.01)


async def specs(speaker: InProcess, version: str) -> list[Any]:
    """Return the spec as a get, a list and a watch tell it."""
    one = await speaker.ask("GET", f"{boats(version)}/argo", {}, b"")
    many = await speaker.ask("GET", boats(version), {}, b"")
    told: Reply = await speaker.watch(f"{boats(version)}?watch=1", {}, 1)
    found = [
        orjson.loads(one.body),
        orjson.loads(many.body)["items"][0],
        orjson.loads(told.body.splitlines()[0])["object"],
    ]
    assert {each["apiVersion"] for each in found} == {f"example.com/{version}"}
    return [each["spec"] for each in found]


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def test_a_new_default_shows_in_old_objects_and_what_left_the_schema_does_not() -> None:
    async def scenario() -> None:
        async with serving() as speaker:
            await sent(speaker, "POST", DEFINITIONS, definition(v1={"color": STRING, "oars": INTEGER}))
            await served(speaker, boats("v1"))
            await sent(speaker, "POST", boats("v1"), boat("v1", color="red", oars=3))
            new = {
                "versions": definition(v1={"color": STRING, "deck": {**STRING, "default": "oak"}})["spec"]["versions"]
            }
            patch = "application/merge-patch+json"
            await sent(speaker, "PATCH", f"{DEFINITIONS}/boats.example.com", {"spec": new}, patch)
            wanted = {"color": "red", "deck": "oak"}
            async with asyncio.timeout(20):
                while await specs(speaker, "v1") != [wanted] * 3:
                    await asyncio.sleep(0.01)
            changed = await sent(speaker, "PATCH", f"{boats('v1')}/argo", {"spec": {"color": "blue"}}, patch)
            assert changed["spec"] == {"color": "blue", "deck": "oak"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [("v1", {"color": "red"}), ("v2", {"color": "red", "sail": "square"})],
    ids=["another version", "the stored version"],
)
def test_an_object_has_the_fields_of_the_asked_version_and_the_defaults_of_the_stored_one(
    asked: str, wanted: Any
) -> None:
    async def scenario() -> None:
        async with serving() as speaker:
            first = {"color": STRING, "oars": {**INTEGER, "default": 2}}
            second = {"color": STRING, "sail": {**STRING, "default": "square"}}
            await sent(speaker, "POST", DEFINITIONS, definition(v1=first, v2=second))
            await served(speaker, boats("v1"))
            created = await sent(speaker, "POST", boats("v1"), boat("v1", color="red"))
            assert created["spec"] == {"color": "red"}, "what the stored version has no field for is gone"
            assert await specs(speaker, asked) == [wanted] * 3

    asyncio.run(scenario())
