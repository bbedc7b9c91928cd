"""Metrics have etcd's names and types, and move when something happens; probes are answered in etcd's words."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from store.api.metrics import ABSENT
from tests.store.api.conftest import Member
from tests.store.api.test_doors import get
from tests.store.mvcc.requests import op_put
from tests.store.programs import etcd_server

OF_GO = ("go_", "grpc_go_")
NOT_YET_SAID = {"etcd_debugging_lease_total"}
"""Ours alone."""


def types_in(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def read(url: str) -> str:
    """A page that may come in chunks."""
    with urllib.request.urlopen(url, timeout=30) as page:
        return bytes(page.read()).decode()


async def metrics(member: Member) -> tuple[str, dict[str, float]]:
    """The text, and the value of each sample."""
    status, body = await get(member.serving.metrics_ports[0], "/metrics")
    assert status == 200
    samples = re.findall(r"^([^#\s]\S*) (\S+)$", body.decode(), re.MULTILINE)
    return body.decode(), {name: float(value) for name, value in samples}


@pytest.mark.root
async def test_names_and_types_are_those_of_etcd(member: Member, etcds: dict[str, Path], tmp_path: Path) -> None:
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as endpoint:
        async with grpc.aio.insecure_channel(endpoint) as channel:
            await rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=b"a"))
        text = await asyncio.to_thread(read, f"http://{endpoint}/metrics")
    theirs = {name: kind for name, kind in types_in(text).items() if not name.startswith(OF_GO)}
    ours = types_in((await metrics(member))[0])
    assert {name: ours[name] for name in ours.keys() & theirs.keys()} == {
        name: theirs[name] for name in ours.keys() & theirs.keys()
    }
    assert theirs.keys() - ours.keys() == ABSENT.keys(), "what is not served is said not to be"
    assert ours.keys() - theirs.keys() == NOT_YET_SAID


async def test_they_move_when_something_happens(member: Member) -> None:
    _, before = await metrics(member)
    await member.kv.Put(pb.PutRequest(key=b"a", value=b"1"))
    await member.kv.Put(pb.PutRequest(key=b"a", value=b"2"), metadata=(("client-api-version", "3.6"),))
    await member.kv.Txn(pb.TxnRequest(success=[op_put(b"b"), op_put(b"c")]))
    await member.kv.DeleteRange(pb.DeleteRangeRequest(key=b"b", range_end=b"d"))
    await member.kv.Range(pb.RangeRequest(key=b"a"))
    with pytest.raises(grpc.aio.AioRpcError):
        await member.kv.Put(pb.PutRequest())
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=60))
    await member.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=5))
    watch = member.watch.Watch()
    await watch.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a", start_revision=1)))
    for _ in range(2):
        await watch.read()
    _, after = await metrics(member)
    put = 'grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"'
    moved = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    wanted = {
        "etcd_mvcc_put_total": 4,
        "etcd_mvcc_delete_total": 2,
        "etcd_mvcc_txn_total": 1,
        "etcd_mvcc_range_total": 1,
        "etcd_debugging_mvcc_current_revision": 4,
        "etcd_debugging_lease_granted_total": 1,
        "etcd_debugging_lease_revoked_total": 1,
        "etcd_debugging_mvcc_watcher_total": 1,
        "etcd_debugging_mvcc_watch_stream_total": 1,
        "etcd_debugging_mvcc_events_total": 2,
        f"grpc_server_started_total{{{put}}}": 3,
        f'grpc_server_handled_total{{grpc_code="OK",{put}}}': 2,
        f'grpc_server_handled_total{{grpc_code="InvalidArgument",{put}}}': 1,
        f"grpc_server_msg_sent_total{{{put}}}": 2,
        'etcd_server_client_requests_total{client_api_version="3.6",type="unary"}': 1,
    }
    assert {name: moved.get(name) for name in wanted} == wanted
    assert moved["etcd_network_client_grpc_received_bytes_total"] > 20
    assert moved["etcd_network_client_grpc_sent_bytes_total"] > 20


async def test_a_client_cannot_make_labels_without_end(member: Member) -> None:
    for number in range(100):
        await member.kv.Range(pb.RangeRequest(key=b"a"), metadata=(("client-api-version", f'x"{number}\\'),))
    text, samples = await metrics(member)
    named = [name for name in samples if name.startswith("etcd_server_client_requests_total")]
    assert len(named) <= 33
    assert r'client_api_version="x\"1\\"' in text


PROBES = [
    ("/health", 200, '{"health":"true","reason":""}'),
    ("/health?serializable=true", 200, '{"health":"true","reason":""}'),
    ("/livez", 200, "ok\n"),
    ("/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
    ("/livez/serializable_read", 200, "ok\n"),
    ("/livez/linearizable_read", 404, "404 page not found\n"),
    ("/readyz", 200, "ok\n"),
    ("/readyz/linearizable_read?verbose", 200, "[+]linearizable_read ok\nok\n"),
    ("/readyz/nothing", 404, "404 page not found\n"),
    ("/version", 200, '{"etcdserver":"3.5.30","etcdcluster":"3.5.0"}'),
]
ALL_CHECKS = {"linearizable_read", "non_learner", "data_corruption", "serializable_read"}


def checks_in(report: bytes) -> set[str]:
    return set(re.findall(r"\[\+\](\S+) ok", report.decode()))


@pytest.mark.root
async def test_probes_are_answered_as_by_etcd(member: Member, etcds: dict[str, Path], tmp_path: Path) -> None:
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as endpoint:
        ports = (int(endpoint.rpartition(":")[2]), member.serving.metrics_ports[0], member.serving.client_ports[0])
        for port in ports:
            if port == ports[2] and not await _serves_pages(port):
                continue
            for path, status, body in PROBES:
                if port != ports[0] or path != "/version":
                    assert (path, *await get(port, path)) == (path, status, body.encode())
            assert checks_in((await get(port, "/readyz?verbose"))[1]) == ALL_CHECKS
            some = (await get(port, "/readyz?exclude=data_corruption&exclude=non_learner&verbose"))[1]
            assert checks_in(some) == ALL_CHECKS - {"data_corruption", "non_learner"}
        for alarm in (pb.NOSPACE, pb.CORRUPT):
            for target in (endpoint, member.endpoint):
                async with grpc.aio.insecure_channel(target) as channel:
                    request = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=7, alarm=alarm)
                    await rpc_pb2_grpc.MaintenanceStub(channel).Alarm(request)
            for path in ("/health", "/health?exclude=NOSPACE", "/readyz", "/readyz/data_corruption", "/livez"):
                answers = [await get(port, path) for port in ports[:2]]
                if alarm == pb.NOSPACE or path not in ("/readyz", "/health"):  # whose order of lines is a chance's
                    assert answers[1] == answers[0], path


async def _serves_pages(port: int) -> bool:
    """Whether this door has pages on the clients' port; grpcio's has none."""
    try:
        return (await get(port, "/version"))[0] == 200
    except (IndexError, OSError):
        return False


async def test_without_a_leader_only_life_is_left(member: Member) -> None:
    port, backend = member.serving.metrics_ports[0], member.serving.backend
    backend.limits = type(backend.limits)(request_timeout_s=0.1)
    member.consensus.has_leader = False
    assert await get(port, "/health") == (503, b'{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert (await get(port, "/health?serializable=true"))[0] == 200
    status, report = await get(port, "/readyz")
    assert (status, b"[-]linearizable_read failed: etcdserver: no leader\n" in report) == (503, True)
    assert (await get(port, "/livez"))[0] == 200
    async with asyncio.timeout(10):
        _, samples = await metrics(member)
    assert samples["etcd_server_has_leader"] == 0
    assert samples["etcd_server_health_failures"] == 2
