"""Apply what is wanted in an empty network namespace, with the very appliers that run on the node, and apply it again.

The first time shows what a node should hold, spelled as this kernel and these programs spell it; the second time must
write nothing. What is written twice never converges: the proxy would write it for ever. The namespace is
gone when this returns; the node's own is not touched.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from net import chains
from net.chains import Tables
from net.cni.hostports import HostPorts
from net.explain import routing
from net.explain.dump import Blocks, Dump, TableName, parse_table, part_of_chain
from net.explain.objects import Objects
from net.explain.policies import PolicyJudge
from net.explain.reader import NFTA_SET_NAME, iptables_tables, own_tables
from net.ipam.allocator import Claim
from net.netlink import CLONE_NEWNET, inside
from net.nftables import door as nftables
from net.nftables import operations
from net.nftables.door import NftablesSocket
from net.policy.apply import PolicyApplier
from net.policy.kernel import open_table
from net.proxy.applier import Applier
from net.proxy.apply import IptablesApplier
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.rules import RuleSettings
from net.routes import outside
from net.routes.config import RoutesConfig
from net.xtables import Backend, IptablesDoor, XtablesError

LIST_TIMEOUT_S = 60.0
SET_FLAGS, SET_IS_ANONYMOUS = 3, 0x1


@dataclass(frozen=True)
class Wanted:
    """Hold what a node's agent is told to write."""

    hub: Objects
    node: str
    settings: Mapping[int, RuleSettings]
    """The proxy's settings by IP version."""
    proxy_mode: str
    backend: Backend = "nft"
    claims: tuple[Claim, ...] = ()
    """What the node's pods hold, host ports among it."""
    routes: RoutesConfig = field(default_factory=RoutesConfig)
    has_filter: tuple[int, ...] = ()
    """The IP versions whose filter table of iptables is in use on the node: pods pass it by a rule of ours."""


@dataclass(frozen=True)
class Rehearsed:
    """Hold what stood after the first time, and what was written again the second time."""

    dump: Dump
    repeated: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Services and policies that the kernel does not take, with its words."""


@contextmanager
def empty_namespace() -> Iterator[None]:
    """Put this thread into a network namespace of its own, and back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(before):  # which brings the thread back, whatever happens
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"no network namespace can be made: {os.strerror(number)}")
            yield
    finally:
        os.close(before)


def rehearse(wanted: Wanted) -> Rehearsed:
    """Write everything twice in an empty namespace."""
    with empty_namespace():
        return asyncio.run(_rehearse(wanted))


def _appliers(wanted: Wanted) -> dict[int, Applier]:
    if wanted.proxy_mode == "nftables":
        return {version: NftablesApplier(settings) for version, settings in wanted.settings.items()}
    return {
        version: IptablesApplier(IptablesDoor(wanted.backend, version), settings)
        for version, settings in wanted.settings.items()
    }


async def _rehearse(wanted: Wanted) -> Rehearsed:
    repeated: list[str] = []
    refused: dict[str, str] = {}

    async def twice(what: str, write: Callable[[], Awaitable[bool]]) -> None:
        await write()
        if await write():
            repeated.append(what)

    for version, applier in _appliers(wanted).items():
        services = wanted.hub.all_rules(wanted.node, version)

        async def write_services(
            applier: Applier = applier, services: Mapping[str, tuple[object, ...]] = services
        ) -> bool:
            applier.forget()
            result = await applier.sync(services)  # type: ignore[arg-type]
            refused.update(result.refused)
            return bool(result.written_bytes)

        try:
            await twice(f"services of IPv{version}, mode {wanted.proxy_mode}", write_services)
        finally:
            applier.close()
    ports = HostPorts()

    async def write_ports() -> bool:
        ports.forget()
        return bool(await ports.sync(wanted.claims))

    try:
        await twice("host ports", write_ports)
    finally:
        ports.close()
    await twice("masquerade", _masquerade(wanted))
    policies = PolicyApplier(PolicyJudge(wanted.hub).book(wanted.node), open_table())
    policies.settle()

    async def write_policies() -> bool:
        policies.forget()
        result = await policies.sync()
        refused.update(result.refused)
        return result.wrote

    try:
        await twice("policies", write_policies)
    finally:
        policies.table.close()
    return Rehearsed(await dump(wanted.backend), tuple(repeated), refused)


def _masquerade(wanted: Wanted) -> Callable[[], Awaitable[bool]]:
    nodes = routing.known_peers(wanted.hub)

    async def write() -> bool:
        for version in wanted.has_filter:
            await IptablesDoor(wanted.backend, version).restore("*filter\nCOMMIT\n")
        before = await dump(wanted.backend)
        own = nodes.get(wanted.node)
        if own is not None:
            await (await outside.open_doors(replace(wanted.routes, iptables_backend=wanted.backend))).sync(own, nodes)
        return await dump(wanted.backend) != before

    return write


async def dump(backend: Backend, versions: tuple[int, ...] = (4, 6)) -> Dump:
    """Read the rules that are ours of the namespace in which this thread stands."""
    iptables: Tables = {}
    for version in versions:
        prefix = "ip6/" if version == 6 else ""
        for table in iptables_tables(backend, version):
            try:
                saved = await IptablesDoor(backend, version).save(table)
            except XtablesError:
                continue  # the programs of this back end are not installed
            found = chains.parse(saved, lambda chain: bool(part_of_chain(chain)))
            iptables |= {prefix + name: held for name, held in found.items()}
    tables: dict[TableName, Blocks] = {}
    elements: dict[tuple[str, str, str], dict[bytes, bytes]] = {}
    if not nftables.is_supported():
        return Dump(iptables=iptables)
    with NftablesSocket() as door:
        for own in own_tables(door):
            tables[(own.family, own.name)] = parse_table(_listed(own.family, own.name))
            for described in door.parts(own, operations.GETSET):
                if int.from_bytes(described.get(SET_FLAGS, b""), "big") & SET_IS_ANONYMOUS:
                    continue
                name = described[NFTA_SET_NAME].rstrip(b"\0").decode()
                elements[(own.family, own.name, name)] = door.element_map(own, name)
    return Dump(tables, elements, iptables)


def _listed(family: str, table: str) -> str:
    command = ["nft", "-s", "-t", "list", "table", family, table]
    environment = {"PATH": nftables.SEARCH_PATH, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIST_TIMEOUT_S, env=environment, check=False)
    return done.stdout
