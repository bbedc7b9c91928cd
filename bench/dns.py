"""How fast a node's resolver answers, beside Debian's dnsmasq with the same names, in turn, on the same two cores.

python -m bench.dns [--services N] [--queries N] [--rounds N] [--json]

The load is one process with a socket for each question in flight. It takes about as much as our resolver does for a
question, so the servers' own CPU time says more than the rate. dnsmasq is C, has the names in its cache from the
start, and is what routers and small clusters run; CoreDNS is not in Debian.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dns.message
from rich.console import Console
from rich.table import Table

from bench import machine
from net.dns import keeper, zone
from net.dns.channel import close_all

DOMAIN = "cluster.local"
CASES = {
    "service": "{n}.default.svc.cluster.local",
    "missing": "{n}.x.default.svc.cluster.local",
    "other, cached": "{n}.example",
}
IN_FLIGHT = (1, 32)
NAMES = 200
"""How many different names a case asks for."""
TIMEOUT_S = 5.0


def service(number: int) -> dict[str, Any]:
    """Return one of the world's Services."""
    return {
        "metadata": {"name": f"web{number}", "namespace": "default"},
        "spec": {"clusterIPs": [address(number)], "ports": [{"name": "http", "port": 80}]},
    }


def address(number: int) -> str:
    """Return a Service's address."""
    return f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


@contextmanager
def dnsmasq(folder: Path, name: str, records: dict[str, str], *flags: str) -> Iterator[tuple[int, int]]:
    """Run dnsmasq with names; yields its pid and port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = folder / f"{name}.hosts"
    hosts.write_text("".join(f"{ip} {host}\n" for host, ip in records.items()))
    command = [
        "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
        "--listen-address=127.0.0.1", "--bind-interfaces",
        f"--port={port}", f"--addn-hosts={hosts}", "--cache-size=10000", "--user=root",
        f"--pid-file={folder / name}", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_answering(port)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def ours(folder: Path, services: int, upstream: int) -> Iterator[tuple[int, int]]:
    """Run our resolver with the world's names; yields its pid and port."""
    path = folder / "dns.sock"
    sockets = keeper.open_sockets(("127.0.0.1", 0))
    pid = keeper.spawn(path, sockets, {})
    made = zone.Zone(zone.name_of(f"{DOMAIN}."), addresses=("127.0.0.1",))
    made.put_namespace("default", True)
    for number in range(services):
        made.put_service(f"default/web{number}", service(number), ())

    while not path.exists():
        time.sleep(0.01)

    async def feed() -> None:
        resolver, spare = await keeper.reach(path)
        close_all(spare)
        settings = {"do": "settings", "zone": made.zone.hex(), "ttl_s": 5, "reverse_networks": [], "own": []}
        settings |= {"upstream": [f"127.0.0.1:{upstream}"], "resolv_conf": "", "cache_entries_max": 10_000}
        await resolver.say(settings | {"cache_ttl_s": 600})
        await resolver.tell(made.everything(), replace=True, complete=True)
        await resolver.say({"do": "serve"})
        resolver.close()

    try:
        asyncio.run(feed())
        port = sockets[0].getsockname()[1]
        wait_answering(port)
        yield pid, port
    finally:
        close_all(sockets)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def wait_answering(port: int) -> None:
    """Wait until a server answers."""
    query = dns.message.make_query("web0.default.svc.cluster.local", "A").to_wire()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect(("127.0.0.1", port))
            try:
                client.send(query)
                client.recv(512)
                return
            except OSError:
                time.sleep(0.02)
    raise click.ClickException("a server did not start")


def cpu_s(pid: int) -> float:
    """Return a process's user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, wires: list[bytes], queries: int, in_flight: int) -> tuple[float, list[float]]:
    """Keep so many questions in flight; return the seconds and each question's own."""
    poller = select.epoll()
    clients: dict[int, tuple[socket.socket, float]] = {}
    took: list[float] = []
    sent = 0
    began = time.perf_counter()
    for _ in range(in_flight):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("127.0.0.1", port))
        poller.register(client, select.EPOLLIN)
        client.send(wires[sent % len(wires)])
        clients[client.fileno()] = client, time.perf_counter()
        sent += 1
    while len(took) < queries:
        ready = poller.poll(TIMEOUT_S)
        if not ready:
            raise click.ClickException("a question was not answered")
        for number, _ in ready:
            client, since = clients[number]
            client.recv(2000)
            now = time.perf_counter()
            took.append(now - since)
            if sent < queries:
                client.send(wires[sent % len(wires)])
                clients[number] = client, time.perf_counter()
                sent += 1
    elapsed = time.perf_counter() - began
    for client, _ in clients.values():
        client.close()
    poller.close()
    return elapsed, took


def measure(pid: int, port: int, case: str, queries: int, in_flight: int) -> dict[str, float]:
    """Measure one case once."""
    names = [CASES[case].format(n=f"web{number}") for number in range(NAMES)]
    wires = [dns.message.make_query(name, "A").to_wire() for name in names]
    load(port, wires, NAMES, 1)  # caches are filled
    before = cpu_s(pid)
    elapsed, took = load(port, wires, queries, in_flight)
    took.sort()
    return {
        "per_s": queries / elapsed,
        "p50_us": took[len(took) // 2] * 1e6,
        "p99_us": took[len(took) * 99 // 100] * 1e6,
        "cpu_us": (cpu_s(pid) - before) / queries * 1e6,
    }


def run_rounds(services: int, queries: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure both in turn; figures by "who/case/in flight"."""
    folder = Path(tempfile.mkdtemp(prefix="bench-dns-"))
    found: dict[str, list[dict[str, float]]] = {}
    inside = {f"web{number}.default.svc.{DOMAIN}": address(number) for number in range(services)}
    outside = {f"web{number}.example": address(number) for number in range(NAMES)}
    try:
        with dnsmasq(folder, "upstream", outside, "--local-ttl=600") as (_, upstream):
            for _ in range(rounds):
                for who in ("raftsman", "dnsmasq"):
                    flags = (f"--server=127.0.0.1#{upstream}", f"--local=/{DOMAIN}/")
                    server = (
                        ours(folder, services, upstream)
                        if who == "raftsman"
                        else dnsmasq(folder, "peer", inside, *flags)
                    )
                    with server as (pid, port):
                        for case in CASES:
                            for in_flight in IN_FLIGHT:
                                key = f"{who}/{case}/{in_flight}"
                                found.setdefault(key, []).append(measure(pid, port, case, queries, in_flight))
    finally:
        shutil.rmtree(folder)
    return found


@click.command()
@click.option("--services", default=1000, show_default=True, help="How many Services there are.")
@click.option("--queries", default=20_000, show_default=True, help="Questions a case.")
@click.option("--rounds", default=3, show_default=True, help="How often both are measured.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(services: int, queries: int, rounds: int, as_json: bool) -> None:
    """Measure the resolver and dnsmasq."""
    found = run_rounds(services, queries, rounds)
    medians = {
        key: {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        for key, figures in found.items()
    }
    path = machine.keep("dns", {"services": services, "queries": queries, "medians": medians, "rounds": found})
    if as_json:
        print(json.dumps(medians, indent=2))
        return
    table = Table("case", "in flight", "per s", "ratio", "p50 µs", "p99 µs", "CPU µs", box=None)
    for case in CASES:
        for in_flight in IN_FLIGHT:
            us, peer = (medians[f"{who}/{case}/{in_flight}"] for who in ("raftsman", "dnsmasq"))
            cells = [f"{us[name]:,.0f} / {peer[name]:,.0f}" for name in ("per_s", "p50_us", "p99_us", "cpu_us")]
            table.add_row(case, str(in_flight), cells[0], f"{us['per_s'] / peer['per_s']:.2f}", *cells[1:])
    console = Console()
    console.print("raftsman / dnsmasq, medians")
    console.print(table)
    console.print(f"kept in {path}")


if __name__ == "__main__":
    main()
