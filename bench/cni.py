"""How long a pod's interface takes: in the daemon, through the shim, a hundred at once; Debian's Go plugins beside it.

python -m bench.cni [--pods N] [--rounds N] [--json]

A namespace of our own is the node, others are the pods. The daemon runs there as a process; a call is timed from the
first byte on its socket to the last of the answer, and through the shim from exec to exit, as a runtime sees it. The
Go plugins (`bridge` and `ptp` with `host-local`, package containernetworking-plugins) are exec'd in turn in the same
namespaces.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from bench import chart, machine
from net.netlink import inside

PLUGINS = Path("/usr/lib/cni")
ROOT = Path(__file__).parents[1]
STARTED_TIMEOUT_S = 30.0
GOALS = {"add_ms": 3.0, "shim_ms": 20.0, "together_s": 0.4}
CONDITIONS = (
    "state on disk with fsync; pods' namespaces made before; p50 of calls one after another, all at once for the sum; "
    "each figure the median of the rounds"
)
IPV4, BOTH = "10.244.0.0/16", "10.244.0.0/16,fd00:10:244::/64"


@dataclass(frozen=True)
class Case:
    """One way of wiring."""

    name: str
    title: str
    cidrs: str
    mode: str
    peer: str
    """The Go plugin that does the like."""


CASES = (
    Case("ptp", "cables, IPv4", IPV4, "ptp", "ptp"),
    Case("ptp-dual", "cables, IPv4 and IPv6", BOTH, "ptp", "ptp"),
    Case("bridge", "bridge, IPv4", IPV4, "bridge", "bridge"),
    Case("bridge-dual", "bridge, IPv4 and IPv6", BOTH, "bridge", "bridge"),
)


@contextmanager
def namespaces(pods: int) -> Iterator[tuple[str, list[str]]]:
    """Make a node's and the pods' namespaces; remove them at the end."""
    prefix = f"bench{os.getpid()}"
    names = [f"{prefix}-node", *(f"{prefix}-p{number}" for number in range(pods))]
    _batch(f"netns add {name}" for name in names)
    try:
        subprocess.run(["ip", "-n", names[0], "link", "set", "lo", "up"], check=True)
        yield f"/run/netns/{names[0]}", [f"/run/netns/{name}" for name in names[1:]]
    finally:
        _batch(f"netns del {name}" for name in names)


def _batch(lines: Iterable[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)


class Daemon:
    """The daemon as a process in the node's namespace, and calls of it."""

    def __init__(self, node: str, case: Case) -> None:
        cache = ROOT / ".cache"
        cache.mkdir(exist_ok=True)
        # Not in memory: what a claim costs on disk belongs to the figure.
        self.folder = Path(tempfile.mkdtemp(prefix="cni-", dir=cache))
        self._runtime = Path(tempfile.mkdtemp(prefix="cni-"))
        self.socket = self._runtime / "cni.sock"
        self._calls = itertools.count()
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net={node}", sys.executable, "-m", "net.cni", "--pod-cidr", case.cidrs),
                *("--cni-mode", case.mode, "--socket", self.socket, "--state-dir", self.folder / "state"),
                *("--cni-conf-dir", self.folder / "conf", "--cni-bin-dir", self.folder / "bin"),
            ],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + STARTED_TIMEOUT_S
        while not (self.folder / "conf/10-raftsman.conflist").exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise click.ClickException("the daemon did not start")
            time.sleep(0.01)

    def close(self) -> None:
        """End the daemon and remove its files."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.folder)
        shutil.rmtree(self._runtime)

    def cpu_ms(self) -> float:
        """Return the CPU time that the daemon has used, the kernel's work on its behalf included."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    async def call(self, variables: dict[str, str]) -> float:
        """Call by the socket, as the shim does; return the milliseconds."""
        words = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())
        began = time.perf_counter()
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(words + b"\0" + configuration("raftsman-cni"))
        writer.write_eof()
        told = await reader.read()
        taken_ms = (time.perf_counter() - began) * 1000
        writer.close()
        if told[:1] != b"0":
            raise click.ClickException(f"{variables['CNI_COMMAND']} failed: {told[1:].decode()}")
        return taken_ms


def configuration(plugin: str, **more: Any) -> bytes:
    """Return what a runtime writes to a plugin's stdin."""
    return json.dumps({"cniVersion": "1.0.0", "name": "bench", "type": plugin, **more}).encode()


def variables(command: str, path: str, plugins: Path) -> dict[str, str]:
    """Return what a runtime puts into a plugin's environment."""
    container = path.rpartition("/")[2]
    named = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_INFRA_CONTAINER_ID={container}"
    return {
        "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": path, "CNI_IFNAME": "eth0",
        "CNI_ARGS": named, "CNI_PATH": str(plugins), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip


def execute(program: Path, command: str, path: str, stdin: bytes) -> float:
    """Exec a plugin as a runtime does; return the milliseconds."""
    environment = variables(command, path, program.parent)
    began = time.perf_counter()
    done = subprocess.run([program], input=stdin, env=environment, capture_output=True, check=False)
    taken_ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise click.ClickException(f"{program.name} {command} failed: {done.stdout.decode()} {done.stderr.decode()}")
    return taken_ms


async def measure_daemon(node: str, pods: Sequence[str], case: Case) -> dict[str, float]:
    """Measure one way of wiring once."""
    daemon = Daemon(node, case)
    shim = daemon.folder / "bin/raftsman-cni"
    bin_dir = daemon.folder / "bin"
    try:
        used_ms = daemon.cpu_ms()
        adds = [await daemon.call(variables("ADD", path, bin_dir)) for path in pods]
        used_ms = daemon.cpu_ms() - used_ms
        deletes = [await daemon.call(variables("DEL", path, bin_dir)) for path in pods]
        began = time.perf_counter()
        await asyncio.gather(*(daemon.call(variables("ADD", path, bin_dir)) for path in pods))
        together_s = time.perf_counter() - began
        await asyncio.gather(*(daemon.call(variables("DEL", path, bin_dir)) for path in pods))
        few = pods[:30]
        with_shim = [await asyncio.to_thread(execute, shim, "ADD", path, configuration("raftsman-cni")) for path in few]
        for path in few:
            await asyncio.to_thread(execute, shim, "DEL", path, configuration("raftsman-cni"))
    finally:
        daemon.close()
    return {
        "add_ms": statistics.median(adds), "add_p99_ms": statistics.quantiles(adds, n=100)[98],
        "delete_ms": statistics.median(deletes), "together_s": together_s, "shim_ms": statistics.median(with_shim),
        "add_cpu_ms": used_ms / len(pods),
    }  # fmt: skip


def measure_peer(pods: Sequence[str], case: Case) -> dict[str, float]:
    """Measure the Go plugin that does the like; it runs in this thread's namespace, the node's."""
    data = tempfile.mkdtemp(prefix="cni-")
    ranges = [[{"subnet": cidr}] for cidr in case.cidrs.split(",")]
    defaults = [{"dst": "::/0" if ":" in cidr else "0.0.0.0/0"} for cidr in case.cidrs.split(",")]
    ipam = {"type": "host-local", "ranges": ranges, "routes": defaults, "dataDir": data}
    special = {"bridge": "bench0", "isGateway": True, "hairpinMode": True} if case.peer == "bridge" else {}
    stdin = configuration(case.peer, ipam=ipam, mtu=1500, **special)
    program = PLUGINS / case.peer
    few = pods[:10]
    try:
        adds = [execute(program, "ADD", path, stdin) for path in few]
        deletes = [execute(program, "DEL", path, stdin) for path in few]
    finally:
        shutil.rmtree(data)
    return {"add_ms": statistics.median(adds), "delete_ms": statistics.median(deletes)}


def measure(pods: int, rounds: int, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Run all cases and their peers in turn."""
    found: dict[str, list[dict[str, Any]]] = {case.name: [] for case in CASES}
    has_peer = (PLUGINS / "host-local").exists()
    if not has_peer:
        console.print("the Go plugins are not installed (containernetworking-plugins): no peer to compare with")
    for case, _ in itertools.product(CASES, range(rounds)):
        with namespaces(pods) as (node, paths):
            ours = uvloop.run(measure_daemon(node, paths, case))
            theirs: dict[str, float] = {}
            if has_peer:
                descriptor = os.open(node, os.O_RDONLY)
                try:
                    with inside(descriptor):
                        theirs = measure_peer(paths, case)
                finally:
                    os.close(descriptor)
            found[case.name].append({"raftsman": ours, "go": theirs})
    return found


def summarize(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row a case: the medians of both sides."""
    rows = []
    for case in CASES:
        row: dict[str, Any] = {"case": case.name, "title": case.title, "peer": case.peer}
        for side in ("raftsman", "go"):
            runs = [entry[side] for entry in found[case.name]]
            row[side] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        rows.append(row)
    return rows


def table_of(rows: Sequence[dict[str, Any]], pods: int) -> Table:
    """Lay the rows out for a terminal."""
    table = Table(title="medians; goals in the heading")
    goals = GOALS
    for heading in (
        "wiring", f"ADD, daemon ms (≤ {goals['add_ms']:g})", "p99", "CPU ms", f"ADD, shim ms (≤ {goals['shim_ms']:g})",
        f"{pods} pods s (≤ {goals['together_s']:g} for 100)", "DEL ms", "Go plugin: ADD ms", "DEL ms",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "wiring" else "right")
    for row in rows:
        ours, theirs = row["raftsman"], row["go"]
        table.add_row(
            row["title"],
            f"{ours['add_ms']:.2f}", f"{ours['add_p99_ms']:.2f}", f"{ours['add_cpu_ms']:.2f}",
            f"{ours['shim_ms']:.1f}", f"{ours['together_s']:.2f}",
            f"{ours['delete_ms']:.1f}",
            f"{theirs['add_ms']:.1f}" if theirs else "–", f"{theirs['delete_ms']:.1f}" if theirs else "–",
        )  # fmt: skip
    return table


def keep(figures: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON and chart and return the JSON's path."""
    path = machine.keep("cni", figures)
    described = machine.describe()
    caption = (
        f"{described['processor']}, {described['cores']} cores, {described['system']}; through the shim, as exec'd"
    )
    bars = [
        chart.Bar(
            f"ADD, {row['title']}", row["raftsman"]["shim_ms"], row["go"]["add_ms"],
            f"× {row['go']['add_ms'] / row['raftsman']['shim_ms']:.1f}",
        )
        for row in rows
        if row["go"]
    ]  # fmt: skip
    drawn = chart.draw("A pod's interface beside Debian's Go plugins", caption, "ms", bars, "Go plugin", digits=1)
    path.with_suffix(".svg").write_text(drawn)
    return path


@click.command()
@click.option("--pods", type=click.IntRange(30, 1000), default=100, show_default=True, help="How many pods.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often; medians are told.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(pods: int, rounds: int, as_json: bool) -> None:
    """Measure how long a pod's interface takes (needs root)."""
    console = Console(stderr=as_json, width=None if Console().is_terminal else 150)
    if os.geteuid():
        raise click.UsageError("needs root: it makes network namespaces")
    console.print(f"{pods} pods: {CONDITIONS}.")
    found = measure(pods, rounds, console)
    rows = summarize(found)
    figures = {"pods": pods, "conditions": CONDITIONS, "goals": GOALS, "medians": rows, "rounds": found}
    path = keep(figures, rows)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    console.print(table_of(rows, pods))
    console.print(f"{path} holds every round and the machine's description, {path.with_suffix('.svg').name} the chart.")


if __name__ == "__main__":
    main()
