"""How long until a node that joins is reachable from every peer, and until damage is repaired.

python -m bench.routes [--rounds N] [--peers N] [--json]

Namespaces are nodes on two networks with a router between, each with one pod and the loop that keeps its routes, on
an API in memory. A join is timed from the moment at which all nodes see the Node (address and pod CIDR at once)
until the new pod answers each of the others, by both IP versions. A repair is timed from the command that does the
damage, whose own start is within it, until a dump of the kernel's shows what stood. With `--peers` that many further
Nodes, half of them behind the router, are known beforehand. All nodes share this process. Needs root.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table

from bench import machine
from control.api.meta import Object
from control.api.resources import NODES
from net.netlink import RouteSocket, inside
from net.routes.tunnels import mac_of
from tests.net.sites import LEFT, RIGHT, Site, SiteNode, opened_site, pings

TIMEOUT_S = 120.0
ANSWER_S = 0.02
"""How long a pod has to answer before it is asked again, in seconds."""
GOAL_JOIN_S = 1.0
TUNNEL = "raftsman-vx4"


def until(what: Callable[[], bool], pause_s: float = 0.002) -> float:
    """Return how long something takes to become true, in seconds."""
    started = time.monotonic()
    while not what():
        if time.monotonic() - started > TIMEOUT_S:
            raise click.ClickException(f"not within {TIMEOUT_S:.0f} s")
        time.sleep(pause_s)
    return time.monotonic() - started


def further_node(number: int) -> Object:
    """Return a Node that is nowhere; every other one stands behind the router."""
    high, low = divmod(number, 250)
    first = "192.168.77" if number % 2 else "172.16.2"
    return {
        "metadata": {"name": f"further-{number}"},
        "spec": {"podCIDRs": [f"10.{100 + high}.{low}.0/24", f"fd00:9:{number:x}::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"{first}.{100 + number % 150}"}]},
    }


def all_reach(site: Site, node: SiteNode) -> bool:
    """Tell whether every other node's pod gets an answer from a node's pod."""
    others = [other for other in site.nodes.values() if other is not node]
    return all(pings(other.pod, node.pod_addresses[version], ANSWER_S) for other in others for version in (4, 6))


def join(site: Site, number: int, network: int) -> float:
    """Return how long a new node takes to be reachable, and let it leave again."""
    node = site.add(number, network)
    for known in site.nodes.values():
        if known is not node:
            node.put(NODES, known.as_object())
    node.keep_routes()
    started = time.monotonic()
    site.announce(node)
    until(lambda: all_reach(site, node))
    taken_s = time.monotonic() - started
    site.forget(node.node_name)
    del site.nodes[node.node_name]
    return taken_s


def damages(site: Site) -> dict[str, tuple[str, Callable[[RouteSocket], bool]]]:
    """Return what is done, and how it is seen that it is repaired."""
    n3 = mac_of("n3")

    def tunnelled(socket: RouteSocket) -> bool:
        link = socket.link(TUNNEL)
        entries = socket.forwarding(link.index) if link is not None else []
        return any(entry.mac == n3 for entry in entries) and has_route(socket, "10.244.3.0/24")

    def has_route(socket: RouteSocket, network: str) -> bool:
        return any(route.network == network for route in socket.routes())

    return {
        "a direct route deleted": ("ip route del 10.244.2.0/24", lambda socket: has_route(socket, "10.244.2.0/24")),
        "a forwarding entry deleted": (
            f"bridge fdb del {n3} dev {TUNNEL} dst {site.nodes['n3'].address}",
            tunnelled,
        ),
        "the tunnel deleted": (f"ip link del {TUNNEL}", tunnelled),
    }


def repair(node: SiteNode, command: str, stands: Callable[[RouteSocket], bool]) -> float:
    """Return how long damage lasts."""
    with inside(node.descriptor), RouteSocket() as socket:
        started = time.monotonic()
        node.run(command)
        until(lambda: stands(socket))
        return time.monotonic() - started


def measure(rounds: int, peers: int) -> dict[str, list[float]]:
    """Return all rounds of every case, in milliseconds."""
    found: dict[str, list[float]] = {}
    with opened_site() as site:
        further = [further_node(number) for number in range(peers)]
        for node in site.nodes.values():
            for obj in further:
                node.put(NODES, obj)
        site.announce(*site.nodes.values())
        for node in site.nodes.values():
            node.keep_routes()
        until(lambda: all_reach(site, site.nodes["n1"]), 0.05)
        for number in range(rounds):
            for title, network in (("a node joins on our network", LEFT), ("a node joins behind the router", RIGHT)):
                taken_s = join(site, 10 + 2 * number + (network == RIGHT), network)
                found.setdefault(title, []).append(taken_s * 1000)
        for title, (command, stands) in damages(site).items():
            for _ in range(rounds):
                found.setdefault(title, []).append(repair(site.nodes["n1"], command, stands) * 1000)
                time.sleep(0.3)  # what the repair itself tells of has been looked at
    return found


@click.command()
@click.option("--rounds", default=10, show_default=True)
@click.option("--peers", multiple=True, type=int, default=(0, 500), show_default=True, help="Further Nodes known.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(rounds: int, peers: tuple[int, ...], as_json: bool) -> None:
    """Measure joins and repairs."""
    rows = {str(count): measure(rounds, count) for count in peers}
    figures = {"goal_join_ms": GOAL_JOIN_S * 1000, "rounds_ms_by_further_nodes": rows}
    path = machine.keep("routes", figures)
    if as_json:
        json.dump(figures, sys.stdout, indent=2)
        return
    table = Table("case", "further Nodes", "median ms", "worst ms", box=None, pad_edge=False)
    for count, cases in rows.items():
        for title, taken in cases.items():
            table.add_row(title, count, f"{statistics.median(taken):.0f}", f"{max(taken):.0f}")
    console = Console()
    console.print(table)
    console.print(f"{path} holds every round and the machine's description.")


if __name__ == "__main__":
    main()
