"""How long dropping a removed endpoint's UDP flows takes among many others; the peer is the conntrack program.

python -m bench.conntrack [--entries N] [--rounds N] [--json]

Connection tracking of a network namespace of its own is filled with flows to one Service, one of whose three endpoints
goes away: all flows are looked at and a third is deleted. The peer deletes the same by one `conntrack -D`, as
kube-proxy did before it spoke netlink itself. Needs root.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from bench import machine
from net.netlink import inside
from net.proxy import conntrack
from net.proxy.conntrack import ACK, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, REQUEST, ConntrackSocket, Flow, Reconciler, place

IPCTNL_MSG_CT_NEW, CREATE, EXCLUSIVE = 0, 0x400, 0x200
CTA_TIMEOUT, TIMEOUT_S = 7, 600
GOAL_S = 0.3
SERVICES = {4: "10.96.0.10", 6: "fd00:96::10"}
ENDPOINTS = {4: ("10.244.1.2", "10.244.1.3", "10.244.1.4"), 6: ("fd00:244::2", "fd00:244::3", "fd00:244::4")}


def flows_to_service(ip_version: int, count: int) -> list[Flow]:
    """Return the flows of many clients to one Service, spread over its endpoints."""
    service = place(SERVICES[ip_version], 53)
    answerers = [place(address, 5353) for address in ENDPOINTS[ip_version]]
    found = []
    for number in range(count):
        high, low = divmod(number // 250, 250)
        client = f"10.{100 + high}.{low}.9" if ip_version == 4 else f"fd00:9::{high:x}:{low:x}"
        found.append(Flow(place(client, 10000 + number % 250), service, answerers[number % len(answerers)]))
    return found


def create(ip_version: int, flows: list[Flow], protocol: int = socket.IPPROTO_UDP) -> None:
    """Make entries in the current namespace, translated as rules would have done it."""
    timeout = conntrack.attribute(CTA_TIMEOUT, struct.pack(">I", TIMEOUT_S))
    bodies = [
        conntrack.tuple_of(CTA_TUPLE_ORIG, flow.source, flow.target, protocol)
        + conntrack.tuple_of(CTA_TUPLE_REPLY, flow.answerer, flow.source, protocol)
        + timeout
        for flow in flows
    ]
    with ConntrackSocket(ip_version) as opened:
        opened.execute(IPCTNL_MSG_CT_NEW, REQUEST | ACK | CREATE | EXCLUSIVE, bodies)


@contextmanager
def namespace() -> Iterator[str]:
    """Have a network namespace of our own, and stand in it."""
    name = f"bench-conntrack-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        with inside(descriptor):
            yield name
        os.close(descriptor)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long something takes, and how long it keeps a processor busy, in seconds."""
    began, before = time.perf_counter(), os.times()
    work()
    took_s, after = time.perf_counter() - began, os.times()
    return took_s, sum(after[:4]) - sum(before[:4])


def reconcile_s(ip_version: int, entries: int) -> tuple[float, float]:
    """Return how long we take."""
    flows = flows_to_service(ip_version, entries)
    create(ip_version, flows)
    kept = frozenset(place(address, 5353) for address in ENDPOINTS[ip_version][1:])
    reconciler, dropped = Reconciler(ip_version), 0

    def work() -> None:
        nonlocal dropped
        dropped = reconciler.reconcile({flows[0].target: kept}, frozenset())

    took_s = timed(work)
    assert dropped == len(flows[::3]), f"{dropped} flows were dropped"
    _flush()
    return took_s


def program_s(ip_version: int, entries: int) -> tuple[float, float]:
    """Return how long `conntrack -D` takes."""
    create(ip_version, flows_to_service(ip_version, entries))
    command = ["conntrack", "-D", "-f", f"ipv{ip_version}", "-p", "udp", "--orig-dst", SERVICES[ip_version]]
    command += ["--reply-src", ENDPOINTS[ip_version][0]]
    took_s = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    _flush()
    return took_s


def _flush() -> None:
    subprocess.run(["conntrack", "-F"], check=True, capture_output=True)


@click.command()
@click.option("--entries", default=20000, show_default=True, help="How many flows are tracked.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "keep", is_flag=True, help="Keep the figures in bench/results.")
def main(entries: int, rounds: int, keep: bool) -> None:
    """Measure both in turn, for both families."""
    console = Console()
    columns = ("family", "raftsman ms", "of it CPU", "conntrack -D ms", "of it CPU", f"≤ {GOAL_S * 1000:.0f} ms")
    table = Table(*columns, title=f"{entries} flows")
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with namespace():
        for ip_version in (4, 6):
            taken: dict[str, list[tuple[float, float]]] = {"raftsman_s": [], "conntrack_s": []}
            for _ in range(rounds):
                taken["raftsman_s"].append(reconcile_s(ip_version, entries))
                taken["conntrack_s"].append(program_s(ip_version, entries))
            figures[f"IPv{ip_version}"] = taken
            medians = [statistics.median(part) for side in taken.values() for part in zip(*side, strict=True)]
            mark = "✓" if medians[0] <= GOAL_S else "✗"
            table.add_row(f"IPv{ip_version}", *(f"{median * 1000:.0f}" for median in medians), mark)
    console.print(table)
    if keep:
        console.print(f"kept in {machine.keep('conntrack', {'entries': entries, 'rounds': figures})}")


if __name__ == "__main__":
    main()
