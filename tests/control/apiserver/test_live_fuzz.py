"""Noise on live sockets and on the hub: each time a clear answer, nothing stored, nothing kept, no traceback."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
import pytest_asyncio

from control.api.protobuf_encoding import MAGIC, encode_body
from control.apiserver.grpc import SERVICE, STATUS_KEY, HubServer
from control.apiserver.rest import server as door
from proto.control import resources_pb2 as pb
from proto.control import resources_pb2_grpc as pb_grpc
from tests.control.apiserver.harness import CONFIG_MAPS, Api, config_map, pod, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEED = 20240607
DEADLINE_S = 20.0


@dataclass
class Live:
    """An API server on real sockets."""

    api: Api
    port: int
    hub_port: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live() -> AsyncIterator[Live]:
    async with running(body_bytes_max=1 << 20, request_timeout_s=1.0) as api:
        bound = door.bind("127.0.0.1", 0)
        serving = asyncio.ensure_future(door.serve(api.app, bound, None))
        hub = HubServer(replace(api.service.config, grpc_port=0), api.service)
        await hub.start()
        hub_running = asyncio.ensure_future(hub.run())
        await api.ask("GET", CONFIG_MAPS)
        try:
            yield Live(api, bound.getsockname()[1], hub.port)
        finally:
            api.feed.end_watches()
            for task in (serving, hub_running):
                task.cancel()
            await asyncio.wait([serving, hub_running], timeout=15)
            bound.close()


@pytest.fixture(autouse=True)
def unharmed(live: Live, caplog: pytest.LogCaptureFixture) -> Any:
    """Look after each test that nothing was stored and that nothing fell over."""
    caplog.set_level(logging.WARNING)
    before = live.api.store.at
    yield
    assert live.api.store.at == before
    told = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not told, told[0].getMessage()


async def talk(port: int, *parts: bytes, pause_s: float = 0.0, hang_up: bool = False) -> bytes:
    """Send bytes and return all that comes back until the server closes; ``hang_up`` tells it that no more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if hang_up:
                writer.write_eof()
            while chunk := await reader.read(65536):
                answer += chunk
    except ConnectionError:
        pass
    finally:
        writer.close()
    return answer


def head(method: str, url: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {url} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode("latin-1")


def ask(method: str, url: str, body: bytes, media: str = "application/json") -> bytes:
    return head(method, url, f"Content-Type: {media}", f"Content-Length: {len(body)}") + body


def status_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return an answer's code and its Status; there must be one."""
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"Traceback" not in answer
    found = orjson.loads(body)
    assert (found["kind"], found["status"]) == ("Status", "Failure")
    code = int(top.split(b" ", 2)[1])
    assert found["code"] == code
    return code, found


async def refused(live: Live, request: bytes, *codes: int) -> dict[str, Any]:
    code, found = status_of(await talk(live.port, request))
    assert code in codes, found
    return found


def deep(levels: int, opening: bytes = b'{"a":', inner: bytes = b"1", closing: bytes = b"}") -> bytes:
    return opening * levels + inner + closing * levels


DEEP = [
    pytest.param(deep(levels, *form), id=f"{name}-{levels}")
    for levels in (150, 230, 260, 900, 1100, 100_000)
    for name, form in (("maps", (b'{"a":', b"1", b"}")), ("lists", (b"[", b"", b"]")))
]


@pytest.mark.parametrize("body", DEEP)
async def test_depth(live: Live, body: bytes) -> None:
    inside = (
        b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[{"fieldsV1":%s}]},"data":5}'
    )
    for url, method, media, sent in (
        (CONFIG_MAPS, "POST", "application/json", body),
        (CONFIG_MAPS, "POST", "application/json", inside % body),
        (CONFIG_MAPS, "POST", "application/yaml", body),
        (f"{CONFIG_MAPS}/a", "PUT", "application/json", body),
        (f"{CONFIG_MAPS}/a", "PATCH", "application/merge-patch+json", body),
        (f"{CONFIG_MAPS}/a", "PATCH", "application/strategic-merge-patch+json", body),
        (f"{CONFIG_MAPS}/a?fieldManager=m&fieldValidation=Strict", "PATCH", "application/apply-patch+yaml", body),
        (f"{CONFIG_MAPS}/a", "PATCH", "application/json-patch+json",
         b'[{"op":"add","path":"/data","value":%s}]' % body),
        (f"{CONFIG_MAPS}/a", "DELETE", "application/json", body),
    ):  # fmt: skip
        await refused(live, ask(method, url, sent, media), 400, 404, 422)


BOMBS = {
    "laughs": b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 10)),
    "merges": b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {<<: [%s], y%d: 1}\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9), n) for n in range(1, 10)),
    "itself": b"a: &a [*a]\n",
    "itself in a map": b"&a {a: *a}\n",
    "flow": b"[" * 50_000,
    "block": b"".join(b" " * n + b"- \n" for n in range(600)),
    "dashes": b"- " * 20_000 + b"x",
    "large number": b"a: " + b"9" * 5000,
    "beyond 64 bits": b"a: 99999999999999999999999\n",
    "binary": b"a: !!binary aGVsbG8=\n",
    "python": b"a: !!python/object/apply:os.system [id]\n",
    "set": b"!!set {a, b}\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "nothing": b"",
    "tab": b"\ta: 1\n",
    "not a number": b"a: .nan\n",
    "complex key": b"? [a, b]\n: 1\n",
    "NUL": b"a: \0\n",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
async def test_yaml(live: Live, body: bytes) -> None:
    await refused(live, ask("POST", CONFIG_MAPS, body, "application/yaml"), 400, 422)
    apply_url = f"{CONFIG_MAPS}/a?fieldManager=m&fieldValidation=Strict"
    await refused(live, ask("PATCH", apply_url, body, "application/apply-patch+yaml"), 400, 422)


def protobuf_bodies() -> list[bytes]:
    """Return an object's bytes, cut and spoilt."""
    chance = random.Random(SEED)
    whole = encode_body({"apiVersion": "v1", "kind": "Pod", **pod("p", nodeSelector={"a": "b"}, hostNetwork=True)})
    made = [whole[:size] for size in range(len(whole))]
    for _ in range(150):
        spoilt = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            spoilt[chance.randrange(len(MAGIC), len(spoilt))] = chance.randrange(256)
        made.append(bytes(spoilt))
    made += [MAGIC + chance.randbytes(chance.randint(0, 80)) for _ in range(100)]
    lengthy = b"\x0a" + b"\xff" * 9 + b"\x01"
    return [*made, MAGIC + lengthy, MAGIC + b"\x12\x80\x80\x80\x80\x08", MAGIC + b"\x0b" * 5000]


async def test_protobuf(live: Live) -> None:
    pods = "/api/v1/namespaces/default/pods?dryRun=All"
    for body in protobuf_bodies():
        answer = await live.api.ask("POST", pods, body, content_type="application/vnd.kubernetes.protobuf")
        assert answer.code in (201, 400, 422), (body, answer.body)
    for body in protobuf_bodies()[:3]:
        await refused(live, ask("POST", pods, body, "application/vnd.kubernetes.protobuf"), 400)


async def test_random_bytes(live: Live) -> None:
    chance = random.Random(SEED)
    for size in (1, 20, 300, 5000):
        for _ in range(5):
            answer = await talk(live.port, chance.randbytes(size), hang_up=True)
            assert not answer or answer.startswith(b"HTTP/1.1 400"), answer
    for method, media in (("POST", "application/json"), ("POST", "application/yaml"), ("DELETE", "application/json")):
        for _ in range(5):
            body = chance.randbytes(200)
            await refused(live, ask(method, CONFIG_MAPS, body, media), 400)
    for media in ("text/html", "application/cbor", "application/json; charset=\xff", "multipart/form-data"):
        answer = await talk(live.port, ask("POST", CONFIG_MAPS, b"{", media))
        assert status_of(answer)[0] in (400, 415)


@pytest.mark.parametrize(
    "url",
    [
        "/api/v1/namespaces/%FF/configmaps?fieldSelector=%",
        "/api/v1/namespaces/default/configmaps/%2e%2e",
        "/api/v1/namespaces/default/configmaps/" + "x" * 9000,
        CONFIG_MAPS + "?" + "a&" * 15_000 + "resourceVersion=x",
        CONFIG_MAPS + "?labelSelector=" + "(," * 20_000,
        CONFIG_MAPS + "?labelSelector=" + "a," * 20_000,
        CONFIG_MAPS + "?fieldSelector=" + "\\" * 40_000,
        CONFIG_MAPS + "?fieldSelector=" + "metadata.name!%3Dx," * 3_000 + "bad",
        CONFIG_MAPS + "?continue=" + "A" * 60_000,
        "/" + "a/" * 30_000,
        "/apis/" + "x" * 50_000 + "/v1/y",
        "/openapi/v3/../../etc/passwd",
    ],
    ids=lambda url: url[:60],
)
async def test_addresses(live: Live, url: str) -> None:
    now = asyncio.get_running_loop().time()
    await refused(live, head("GET", url), 400, 404)
    assert asyncio.get_running_loop().time() - now < DEADLINE_S


@pytest.mark.parametrize(
    ("request_", "codes"),
    [
        (head("GET", "/api/\xe9"), (400,)),
        (b"GET /api HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA:b\r\n" + b"A: b\r\n" * 15_000 + b"\r\n", (200,)),
        (b"GET /api HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 900_000 + b"\r\n\r\n", (431,)),
        (b"GET " + b"/" + b"x" * 900_000 + b" HTTP/1.1\r\n\r\n", (431, 400)),
        (b"POST " + CONFIG_MAPS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", (400,)),
        (b"POST " + CONFIG_MAPS.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
        (b"GET /api HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", (200,)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    ],
    ids=["raw letters", "one header often", "large header", "long line", "no length", "bad chunk", "upgrade", "HTTP/2"],
)
async def test_heads(live: Live, request_: bytes, codes: tuple[int, ...]) -> None:
    answer = await talk(live.port, request_)
    # A refusal may be lost where we were still sending.
    if answer or codes == (200,):
        assert int(answer.split(b" ", 2)[1]) in codes, answer[:300]
    assert b"Traceback" not in answer


async def test_a_body_above_the_limit_is_not_read_to_its_end(live: Live) -> None:
    request = head("POST", CONFIG_MAPS, "Content-Type: application/json", "Content-Length: 99999999")
    code, _ = status_of(await talk(live.port, request.replace(b"Connection: close\r\n", b"")))
    assert code == 413
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    request = head("POST", CONFIG_MAPS, "Content-Type: application/json", "Transfer-Encoding: chunked")
    answer = await talk(live.port, request.replace(b"Connection: close\r\n", b""), *[chunk] * 20)
    assert not answer or status_of(answer)[0] == 413


async def test_slow_bodies_are_ended_and_others_served(live: Live) -> None:
    request = head("POST", CONFIG_MAPS, "Content-Type: application/json", "Content-Length: 1000").replace(
        b"Connection: close\r\n", b""
    )
    loris = [asyncio.ensure_future(talk(live.port, request, *[b" "] * 6, pause_s=0.05)) for _ in range(40)]
    await asyncio.sleep(0.3)
    assert (await talk(live.port, head("GET", "/version"))).startswith(b"HTTP/1.1 200")
    for answer in await asyncio.gather(*loris):
        assert status_of(answer)[0] == 504


async def hub(live: Live, method: str, request: Any) -> int:
    """Call the hub; return the refusal's code, 0 where there was none."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{live.hub_port}") as channel:
        try:
            call = getattr(pb_grpc.ResourcesStub(channel), method)(request, timeout=DEADLINE_S)
            await (call.read() if method == "Watch" else call)
        except grpc.aio.AioRpcError as error:
            refusal = error
        else:
            return 0
    assert "Traceback" not in str(refusal.details())
    found = dict(refusal.trailing_metadata() or ()).get(STATUS_KEY)
    assert found is not None, refusal
    return int(orjson.loads(found)["code"])


MAPS = pb.Target(version="v1", resource="configmaps", namespace="default", name="a")
ALL_MAPS = pb.Target(version="v1", resource="configmaps", namespace="default")
JSON_PATCH = "application/json-patch+json"
CALLS = [
    ("Get", pb.GetRequest(), {404}),
    ("Get", pb.GetRequest(target=MAPS, resource_version="x"), {400}),
    ("Get", pb.GetRequest(target=pb.Target(group="\0", version="v1", resource="é")), {404}),
    ("List", pb.ListRequest(target=ALL_MAPS, limit=-5, resource_version="x"), {400}),
    ("List", pb.ListRequest(target=ALL_MAPS, label_selector="(" * 9000), {400}),
    ("List", pb.ListRequest(target=ALL_MAPS, **{"continue": "x"}), {400}),  # type: ignore[arg-type]
    ("Create", pb.CreateRequest(target=ALL_MAPS), {400}),
    ("Create", pb.CreateRequest(target=ALL_MAPS, object=b"\xff"), {400}),
    ("Create", pb.CreateRequest(target=ALL_MAPS, object=b"[]"), {400}),
    ("Create", pb.CreateRequest(target=ALL_MAPS, object=deep(900)), {400}),
    ("Create", pb.CreateRequest(target=ALL_MAPS, object=b"{}", field_validation="Some"), {422}),
    ("Create", pb.CreateRequest(target=ALL_MAPS, object=b"{}", field_manager="\0"), {422}),
    ("Update", pb.UpdateRequest(target=MAPS, object=b"null"), {400}),
    ("Update", pb.UpdateRequest(target=ALL_MAPS, object=b"{}"), {405}),
    ("Patch", pb.PatchRequest(target=MAPS, patch=b"{}"), {415}),
    ("Patch", pb.PatchRequest(target=MAPS, patch=b"{", patch_type=JSON_PATCH), {400}),
    ("Patch", pb.PatchRequest(target=MAPS, patch=b"[]", patch_type=JSON_PATCH, force=True), {422}),
    ("Patch", pb.PatchRequest(target=MAPS, patch=BOMBS["laughs"], patch_type="application/apply-patch+yaml",
                              field_manager="m"), {400}),
    ("Delete", pb.DeleteRequest(target=MAPS, options=b"{"), {400}),
    ("Delete", pb.DeleteRequest(target=MAPS, options=b'{"preconditions":7}'), {400}),
    ("Delete", pb.DeleteRequest(target=MAPS, options=b"[]"), {400}),
    ("Watch", pb.WatchRequest(target=ALL_MAPS, resource_version="x"), {400}),
    ("Watch", pb.WatchRequest(target=ALL_MAPS, timeout_s=-5), {0}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "codes"), CALLS)
async def test_hub_calls(live: Live, method: str, request_: Any, codes: set[int]) -> None:
    assert await hub(live, method, request_) in codes


async def test_hub_takes_no_noise(live: Live) -> None:
    chance = random.Random(SEED)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{live.hub_port}") as channel:
        for method in ("Get", "List", "Create", "Update", "Patch", "Delete"):
            call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
            for _ in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(chance.randbytes(chance.randint(1, 60)), timeout=DEADLINE_S)
                assert "Traceback" not in str(caught.value.details())
    for size in (9, 100, 3000):
        await talk(live.hub_port, chance.randbytes(size), hang_up=True)
        await talk(
            live.hub_port,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", size)[1:] + chance.randbytes(40),
            hang_up=True,
        )
    assert await hub(live, "List", pb.ListRequest(target=ALL_MAPS)) == 0


async def test_noise_leaves_nothing_behind(live: Live) -> None:
    async def round_of_noise() -> None:
        for body in (b"{", deep(150), b"\xff" * 3000, orjson.dumps({**config_map("a"), "more": ["x"] * 500})):
            for url in (CONFIG_MAPS + "?dryRun=All&fieldValidation=Strict", f"{CONFIG_MAPS}/none"):
                await talk(live.port, ask("POST", url, body))
                await talk(live.port, ask("PATCH", url, body, "application/merge-patch+json"))

    async def counted() -> int:
        await round_of_noise()
        async with asyncio.timeout(DEADLINE_S):
            while len(asyncio.all_tasks()) > 20:
                await asyncio.sleep(0.01)
        gc.collect()
        return len(gc.get_objects())

    await counted()
    first = await counted()
    for _ in range(3):
        await counted()
    assert await counted() < first + 2000
