"""Whatever a client sends, the answer is an object or a Status that blames the client, never a failure of ours."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.api import schema
from control.apiserver import kinds
from control.apiserver.kinds import Kind
from tests.control.apiserver.harness import Answer, running

KINDS = [kind for kind in kinds.load().all if "create" in kind.verbs and kind.resource.plural != "bindings"]
STORED = [kind for kind in KINDS if "get" in kind.verbs]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["", "a", "web-1", "A_b", "x" * 64, "10.0.0.1", "kubernetes.io/name", "*", "é"])
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "string": NAMES,
    "bool": st.booleans(),
    "int32": st.sampled_from([-1, 0, 1, 80, 70000, 2**31 - 1]),
    "int64": st.sampled_from([-1, 0, 1, 2**63 - 1]),
    "float64": st.floats(0, 1),
    "double": st.floats(0, 1),
    "bytes": st.sampled_from(["", "YQ==", "not base64"]),
    "Quantity": st.sampled_from(["1", "100m", "-1Gi", "1e3", "x"]),
    "Time": st.sampled_from(["2026-01-01T00:00:00Z", "yesterday"]),
    "MicroTime": st.sampled_from(["2026-01-01T00:00:00.000000Z", "x"]),
    "IntOrString": st.sampled_from([0, 80, "50%", "http", "150%", -1]),
    "Duration": st.sampled_from(["1s", "x"]),
    "StringList": st.lists(NAMES, max_size=2),
}


@st.composite
def values(draw: st.DrawFn, kind: str, depth: int) -> Any:
    """Draw a value that mostly fits a type of the schema."""
    if draw(st.integers(0, 40)) == 0:
        return draw(JSON)
    if kind.startswith("[]"):
        return [draw(values(kind[2:], depth - 1)) for _ in range(draw(st.integers(0, 2)))]
    if kind.startswith("{}"):
        return {draw(NAMES): draw(values(kind[2:], depth - 1)) for _ in range(draw(st.integers(0, 2)))}
    found = schema.resolve(kind)
    if found is None:
        scalar = schema.definition(kind) if schema.is_reference(kind) else None
        if scalar is not None and scalar.enum and draw(st.booleans()):
            return draw(st.sampled_from(scalar.enum))
        return draw(LEAVES.get(scalar.scalar if scalar is not None else kind, JSON))
    names = sorted(found.fields)
    if depth <= 0 or not names:
        return {}
    chosen = draw(st.lists(st.sampled_from(names), max_size=6, unique=True))
    wanted = [name for name in names if name in chosen or (found.fields[name].required and depth > 1)]
    return {name: draw(values(found.fields[name].type, depth - 1)) for name in wanted}


@st.composite
def documents(draw: st.DrawFn) -> tuple[Kind, Any]:
    """Draw a kind and an object that may pass for one."""
    kind = draw(st.sampled_from(KINDS))
    obj = draw(values(kind.served.definition, 6))
    if isinstance(obj, dict) and draw(st.integers(0, 9)):
        obj["apiVersion"], obj["kind"] = kind.resource.api_version, kind.resource.kind
        obj["metadata"] = {"name": "web"}
    return kind, obj


def collection(kind: Kind) -> str:
    space = "/namespaces/default" if kind.resource.namespaced else ""
    return f"{kind.resource.path}{space}/{kind.resource.plural}"


def check(answer: Answer) -> None:
    assert answer.code < 500 or answer.code == 501, answer.body
    assert isinstance(answer.json, dict)
    if answer.code >= 400:
        assert (answer.json["kind"], answer.json["code"]) == ("Status", answer.code)


async def create_and_change(kind: Kind, obj: Any, changed: Any) -> None:
    async with running() as api:
        url = collection(kind)
        made = await api.ask("POST", url, obj)
        check(made)
        if made.code != 201 or kind not in STORED:
            return
        name = made.json["metadata"]["name"]
        again = await api.ask("PUT", f"{url}/{name}", made.json)
        assert again.code == 200, again.body
        check(await api.ask("GET", url, accept="application/json;as=Table;v=v1;g=meta.k8s.io"))
        for patch_type in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            check(await api.ask("PATCH", f"{url}/{name}", changed, content_type=patch_type))
        check(
            await api.ask("PATCH", f"{url}/{name}?fieldManager=m", changed, content_type="application/apply-patch+yaml")
        )
        check(await api.ask("DELETE", f"{url}/{name}"))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents(), documents())
def test_no_object_breaks_the_server(first: tuple[Kind, Any], second: tuple[Kind, Any]) -> None:
    asyncio.run(create_and_change(first[0], first[1], second[1]))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(KINDS), st.binary(max_size=60), st.sampled_from(["json", "yaml", "vnd.kubernetes.protobuf", "x"])
)
def test_no_bytes_break_the_server(kind: Kind, body: bytes, media: str) -> None:
    async def send() -> None:
        async with running() as api:
            for prefix in (b"", b"k8s\0"):
                check(await api.ask("POST", collection(kind), prefix + body, content_type=f"application/{media}"))

    asyncio.run(send())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"]),
    st.lists(st.sampled_from(["api", "apis", "v1", "apps", "namespaces", "default", "pods", "x", "status", "é", "%00"]), max_size=8),
    st.dictionaries(st.sampled_from(["limit", "continue", "labelSelector", "fieldSelector", "resourceVersion", "dryRun"]),
                    st.text(max_size=10)),
)  # fmt: skip
def test_no_address_breaks_the_server(method: str, parts: list[str], query: dict[str, str]) -> None:
    async def send() -> None:
        async with running() as api:
            text = "&".join(f"{name}={value}" for name, value in query.items())
            check(await api.ask(method, f"/{'/'.join(parts)}?{text}", {}))

    asyncio.run(send())
