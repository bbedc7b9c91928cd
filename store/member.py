"""One member of the store as a process: consensus, state machine, services and doors, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from store import collector
from store.api.backend import Backend, Limits
from store.api.compactor import keep_compacting
from store.api.services import Services
from store.config import StoreConfig, address_of
from store.frontdoor.door import make_door
from store.frontdoor.plain import PlainDoor
from store.machine import Machine
from store.raft.contract import Consensus, ConsensusConfig, Peer, StateMachine
from store.raft.driver import RaftConsensus
from store.raft.joining import Standing, check_not_bootstrapped, join, recorded_standing

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
    collector.hold()
    async with serve(config, RaftConsensus) as serving:
        await collector.keep_collecting(lambda: serving.backend.consensus.applied_index)


@asynccontextmanager
async def serve(config: StoreConfig, make_consensus: ConsensusFactory) -> AsyncIterator[Serving]:
    """Serve as a member while the context lasts."""
    standing = await find_standing(config)
    machine = Machine()
    consensus = make_consensus(consensus_config(config, standing), machine)
    backend = Backend(machine, consensus, standing.cluster_id, limits(config))
    services = Services(backend)
    plain = PlainDoor(backend)
    door = make_door(config.front_door, services.table(), config.max_request_bytes, plain, config.door_limits())
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
            metrics_ports = [await plain.listen(address_of(url), tls) for url in config.page_urls()]
            log.info(
                "ready name=%s member=%x cluster=%x client_urls=%s",
                config.name,
                consensus.member_id,
                standing.cluster_id,
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


async def find_standing(config: StoreConfig) -> Standing:
    """Find out who this member is: its log says so, or the cluster that it joins, or the flags of a new cluster."""
    recorded = recorded_standing(config.data_dir)
    if recorded is not None:
        return recorded
    flagged = [(member.name, member.peer_urls) for member in config.members()]
    if config.initial_cluster_state == "existing":
        return await join(config.name, flagged, config.peer_tls())
    standing = Standing(config.cluster_id(), config.member().member_id)
    others = [url for name, urls in flagged for url in urls if name != config.name]
    await check_not_bootstrapped(standing, others, config.peer_tls())
    return standing


def consensus_config(config: StoreConfig, standing: Standing | None = None) -> ConsensusConfig:
    """What consensus needs to know of the configuration, by default as a member of a new cluster."""
    standing = standing or Standing(config.cluster_id(), config.member().member_id)
    listen = address_of(config.listen_peer_urls[0])
    peers = []
    for member in config.members():
        if member.name != config.name:
            address = address_of(member.peer_urls[0])
            peers.append(Peer(member.member_id, member.name, address.host, address.port, member.peer_urls))
    return ConsensusConfig(
        cluster_id=standing.cluster_id,
        member=Peer(standing.member_id, config.name, listen.host, listen.port, config.member().peer_urls),
        peers=tuple(peers),
        data_dir=config.data_dir,
        membership=standing.membership,
        tls=config.peer_tls(),
        unsafe_no_fsync=config.unsafe_no_fsync,
        heartbeat_interval_s=config.heartbeat_interval_ms / 1000,
        election_timeout_s=config.election_timeout_ms / 1000,
        request_timeout_s=config.request_timeout_s(),
        snapshot_entries=config.snapshot_count,
        strict_reconfiguration=config.strict_reconfig_check,
    )


def limits(config: StoreConfig) -> Limits:
    """The bounds of what clients may ask."""
    return Limits(
        request_timeout_s=config.request_timeout_s(),
        token_lifetime_s=config.auth_token_ttl,
        election_timeout_s=config.election_timeout_ms / 1000,
        lease_ttl_min_s=config.lease_ttl_min_s(),
        transaction_operations_max=config.max_txn_ops,
        request_bytes_max=config.max_request_bytes,
        quota_backend_bytes=config.quota_backend_bytes,
        watch_progress_interval_s=config.watch_progress_notify_interval_s,
    )
