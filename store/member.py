"""One member of the store as a process: consensus, state machine, services and doors, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from store.api.backend import Backend, Limits, MemberFacts
from store.api.compactor import keep_compacting
from store.api.services import Services
from store.config import StoreConfig, address_of
from store.frontdoor.door import make_door
from store.frontdoor.plain import PlainDoor
from store.machine import Machine
from store.raft.contract import Consensus, ConsensusConfig, Peer, StateMachine
from store.raft.driver import RaftConsensus

log = logging.getLogger(__name__)

ConsensusFactory = Callable[[ConsensusConfig, StateMachine], Consensus]


@dataclass(frozen=True)
class Serving:
    """A member that serves, and where."""

    backend: Backend
    client_ports: tuple[int, ...]
    metrics_ports: tuple[int, ...]


async def run(config: StoreConfig) -> None:
    """Serve as a member until cancelled."""
    async with serve(config, RaftConsensus):
        await asyncio.Event().wait()


@asynccontextmanager
async def serve(config: StoreConfig, make_consensus: ConsensusFactory) -> AsyncIterator[Serving]:
    """Serve as a member while the context lasts."""
    machine = Machine()
    consensus = make_consensus(consensus_config(config), machine)
    backend = Backend(machine, consensus, config.cluster_id(), member_facts(config), limits(config))
    services = Services(backend)
    plain = PlainDoor(backend)
    door = make_door(config.front_door, services.table(), config.max_request_bytes, plain)
    tls = config.server_tls()
    client_ports = []
    for url in config.listen_client_urls:
        address = address_of(url)
        client_ports.append(door.listen(address.host, address.port, tls if address.is_tls else None))
    await consensus.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(services.run(config.name, config.advertise_client_urls))
            compacting = tasks.create_task(keep_compacting(backend, config.auto_compaction))
            await door.start()
            metrics_ports = [await plain.listen(address_of(url)) for url in config.listen_metrics_urls]
            log.info(
                "ready name=%s member=%x cluster=%x client_urls=%s",
                config.name,
                consensus.member_id,
                config.cluster_id(),
                ",".join(config.listen_client_urls),
            )
            try:
                yield Serving(backend, tuple(client_ports), tuple(metrics_ports))
            finally:
                running.cancel()
                compacting.cancel()
                await plain.stop()
                await door.stop()
    finally:
        await consensus.stop()


def consensus_config(config: StoreConfig) -> ConsensusConfig:
    """What consensus needs to know of the configuration."""
    listen = address_of(config.listen_peer_urls[0])
    own = config.member()
    peers = []
    for member in config.members():
        if member.member_id != own.member_id:
            address = address_of(member.peer_urls[0])
            peers.append(Peer(member.member_id, member.name, address.host, address.port))
    return ConsensusConfig(
        cluster_id=config.cluster_id(),
        member=Peer(own.member_id, own.name, listen.host, listen.port),
        peers=tuple(peers),
        data_dir=config.data_dir,
        tls=config.peer_tls(),
        heartbeat_interval_s=config.heartbeat_interval_ms / 1000,
        election_timeout_s=config.election_timeout_ms / 1000,
        request_timeout_s=config.request_timeout_s(),
        snapshot_entries=config.snapshot_count,
    )


def member_facts(config: StoreConfig) -> tuple[MemberFacts, ...]:
    """The members that the configuration names."""
    return tuple(MemberFacts(member.member_id, member.peer_urls) for member in config.members())


def limits(config: StoreConfig) -> Limits:
    """The bounds of what clients may ask."""
    return Limits(
        request_timeout_s=config.request_timeout_s(),
        election_timeout_s=config.election_timeout_ms / 1000,
        lease_ttl_min_s=config.lease_ttl_min_s(),
        transaction_operations_max=config.max_txn_ops,
        request_bytes_max=config.max_request_bytes,
        quota_backend_bytes=config.quota_backend_bytes,
        watch_progress_interval_s=config.watch_progress_notify_interval_s,
    )
