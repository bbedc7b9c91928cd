"""Requests about members that cannot be carried out are refused as etcd refuses them, and change nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from store.config import StoreConfig
from store.member import serve
from store.raft.driver import RaftConsensus
from tests.store.processes import free_ports
from tests.store.programs import etcd_server

pytestmark = pytest.mark.root

UNKNOWN = 12345
Call = tuple[str, str, dict[str, object]]
"""Service, method and fields; ``own`` stands for the member's id, ``url`` for its peer URL."""
CALLS: dict[str, Call] = {
    "add without a URL": ("Cluster", "MemberAdd", {"peerURLs": []}),
    "add without a scheme": ("Cluster", "MemberAdd", {"peerURLs": ["10.0.0.1:2380"]}),
    "add without a port": ("Cluster", "MemberAdd", {"peerURLs": ["http://10.0.0.1"]}),
    "add with a path": ("Cluster", "MemberAdd", {"peerURLs": ["http://10.0.0.1:2380/path"]}),
    "add one good and one bad": ("Cluster", "MemberAdd", {"peerURLs": ["http://10.0.0.1:2380", "x"]}),
    "add a URL that is there": ("Cluster", "MemberAdd", {"peerURLs": ["url"]}),
    "remove nobody": ("Cluster", "MemberRemove", {"ID": UNKNOWN}),
    "remove the last one": ("Cluster", "MemberRemove", {"ID": "own"}),
    "update nobody": ("Cluster", "MemberUpdate", {"ID": UNKNOWN, "peerURLs": ["http://10.0.0.1:2380"]}),
    "promote nobody": ("Cluster", "MemberPromote", {"ID": UNKNOWN}),
    "promote a voter": ("Cluster", "MemberPromote", {"ID": "own"}),
    "move to nobody": ("Maintenance", "MoveLeader", {"targetID": UNKNOWN}),
    "add a learner": ("Cluster", "MemberAdd", {"peerURLs": ["http://127.0.0.1:9"], "isLearner": True}),
    "add a second learner": ("Cluster", "MemberAdd", {"peerURLs": ["http://127.0.0.1:10"], "isLearner": True}),
    "promote one that never started": ("Cluster", "MemberPromote", {"ID": "learner"}),
    "move to a learner": ("Maintenance", "MoveLeader", {"targetID": "learner"}),
    "remove the learner": ("Cluster", "MemberRemove", {"ID": "learner"}),
    "remove it again": ("Cluster", "MemberRemove", {"ID": "learner"}),
    "list": ("Cluster", "MemberList", {}),
}


async def said(endpoint: str) -> list[tuple[str, object]]:
    """Make all calls and return what they say, without what differs from cluster to cluster."""
    answers: list[tuple[str, object]] = []
    async with grpc.aio.insecure_channel(endpoint) as channel:
        listed = await rpc_pb2_grpc.ClusterStub(channel).MemberList(pb.MemberListRequest())
        [own] = listed.members
        known: dict[object, object] = {"own": own.ID, "url": own.peerURLs[0]}
        for name, (service, method, fields) in CALLS.items():
            values = {
                field: [known.get(one, one) for one in value] if isinstance(value, list) else known.get(value, value)
                for field, value in fields.items()
            }
            request = getattr(pb, f"{method}Request")(**values)
            stub = rpc_pb2_grpc.ClusterStub(channel) if service == "Cluster" else rpc_pb2_grpc.MaintenanceStub(channel)
            try:
                response = await getattr(stub, method)(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                answers.append((name, (error.code().name, error.details())))
                continue
            if method == "MemberAdd":
                known["learner"] = response.member.ID
            members = [(one.name, one.isLearner, one.ID == own.ID) for one in getattr(response, "members", ())]
            answers.append((name, sorted(members)))
    return answers


@asynccontextmanager
async def ours(directory: Path) -> AsyncIterator[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    config = StoreConfig(
        data_dir=directory,
        listen_client_urls=(client,),
        advertise_client_urls=(client,),
        listen_peer_urls=(peer,),
        initial_advertise_peer_urls=(peer,),
    )
    async with serve(config, RaftConsensus):
        yield client.removeprefix("http://")


async def test_bad_requests_about_members_are_refused_alike(etcds: dict[str, Path], tmp_path: Path) -> None:
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as theirs, ours(tmp_path / "ours") as endpoint:
        expected = await said(theirs)
        answers = await said(endpoint)
    differences = [(one, other) for one, other in zip(answers, expected, strict=True) if one != other]
    assert not differences
