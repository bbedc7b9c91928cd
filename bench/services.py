"""Measures how fast three API servers on one store hand out addresses and ports, and that nothing is handed out twice.

Theory of operation. Three API servers run as processes over one store (Debian's etcd, or three members of ours with
mutual TLS), with TLS and RBAC as in a cluster. One client process creates Services with node ports through all three at
once over HTTP/1.1. Then all Services are listed and compared, and the IPAddress objects and the servers' processor time
with them. Store, servers and client share the machine.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from bench import machine
from control.api import meta
from control.api.meta import Object
from control.api.resources import IP_ADDRESSES, NAMESPACES, SERVICES
from control.client.client import Client, ListOptions
from lab import peers
from tests.control.apiserver.many import Servers, make_services, several
from tests.control.apiserver.processes import etcd_server
from tests.store.processes import StoreCluster

CACHE = Path(__file__).parent.parent / ".cache" / "peers"
STORES = ("etcd 3.4", "etcd 3.5", "ours, three members")
FLAGS = ("--service-node-port-range", "15000-32767", "--service-cluster-ip-range", "10.64.0.0/14")
PAGE = 500
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def servers_on(store: str, directory: Path) -> AsyncIterator[Servers]:
    """Run three API servers on a store."""
    if store.startswith("etcd"):
        suite = {"etcd 3.5": "sid"}.get(store)
        program = Path("/usr/bin/etcd") if suite is None else peers.fetch(CACHE, "etcd-server", suite, "etcd")
        with ExitStack() as stack:
            url = stack.enter_context(etcd_server(program, directory)).url
            yield stack.enter_context(several(url, directory, *FLAGS))
        return
    folder = directory / "members"
    folder.mkdir()
    cluster = StoreCluster(folder, "--heartbeat-interval", "200", "--election-timeout", "2000")
    try:
        for name in cluster.client_ports:
            await cluster.start(name)
        await cluster.leader()
        flags = (f"--etcd-{flag}={folder / file}" for flag, file in (
            ("cafile", "ca.crt"), ("certfile", "client.crt"), ("keyfile", "client.key")))  # fmt: skip
        with several(cluster.endpoints, directory, *FLAGS, *flags) as servers:
            yield servers
    finally:
        await cluster.stop()


async def everything(client: Client, resource: Any, space: str = "") -> list[Object]:
    """Return all objects of a collection, page by page."""
    found: list[Object] = []
    token = ""
    while True:
        page = await client.list(resource, space, ListOptions(limit=PAGE, continue_token=token))
        found.extend(page.items)
        token = page.continue_token
        if not token:
            return found


def cpu_s(servers: Servers) -> float:
    """Return the processor time that the servers have used."""
    ticks = 0
    for server in servers.running:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


async def measure(store: str, count: int, in_flight: int) -> dict[str, Any]:
    """Return the figures of one store."""
    with tempfile.TemporaryDirectory(prefix="bench-services-") as folder:
        async with servers_on(store, Path(folder)) as servers:
            clients = [servers.client(port) for port in servers.ports]
            try:
                await clients[0].create(NAMESPACES, {"metadata": {"name": "bench"}})
                used, began = cpu_s(servers), time.monotonic()
                told = await make_services(clients, count, in_flight, "bench")
                took_s, used = time.monotonic() - began, cpu_s(servers) - used
                services = await everything(clients[0], SERVICES, "bench")
                recorded = {meta.name(each) for each in await everything(clients[1], IP_ADDRESSES)}
            finally:
                for client in clients:
                    await client.close()
    addresses = Counter(str(each["spec"]["clusterIP"]) for each in services)
    ports = Counter(int(port["nodePort"]) for each in services for port in each["spec"]["ports"])
    return {
        "told": dict(told),
        "services": len(services),
        "addresses_twice": sum(times > 1 for times in addresses.values()),
        "ports_twice": sum(times > 1 for times in ports.values()),
        "addresses_not_recorded": len(set(addresses) - recorded),
        "seconds": round(took_s, 1),
        "per_s": round(count / took_s),
        "cpu_us": round(used / count * 1e6),
    }


@click.command()
@click.option("--count", default=10_000, show_default=True, help="How many Services are created.")
@click.option("--in-flight", default=96, show_default=True, help="How many at once, through three servers.")
@click.option(
    "--store", "stores", type=click.Choice(STORES), multiple=True, help="On which store; all where none is named."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(count: int, in_flight: int, stores: tuple[str, ...], as_json: bool) -> None:
    """Create Services through three API servers at once."""
    found = {store: uvloop.run(measure(store, count, in_flight)) for store in stores or STORES}
    path = machine.keep("services", {"count": count, "in_flight": in_flight, "stores": found})
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("store", "made", "twice", "not recorded", "s", "per s", "CPU µs, servers", box=None)
    for store, each in found.items():
        twice = f"{each['addresses_twice']} addresses, {each['ports_twice']} ports"
        cells = (
            each["services"],
            twice,
            each["addresses_not_recorded"],
            each["seconds"],
            each["per_s"],
            each["cpu_us"],
        )
        table.add_row(store, *(str(cell) for cell in cells))
    console = Console()
    console.print(table)
    console.print(f"kept in {path}")


if __name__ == "__main__":
    main()
