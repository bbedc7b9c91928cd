"""Port 10250 on real pods: logs, exec, port-forward, figures."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.client import certificates
from control.client.client import DeleteOptions
from node.config import KubeletConfig
from node.kubelet import Kubelet
from node.log_rotation import LogRotation
from tests.node.inside.conftest import NodeApi, container, is_ready, phase_is, running, until

SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"


def trusting() -> ssl.SSLContext:
    """A client's TLS that believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def dial(
    kubelet: Kubelet, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the kubelet."""
    return await asyncio.open_connection("127.0.0.1", kubelet.server.port, ssl=tls or trusting())


async def get(kubelet: Kubelet, path: str, tls: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """One GET: status and body."""
    reader, writer = await dial(kubelet, tls)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: n1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read()
    writer.close()
    if b"chunked" in head.lower():
        body = unchunked(body)
    return int(head.split()[1]), body


def unchunked(body: bytes) -> bytes:
    """The content of a chunked body."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return found


class WebSocket:
    """A little WebSocket client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, kubelet: Kubelet, path: str, protocol: str) -> WebSocket:
        reader, writer = await dial(kubelet)
        key = base64.b64encode(b"0123456789abcdef").decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head + await reader.read(1000)
        assert f"protocol: {protocol}".lower().encode() in head.lower()
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        length = struct.pack(">B", 0x80 | len(data)) if len(data) < 126 else struct.pack(">BH", 0xFE, len(data))
        self.writer.write(b"\x82" + length + b"\0\0\0\0" + data)

    async def receive(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        length = second & 127
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first & 15, await self.reader.readexactly(length)

    async def channels(self) -> dict[int, bytes]:
        """Everything until the end, by channel."""
        found: dict[int, bytes] = {}
        while True:
            try:
                kind, data = await asyncio.wait_for(self.receive(), 20)
            except (asyncio.IncompleteReadError, ConnectionError):
                return found
            if kind == 8:
                return found
            if kind in (1, 2) and data:
                found[data[0]] = found.get(data[0], b"") + data[1:]


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str, str], ssl.SSLContext]:
    """Makes clients of an authority whose certificate is ca.crt: (user, group) to their TLS."""
    now = datetime.now(UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(name).public_key(key.public_key())
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        builder = builder.not_valid_after(now + timedelta(hours=1))
        return builder.add_extension(x509.BasicConstraints(ca, None), True).sign(signer, hashes.SHA256())

    signer = certificates.make_key()
    ca = certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]), signer, ca=True)
    (tmp_path / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def client(user: str, group: str) -> ssl.SSLContext:
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group), x509.NameAttribute(NameOID.COMMON_NAME, user)]
        key = certificates.make_key()
        pair = certificate(x509.Name(names), key, ca=False).public_bytes(serialization.Encoding.PEM)
        path = tmp_path / f"{user}.pem"
        path.write_bytes(pair + certificates.key_pem(key))
        context = trusting()
        context.load_cert_chain(path)
        return context

    return client


async def test_callers_are_known_and_asked_for(
    config: KubeletConfig, api: NodeApi, tmp_path: Path, authority: Callable[[str, str], ssl.SSLContext]
) -> None:
    guarded = replace(config, client_ca_file=tmp_path / "ca.crt", authorization_mode="Webhook")
    async with running(guarded, api) as kubelet:

        async def asked(path: str, tls: ssl.SSLContext) -> int:
            return (await get(kubelet, path, tls))[0]

        assert await asked("/healthz", trusting()) == 200
        assert await asked("/pods", trusting()) == 401
        assert await asked("/pods", authority("kube-apiserver-kubelet-client", "raftsman:kubelet-api-admin")) == 200
        assert await asked("/pods", authority("admin", "system:masters")) == 200
        assert api.reviews == 0
        assert await asked("/pods", authority("friend", "people")) == 200
        assert await asked("/pods", authority("friend", "people")) == 200
        assert await asked("/pods", authority("stranger", "people")) == 403
        assert api.reviews == 3  # for pods, then for all that is behind the proxy


async def test_logs(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container("for i in 1 2 3 4 5; do echo line $i; done; sleep 1; echo wrong >&2; " + SLEEP))
    await until(is_ready(api, "web"), what="it is ready")
    path = "/containerLogs/default/web/main"

    async def log(query: str = "") -> bytes:
        status, body = await get(kubelet, path + query)
        assert status == 200, body
        return body

    for _ in range(100):
        if b"wrong" in await log():
            break
        await asyncio.sleep(0.05)
    assert await log() == b"line 1\nline 2\nline 3\nline 4\nline 5\nwrong\n"
    assert await log("?tailLines=2") == b"line 5\nwrong\n"
    assert await log("?tailLines=0") == b""
    assert await log("?limitBytes=10") == b"line 1\nlin"
    assert await log("?sinceTime=2100-01-01T00:00:00Z") == b""
    assert (await log("?tailLines=1&timestamps=true")).split(b" ")[0].startswith(b"20")
    assert (await get(kubelet, "/containerLogs/default/none/main"))[0] == 404
    assert (await get(kubelet, "/containerLogs/default/web/none"))[0] == 404
    assert (await get(kubelet, f"{path}?previous=true"))[0] == 400


async def test_logs_are_followed_to_the_end(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("job", container("for i in 1 2 3; do echo $i; sleep 0.5; done"), restartPolicy="Never")
    await until(lambda: "running" in api.container("job").get("state", {}), what="it runs")
    status, body = await asyncio.wait_for(get(kubelet, "/containerLogs/default/job/main?follow=true"), 20)
    assert (status, body) == (200, b"1\n2\n3\n")
    await until(phase_is(api, "job", "Succeeded"), what="it succeeds")
    assert (await get(kubelet, "/containerLogs/default/job/main"))[1] == b"1\n2\n3\n"


async def test_the_previous_instance_has_its_log(kubelet: Kubelet, api: NodeApi) -> None:
    command = "cat /proc/sys/kernel/random/uuid; test -e /v/up && exec sleep 1000; touch /v/up; exit 1"
    mount = {"name": "v", "mountPath": "/v"}
    api.run_pod("web", container(command, volumeMounts=[mount]), volumes=[{"name": "v", "emptyDir": {}}])
    await until(
        lambda: api.container("web").get("restartCount") == 1 and is_ready(api, "web")(), what="the second runs"
    )
    now = await get(kubelet, "/containerLogs/default/web/main")
    while now == (200, b""):  # it runs, and is about to write
        await asyncio.sleep(0.05)
        now = await get(kubelet, "/containerLogs/default/web/main")
    before = await get(kubelet, "/containerLogs/default/web/main?previous=true")
    assert (now[0], before[0]) == (200, 200)
    assert len(now[1]) == len(before[1]) == 37
    assert now[1] != before[1]


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v5.channel.k8s.io"])
async def test_exec_by_web_socket(kubelet: Kubelet, api: NodeApi, protocol: str) -> None:
    api.run_pod("web", container(SLEEP))
    await until(is_ready(api, "web"), what="it is ready")
    path = "/exec/default/web/main?command=sh&command=-c&command=echo+out;+echo+err+>%262;+exit+3&output=1&error=1"
    socket = await WebSocket.open(kubelet, path, protocol)
    found = await socket.channels()
    assert (found[1], found[2]) == (b"out\n", b"err\n")
    status = json.loads(found[3])
    assert status["status"] == "Failure"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


async def test_exec_with_input_that_ends(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container(SLEEP))
    await until(is_ready(api, "web"), what="it is ready")
    path = "/exec/default/web/main?command=sort&input=1&output=1"
    socket = await WebSocket.open(kubelet, path, "v5.channel.k8s.io")
    socket.send(b"\0b\na\n")
    socket.send(b"\xff\0")
    found = await socket.channels()
    assert found[1] == b"a\nb\n"
    assert json.loads(found[3])["status"] == "Success"


async def test_exec_into_what_is_not_there(kubelet: Kubelet, api: NodeApi) -> None:
    assert (await get(kubelet, "/exec/default/none/main?command=x&output=1"))[0] == 404


async def test_pods_health_figures_and_story(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container(SLEEP))
    await until(is_ready(api, "web"), what="it is ready")
    assert await get(kubelet, "/healthz") == (200, b"ok")
    pods = json.loads((await get(kubelet, "/pods"))[1])
    assert [pod["metadata"]["name"] for pod in pods["items"]] == ["web"]
    summary = json.loads((await get(kubelet, "/stats/summary"))[1])
    assert summary["pods"][0]["podRef"]["name"] == "web"
    assert summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"] > 0
    assert b'pod="web"' in (await get(kubelet, "/metrics"))[1]
    assert b"running" in (await get(kubelet, "/story/default/web"))[1]
    assert (await get(kubelet, "/nothing"))[0] == 404


async def test_logs_are_rotated(kubelet: Kubelet, api: NodeApi) -> None:
    command = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; touch /tmp/done; " + SLEEP
    ready = {"exec": {"command": ["test", "-e", "/tmp/done"]}, "periodSeconds": 1}
    api.run_pod("web", container(command, readinessProbe=ready))
    await until(is_ready(api, "web"), what="it is ready")
    await until(lambda: any(info.state == "running" for info in kubelet.pleg.containers), what="it is listed")
    rotation = LogRotation(replace(kubelet.config, container_log_max_bytes=10_000), kubelet.cri, kubelet.pleg)
    await rotation.rotate_all()
    folder = next(Path(kubelet.config.pod_logs_dir).glob("*/main"))
    assert len(list(folder.glob("0.log.*"))) == 1
    body = (await get(kubelet, "/containerLogs/default/web/main"))[1]
    assert body.split() == [str(number).encode() for number in range(2000)]
    tail = (await get(kubelet, "/containerLogs/default/web/main?tailLines=3"))[1]
    assert tail == b"1997\n1998\n1999\n"
    await api.remove_pod("web", DeleteOptions(grace_period_seconds=1))
