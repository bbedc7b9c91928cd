"""How fast the proxy is: start to rules, one change to the kernel, what a connection pays, what memory it takes.

    python -m bench.proxy --services 10000 --endpoints 3 --mode nftables --json

A real proxy process reads a recorded API server (`proxy_hub`) in a network namespace of its own. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine, proxy_world
from bench.proxy_chart import table
from bench.proxy_hub import CLUSTER_CIDR, NODE_NAME, SERVERS, RecordedHub, cluster_ip, endpoint_addresses
from net.netlink import inside
from net.nftables.events import NftablesEvents

ROUNDS = 3
CHANGES = 300
CHANGE_PAUSE_S = 0.03
CONNECTS = 2000
START_TIMEOUT_S = 400.0
CHANGE_TIMEOUT_S = 30.0
MODES = ("nftables", "iptables", "iptables-legacy", "iptables-nft")
PEERS = {
    ("nftables", 1_000): {"start_s": 0.96, "change_ms": 175.0, "rss_mb": 81.0},
    ("nftables", 5_000): {"start_s": 3.5, "change_ms": 1202.0, "rss_mb": 167.0},
    ("nftables", 10_000): {"start_s": 15.5, "change_ms": 3977.0, "rss_mb": 224.0},
    ("iptables-legacy", 5_000): {"start_s": 1.5, "change_ms": 364.0, "rss_mb": 140.0},
    ("iptables-nft", 5_000): {"start_s": 20.1, "change_ms": 786.0, "rss_mb": 151.0},
}
"""kube-proxy 1.36.2 with 3 endpoints, measured at another time on the same kind of machine; middles of its ranges."""


@dataclass
class Proxy:
    """A proxy process, and what it told."""

    process: subprocess.Popen[bytes]
    began_s: float
    log: Path

    def wait_ready(self, families: int) -> float:
        """Return the seconds until the rules of all families stood."""
        assert self.process.stderr is not None
        with self.log.open("ab") as kept, selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            seen = 0
            while seen < families:
                left_s = START_TIMEOUT_S - (time.perf_counter() - self.began_s)
                if left_s <= 0 or not selector.select(left_s):
                    raise RuntimeError(f"not ready within {START_TIMEOUT_S:.0f} s: see {self.log}")
                data = os.read(self.process.stderr.fileno(), 1 << 16)
                if not data:
                    raise RuntimeError(f"the proxy has ended: {self.log.read_text()[-2000:]}")
                kept.write(data)
                kept.flush()
                seen += data.count(b"ready family=")
        return time.perf_counter() - self.began_s

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU seconds of the process, and of its children that have ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return (int(fields[11]) + int(fields[12])) / ticks, (int(fields[13]) + int(fields[14])) / ticks

    def rss_mb(self) -> float:
        """Return the resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    def rules_took(self) -> tuple[float, float]:
        """Return wall and CPU seconds of the first sync, by the proxy's own log."""
        found = re.search(r"family=4 .* ms=([\d.]+) cpu_ms=([\d.]+)", self.log.read_text())
        return (float(found[1]) / 1000, float(found[2]) / 1000) if found else (0.0, 0.0)


@contextmanager
def running(world: proxy_world.World, hub: RecordedHub, mode: str, directory: Path) -> Iterator[Proxy]:
    """Start a proxy in the node's namespace."""
    kubeconfig = directory / "kubeconfig"
    cluster = {"server": f"http://127.0.0.1:{hub.port}"}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            }
        )
    )  # fmt: skip
    backend = mode.removeprefix("iptables-") if mode.startswith("iptables-") else "auto"
    command = [
        "nsenter", f"--net={world.node.path}", sys.executable, "-m", "net.proxy", "--kubeconfig", str(kubeconfig),
        "--hostname-override", NODE_NAME, "--proxy-mode", mode.partition("-")[0], "--iptables-backend", backend,
        "--cluster-cidr", CLUSTER_CIDR,
    ]  # fmt: skip
    log = directory / f"proxy-{time.monotonic_ns()}.log"
    began_s = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield Proxy(process, began_s, log)
    finally:
        process.terminate()
        process.wait(30)
        if process.stderr is not None:
            process.stderr.close()


def programmed(world: proxy_world.World) -> tuple[int, float]:
    """Return the count and the sum of kubeproxy_network_programming_duration_seconds."""
    text = world.fetch(10249, "/metrics")
    name = "kubeproxy_network_programming_duration_seconds"
    count, total = (
        sum(float(value) for value in re.findall(rf"^{name}_{part}{{.*?}} (\S+)$", text, re.MULTILINE))
        for part in ("count", "sum")
    )
    return int(count), total


def measure_changes(world: proxy_world.World, hub: RecordedHub, mode: str, services: int, endpoints: int) -> Any:
    """Change one endpoint at a time; return the milliseconds from the event's making to the kernel."""
    events = None
    if mode == "nftables":
        with inside(world.node.descriptor):
            events = NftablesEvents()
    changes = CHANGES if mode == "nftables" else 10
    took_ms = []
    before = programmed(world)
    try:
        for number in range(changes):
            place = number * 37 % max(1, services - 1)
            addresses = endpoint_addresses(place, endpoints)
            addresses[number % endpoints] = f"10.252.{number >> 8}.{number & 255}"
            if events is not None:
                time.sleep(CHANGE_PAUSE_S)
                events.drain()
            began_s = time.perf_counter()
            hub.change(place, f"web-{place:05d}", addresses)
            if events is not None:
                proxy_world.wait_for(events, CHANGE_TIMEOUT_S)
                took_ms.append((time.perf_counter() - began_s) * 1000)
                continue
            time.sleep(1.2)
            while (now := programmed(world))[0] == before[0]:
                time.sleep(0.1)
            took_ms.append((now[1] - before[1]) * 1000)
            before = now
    finally:
        if events is not None:
            events.close()
    return {"p50": _quantile(took_ms, 0.5), "p99": _quantile(took_ms, 0.99), "max": max(took_ms), "count": changes}


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure_connects(world: proxy_world.World, services: int) -> dict[str, float]:
    """Connect straight and through the last Service, in turn; return medians in microseconds."""
    straight: list[float] = []
    through: list[float] = []
    pause_every = 500
    for number in range(CONNECTS):
        straight.append(world.connect_us(SERVERS[0], 8080))
        through.append(world.connect_us(cluster_ip(services - 1), 80))
        if number % pause_every == 0:
            time.sleep(0.01)
    return {
        "straight_us": statistics.median(straight),
        "through_us": statistics.median(through),
        "added_us": statistics.median(through) - statistics.median(straight),
    }


def measure_running(world: proxy_world.World, hub: RecordedHub, proxy: Proxy, of: dict[str, Any]) -> dict[str, Any]:
    """Return what a proxy does once its rules stand."""
    services = of["services"]
    return {
        "rss_mb": proxy.rss_mb(),
        "change_ms": measure_changes(world, hub, of["mode"], services, of["endpoints"]),
        "connect": measure_connects(world, services),
        "refusal_ms": max(world.refusal_ms(cluster_ip(services), 80) for _ in range(15)),
        "rss_after_mb": proxy.rss_mb(),
    }


def measure(mode: str, services: int, endpoints: int, rounds: int) -> dict[str, Any]:
    """Return all figures of one mode and size."""
    starts: list[dict[str, float]] = []
    figures: dict[str, Any] = {"mode": mode, "services": services, "endpoints": endpoints}
    if endpoints == 3 and (mode, services) in PEERS:
        figures["peer"] = PEERS[mode, services]
    with ExitStack() as stack:
        world = stack.enter_context(proxy_world.built())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        hub = RecordedHub(services, endpoints)
        hub.start(world.listening_socket())
        stack.callback(hub.close)
        for number in range(rounds):
            with running(world, hub, mode, directory) as proxy:
                start_s = proxy.wait_ready(2)
                own_s, children_s = proxy.cpu_s()
                rules_s, rules_cpu_s = proxy.rules_took()
                time.sleep(1)
                starts.append(
                    {
                        "start_s": start_s, "cpu_s": own_s, "tools_cpu_s": children_s, "rules_s": rules_s,
                        "rules_cpu_s": rules_cpu_s,
                    }
                )  # fmt: skip
                if number == rounds - 1:
                    figures |= measure_running(world, hub, proxy, figures)
            if number == rounds - 1:
                with running(world, hub, mode, directory) as proxy:
                    figures["restart_s"] = proxy.wait_ready(2)
            # What goes with the rules is theirs; while they are made, everybody else takes memory, too.
            time.sleep(0.5)
            with_rules_kib = proxy_world.kernel_kib()
            world.clean()
            time.sleep(0.5)
            starts[-1]["kernel_mb"] = (with_rules_kib - proxy_world.kernel_kib()) / 1024
    figures["rounds"] = starts
    figures |= {name: statistics.median(start[name] for start in starts) for name in starts[0]}
    return figures


def told(figures: dict[str, Any]) -> str:
    """Return the figures as a few lines."""
    change, connect = figures["change_ms"], figures["connect"]
    lines = [
        f"{figures['mode']} {figures['services']:,} × {figures['endpoints']}:",
        f"  start {figures['start_s']:.2f} s, restart {figures['restart_s']:.2f} s",
        f"  of the start, rules {figures['rules_s']:.2f} s ({figures['rules_cpu_s']:.2f} CPU s)",
        f"  CPU {figures['cpu_s']:.2f} s and {figures['tools_cpu_s']:.2f} s of tools",
        f"  change p50 {change['p50']:.2f} ms, p99 {change['p99']:.2f} ms, most {change['max']:.2f} ms",
        f"  connect {connect['through_us']:.1f} µs, {connect['added_us']:.1f} more than straight",
        f"  refusal at most {figures['refusal_ms']:.1f} ms",
        f"  kernel {figures['kernel_mb']:.1f} MB, RSS {figures['rss_mb']:.0f} MB",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=3)
    parser.add_argument(
        "--mode", choices=["nftables", "iptables", "iptables-legacy", "iptables-nft"], default="nftables"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--all", action="store_true", help="all sizes and modes, kept in bench/results")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("bench.proxy needs root: it makes network namespaces")
    cases = proxy_world.CASES if arguments.all else [(arguments.mode, arguments.services, arguments.endpoints)]
    found = []
    for mode, services, endpoints in cases:
        figures = measure(mode, services, endpoints, arguments.rounds)
        found.append(figures)
        print(told(figures), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    result = {"cases": found}
    if arguments.all:
        machine.keep("proxy", result)
        proxy_world.draw(found)
        print(table(found), file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps({"machine": machine.describe(), **result}, indent=2))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
