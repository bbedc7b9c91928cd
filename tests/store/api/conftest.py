"""A member on a local consensus behind the real gRPC door, and a plain client to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from proto.etcd import rpc_pb2_grpc
from store.config import StoreConfig
from store.frontdoor.door import DoorKind
from store.member import Serving, serve
from store.raft.contract import Consensus, ConsensusConfig, StateMachine
from store.raft.members import first_membership
from tests.fakes.local_consensus import LocalConsensus

if TYPE_CHECKING:
    from proto.etcd.rpc_pb2_grpc import (
        ClusterAsyncStub,
        KVAsyncStub,
        LeaseAsyncStub,
        MaintenanceAsyncStub,
        WatchAsyncStub,
    )


@dataclass(frozen=True)
class Member:
    """A member that serves, and stubs to talk to it."""

    serving: Serving
    consensus: LocalConsensus
    endpoint: str
    kv: KVAsyncStub
    watch: WatchAsyncStub
    lease: LeaseAsyncStub
    cluster: ClusterAsyncStub
    maintenance: MaintenanceAsyncStub


class ChosenDoor:
    """The door that members are started with."""

    kind: DoorKind = "native"


StartMember = Callable[..., AbstractAsyncContextManager[Member]]


@asynccontextmanager
async def start(tmp_path: Path, **changes: object) -> AsyncIterator[Member]:
    """Run a member on a free port of the loopback."""
    made: list[LocalConsensus] = []

    def make(config: ConsensusConfig, machine: StateMachine) -> Consensus:
        made.append(
            LocalConsensus(machine, config.member.member_id, config.payload_bytes_max, first_membership(config))
        )
        return made[0]

    config = StoreConfig(
        data_dir=tmp_path,
        listen_client_urls=("http://127.0.0.1:0",),
        listen_metrics_urls=("http://127.0.0.1:0",),
        front_door=ChosenDoor.kind,
    )
    config = replace(config, **changes)  # type: ignore[arg-type]
    async with serve(config, make) as serving:
        endpoint = f"127.0.0.1:{serving.client_ports[0]}"
        async with grpc.aio.insecure_channel(endpoint) as channel:
            yield Member(
                serving,
                made[0],
                endpoint,
                rpc_pb2_grpc.KVStub(channel),
                rpc_pb2_grpc.WatchStub(channel),
                rpc_pb2_grpc.LeaseStub(channel),
                rpc_pb2_grpc.ClusterStub(channel),
                rpc_pb2_grpc.MaintenanceStub(channel),
            )


@pytest.fixture(autouse=True, params=["native", "reference"])
def front_door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whatever is tested here is tested through both doors."""
    kind = str(request.param)
    monkeypatch.setattr(ChosenDoor, "kind", kind)
    return kind


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Member]:
    async with start(tmp_path) as member:
        yield member
