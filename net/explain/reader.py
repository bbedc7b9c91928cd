"""Look into a network namespace: links, addresses, routes, listeners, iptables' tables and nftables' own ones.

Everything here reads and nothing writes. `inside` puts this thread into the namespace for a moment; the programs that
it starts there are those of this machine.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from net import chains, xtables
from net.chains import Tables
from net.explain import sockets
from net.explain.sockets import Waiting
from net.explain.things import Standing
from net.links import Address, Neighbour, Route
from net.netlink import RouteSocket, inside
from net.nftables import operations
from net.nftables.door import NftablesSocket
from net.nftables.errors import NftablesError
from net.nftables.operations import Table
from net.proxy.nftables_schema import TABLE_NAME
from net.proxy.standing import Shape, read_shape
from net.xtables import Backend, XtablesError

log = logging.getLogger(__name__)

OWN_TABLES = ("kube-proxy", "raftsman-policy", "raftsman-hostports", "raftsman-pods")
OWN_CHAINS = ("KUBE-", "RAFTSMAN-")
IPTABLES_TABLES = ("nat", "filter", "mangle")
METRICS_TIMEOUT_S = 10.0
METRICS_BYTES_MAX = 64 << 20
NFTA_SET_NAME = 2
_CHAIN = re.compile(r"^\tchain (\S+) \{$")


@contextmanager
def namespace(path: Path) -> Iterator[None]:
    """Stand in a network namespace, given by its path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(descriptor):
            yield
    finally:
        os.close(descriptor)


def read_links(path: Path) -> Standing:
    """Read what a pod's namespace has: links, addresses, routes, listeners."""
    with namespace(path):
        return read_here()


def read_node(path: Path, versions: Iterable[int] = (4, 6)) -> Standing:
    """Read what a node's namespace has, its rules too; iptables' for these IP versions."""
    with namespace(path):
        found = read_here()
        tables = asyncio.run(_iptables(versions))
        rules, recent = _nftables(), _recent()
    return replace(
        found, tables=tables, recent=recent, chains=rules.chains, elements=rules.elements, shapes=rules.shapes
    )


def read_here() -> Standing:
    """Read links, addresses, routes and listeners of the namespace in which this thread stands."""
    addresses: list[Address] = []
    routes: list[Route] = []
    neighbours: list[Neighbour] = []
    with RouteSocket() as netlink:
        links = netlink.links()
        # Of a node's links those of pods are many, and their neighbours nobody's question.
        asked = [link.index for link in links if link.kind == "vxlan" or link.name == "eth0"]
        for family in (socket.AF_INET, socket.AF_INET6):
            addresses += netlink.addresses(family)
            routes += netlink.routes(family)
            neighbours += [entry for index in asked for entry in netlink.neighbours(family, index)]
        forwarding = [entry for link in links if link.kind == "vxlan" for entry in netlink.forwarding(link.index)]
    return Standing(
        tuple(links), tuple(addresses), tuple(routes), tuple(neighbours), tuple(forwarding),
        listeners=tuple(_listeners()),
    )  # fmt: skip


def _listeners() -> list[Waiting]:
    found: list[Waiting] = []
    for name, protocol in sockets.FILES.items():
        try:
            text = Path("/proc/thread-self/net", name).read_text()
        except OSError:
            continue  # a kernel without IPv6
        found += sockets.parse(protocol, text.splitlines()[1:])
    return found


async def _iptables(versions: Iterable[int]) -> Tables:
    """Read the chains that are ours, and the kernel's own; ip6tables' tables bear a prefix."""
    found: Tables = {}
    backend = await xtables.detect()
    for version in versions:
        door, prefix = xtables.IptablesDoor(backend, version), "ip6/" if version == 6 else ""
        try:
            for table in iptables_tables(backend, version):
                saved = chains.parse(await door.save(table), lambda chain: chain.startswith(OWN_CHAINS))
                found |= {prefix + name: held for name, held in saved.items()}
        except XtablesError as error:
            log.debug("iptables cannot be read version=%d error=%s", version, error)
    return found


def _recent() -> dict[str, frozenset[str]]:
    """Read the lists of iptables' match `recent`."""
    found = {}
    try:
        for path in Path("/proc/thread-self/net/xt_recent").iterdir():
            lines = path.read_text().splitlines()
            found[path.name] = frozenset(line.split()[0].removeprefix("src=") for line in lines if line)
    except OSError:
        return found  # no such list, or it went while we looked
    return found


def iptables_tables(backend: Backend, version: int) -> tuple[str, ...]:
    """Return the tables of iptables that stand; legacy makes what it is asked for, so nobody asks it."""
    family = "ip6" if version == 6 else "ip"
    try:
        if backend == "nft":
            with NftablesSocket() as door:
                names = [table.name for table in door.tables() if table.family == family]
        else:
            names = Path("/proc/thread-self/net", f"{family}_tables_names").read_text().split()
    except (OSError, NftablesError):
        return ()
    return tuple(table for table in IPTABLES_TABLES if table in names)


def _nftables() -> Standing:
    """Read our tables of nftables: names of chains, elements, and how the proxy's schemas stand."""
    elements: dict[tuple[str, str, str], dict[bytes, bytes]] = {}
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    shapes: dict[tuple[str, str], Shape] = {}
    try:
        with NftablesSocket() as door:
            for table in own_tables(door):
                where = (table.family, table.name)
                for described in door.parts(table, operations.GETSET):
                    name = described[NFTA_SET_NAME].rstrip(b"\0").decode()
                    elements[(*where, name)] = {one.key: one.data for one in door.elements(table, name)}
                for described in door.parts(table, operations.GETCHAIN):
                    found[(*where, described[operations.NFTA_CHAIN_NAME].rstrip(b"\0").decode())] = ()
                if table.name == TABLE_NAME:
                    shapes[where] = read_shape(door, table)
    except (OSError, NftablesError) as error:
        log.debug("nftables cannot be read error=%s", error)
    return Standing(elements=elements, chains=found, shapes=shapes)


def own_tables(door: NftablesSocket) -> list[Table]:
    """Return the tables that are Raftsman's."""
    return [table for table in door.tables() if table.name in OWN_TABLES]


def iptables_backend(path: Path) -> Backend:
    """Return which iptables a node uses: legacy or nft."""
    with namespace(path):
        return asyncio.run(xtables.detect())


def fetch_metrics(path: Path, address: str) -> str:
    """Return what HOST:PORT/metrics answers inside a namespace; raises OSError."""
    host, _, port = address.rpartition(":")
    with namespace(path):
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=METRICS_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read(METRICS_BYTES_MAX).decode()
        except http.client.HTTPException as error:
            raise OSError(f"{address} does not speak HTTP: {error}") from error
        finally:
            connection.close()
