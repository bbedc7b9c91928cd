"""The doors: TLS with client certificates, renewal without restart, plain HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from lab import pki
from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.api.conftest import Member, start


def issue(directory: Path, authority: pki.Authority, name: str) -> None:
    pki.issue(authority, directory, name, name, usages=[pki.SERVER, pki.CLIENT], addresses=["127.0.0.1"])


def channel_to(port: int, directory: Path, client: str | None) -> grpc.aio.Channel:
    chain, key = (
        ((directory / f"{client}.crt").read_bytes(), (directory / f"{client}.key").read_bytes())
        if client
        else (None, None)
    )
    credentials = grpc.ssl_channel_credentials((directory / "ca.crt").read_bytes(), key, chain)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials)


@pytest.mark.parametrize(
    ("client", "is_served"),
    [("client", True), (None, False), ("stranger", False)],
    ids=["ours", "none", "another CA's"],
)
async def test_only_clients_with_a_certificate_of_ours_are_served(
    tmp_path: Path, client: str | None, is_served: bool
) -> None:
    authority = pki.make_authority(tmp_path, "ca", "store")
    for name in ("server", "client"):
        issue(tmp_path, authority, name)
    issue(tmp_path, pki.make_authority(tmp_path, "other-ca", "other"), "stranger")
    async with start(
        tmp_path,
        listen_client_urls=("https://127.0.0.1:0", "http://127.0.0.1:0"),
        cert_file=tmp_path / "server.crt",
        key_file=tmp_path / "server.key",
        trusted_ca_file=tmp_path / "ca.crt",
        client_cert_auth=True,
    ) as member:
        async with channel_to(member.serving.client_ports[0], tmp_path, client) as channel:
            call = rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=b"a"), timeout=5)
            if is_served:
                assert (await call).header.revision == 2
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        async with grpc.aio.insecure_channel(f"127.0.0.1:{member.serving.client_ports[1]}") as channel:
            got = await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"a"))
            assert got.count == is_served


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    issue(tmp_path, pki.make_authority(tmp_path, "ca", "first"), "server")
    async with start(
        tmp_path,
        listen_client_urls=("https://127.0.0.1:0",),
        cert_file=tmp_path / "server.crt",
        key_file=tmp_path / "server.key",
    ) as member:
        for _ in range(2):
            async with channel_to(member.serving.client_ports[0], tmp_path, None) as channel:
                await rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=b"a"), timeout=5)
            issue(tmp_path, pki.make_authority(tmp_path, "ca", "second"), "server")


async def get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_probes_are_answered(member: Member) -> None:
    port = member.serving.metrics_ports[0]
    status, body = await get(port, "/health")
    assert (status, json.loads(body)) == (200, {"health": "true", "reason": ""})
    assert json.loads((await get(port, "/version"))[1]) == {"etcdserver": "3.5.30", "etcdcluster": "3.5.0"}
    assert (await get(port, "/readyz"))[0] == 200
    assert (await get(port, "/nothing"))[0] == 404
    assert b"\netcd_server_has_leader 1\n" in (await get(port, "/metrics"))[1]
    member.consensus.has_leader = False
    backend = member.serving.backend
    backend.limits = type(backend.limits)(request_timeout_s=0.1)
    assert (await get(port, "/health"))[0] == 503
    assert (await get(port, "/livez"))[0] == 200


async def test_a_taken_port_is_said_to_be(tmp_path: Path, member: Member) -> None:
    with pytest.raises(OSError, match="cannot listen on"):
        async with start(tmp_path / "other", listen_client_urls=(f"http://{member.endpoint}",)):
            pass
