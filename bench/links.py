"""How many packets a second the lab's relay carries, which stands in where the kernel has no netem.

python -m bench.links [--seconds N] [--json]

Two namespaces on a fabric of the lab, 5 ms of delay between them; one sends datagrams of 100 and 1,400 bytes at
rising rates, and the other's interface counts what arrives. The ceiling is what still came at the best of the
rates. Needs root.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench import machine
from lab import links
from lab.faults import Fault
from net.netlink import inside
from tests.lab.machines import Machines

RATES = (5_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000)
LENGTHS = (100, 1400)
SLICE_S = 0.002


def send(made: Machines, length: int, rate: int, seconds: float) -> float:
    """Send at a rate and return how many datagrams were sent in a second."""
    with inside(made.namespaces["n1"].descriptor), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.connect((made.cluster.address(made.cluster.node("n2")), 9))
        packet, sent = bytes(length - 28), 0
        started = time.monotonic()
        while (elapsed_s := time.monotonic() - started) < seconds:
            while sent < elapsed_s * rate:
                try:
                    door.send(packet)
                except ConnectionRefusedError:
                    continue  # nobody listens, which the other side says now and then
                sent += 1
            time.sleep(SLICE_S)
        return sent / (time.monotonic() - started)


def received(made: Machines) -> int:
    """Return how many packets have come to n2."""
    count: int = json.loads(made.namespaces["n2"].ip("-s -j link show eth0"))[0]["stats64"]["rx"]["packets"]
    return count


def measure(seconds: float) -> list[dict[str, float]]:
    """Return what came at each length and rate."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="raftsman-links-") as folder:
        os.environ["RAFTSMAN_STATE_DIR"] = folder
        made = Machines(Path(folder))
        try:
            made.set("n1", "n2", Fault(delay_s=0.005))
            for length in LENGTHS:
                for rate in RATES:
                    before, started = received(made), time.monotonic()
                    sent = send(made, length, rate, seconds)
                    time.sleep(0.3)
                    came = (received(made) - before) / (time.monotonic() - started - 0.3)
                    rows.append({"length": length, "wanted": rate, "sent": sent, "came": came})
        finally:
            made.close()
    return rows


@click.command()
@click.option("--seconds", default=2.0, show_default=True, help="How long each rate lasts.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(seconds: float, as_json: bool) -> None:
    """Measure the relay's ceiling."""
    rows = measure(seconds)
    figures = {"rows": rows, "said_packets_per_s": links.RELAY_PACKETS_PER_S}
    path = machine.keep("links", figures)
    if as_json:
        json.dump(figures, sys.stdout, indent=2)
        return
    table = Table("bytes", "sent/s", "came/s", box=None, pad_edge=False)
    for row in rows:
        table.add_row(f"{row['length']:.0f}", f"{row['sent']:,.0f}", f"{row['came']:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"{path} holds every round and the machine's description.")


if __name__ == "__main__":
    main()
