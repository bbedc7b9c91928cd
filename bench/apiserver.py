"""The API server beside kube-apiserver's figures: on one member of etcd 3.5, as that was, and on our three members.

python -m bench.apiserver [--only ROW]… [--store etcd|raftsman]… [--rounds N] [--quick] [--json]

TLS, RBAC, JSON, HTTP/1.1 and a bearer token; h2load asks from the same cores. Each round starts a new API server on an
unused part of the store, fills it and measures every row. kube-apiserver cannot be had as a Debian package: its
figures were measured at another time on the same kind of machine and are quoted as such.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from bench import apiserver_world as world
from bench import chart, machine
from bench.apiserver_world import LISTED, NAMESPACE, Measured, OneEtcd, OurStore, Server, api_server, h2load
from bench.members import ETCD, RAFTSMAN, ROOT, etcd_program

SPACE = f"/api/v1/namespaces/{NAMESPACE}"
CONFIG_MAPS, PODS, LISTED_OBJECTS = 16_500, 6_250, 500
WATCHERS = 1000
WRITERS = 32
WATCH_TIMEOUT_S = 120.0
SETTLE_S = 1.5
LIST_WRITES_PAUSE_S = 0.02
PEER = "kube-apiserver 1.36.2 on one member of etcd 3.5.30"
CONDITIONS = (
    "TLS, RBAC, a ServiceAccount's bearer token, JSON, HTTP/1.1, h2load and store on the same cores; creates by "
    "generateName; reads and lists with 16,500 ConfigMaps and 6,250 Pods held; lists of 500 while 50 ConfigMaps a "
    "second are written to the same namespace; watchers decode every event; modules' bytecode is there, as after any "
    "first start"
)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    title: str
    unit: str
    goal: float
    """In the row's unit; for seconds and megabytes less is better."""
    peer: float | None = None

    @property
    def less_is_better(self) -> bool:
        """Whether the goal is an upper bound."""
        return self.unit in ("s", "MB")


ROWS = (
    Row("start", "ready after start", "s", 1.0, 2.4),
    Row("idle", "memory, idle", "MB", 120, 272),
    Row("create", "ConfigMap create, 32 in flight", "/s", 1.5 * 1442, 1442),
    Row("pod", "Pod create, 32 in flight", "/s", 1130, 1130),
    Row("get", "ConfigMap get, 32 in flight", "/s", 2 * 3344, 3344),
    Row("list", "list of 500, 4 in flight, while writes go on", "/s", 2 * 206, 206),
    Row("filled", "memory, 16,500 ConfigMaps + 6,250 Pods", "MB", 350, 561),
    Row("watch", "events to 1,000 watchers by REST", "/s", 25_000),
    Row("hub", "events to 1,000 watchers by gRPC", "/s", 200_000),
)
BY_NAME = {row.name: row for row in ROWS}
STORES: dict[str, type[OneEtcd] | type[OurStore]] = {ETCD: OneEtcd, RAFTSMAN: OurStore}
Results = dict[str, list[Measured]]


class Round:
    """One API server's life under load."""

    def __init__(self, server: Server, directory: Path, wanted: frozenset[str], scale: float) -> None:
        self._server = server
        self._directory = directory
        self._wanted = wanted
        self._scale = scale
        self._seconds = f"{max(4.0 * scale, 1.0):g}"
        self.results: dict[str, Measured] = {}
        self.faults: list[str] = []

    async def run(self) -> None:
        """Measure every row that is wanted, in the order in which each finds what it needs."""
        server = self._server
        self.results["start"] = Measured(server.start_s, 0.0, 0.0, server.start_cpu_s * 1e6, 0)
        await asyncio.sleep(SETTLE_S)
        self.results["idle"] = _plain(server.rss_mb())
        if not self._wanted - {"start", "idle"}:
            return
        server.prepare()
        await self._load(f"/api/v1/namespaces/{LISTED}/configmaps", "-n", str(LISTED_OBJECTS), body=world.config_map())
        server.ask("POST", f"{SPACE}/configmaps", json.loads(world.config_map("one")))
        # Both kinds are in memory before they grow.
        server.ask("GET", f"{SPACE}/pods?limit=1")
        for name, needed_by, work in (
            ("create", {"create", "get", "list", "filled"}, self._creates),
            ("pod", {"pod", "filled"}, self._pods),
            ("get", {"get"}, self._gets),
            ("list", {"list"}, self._lists),
            ("filled", {"filled"}, self._filled),
            ("watch", {"watch"}, lambda: self._watches("rest")),
            ("hub", {"hub"}, lambda: self._watches("grpc")),
        ):
            if self._wanted & needed_by:
                try:
                    self.results[name] = await work()
                except (RuntimeError, OSError, ValueError) as error:
                    # The rows after it are worth having all the same.
                    self.faults.append(f"{name}: {error!r}")

    async def _creates(self) -> Measured:
        count = str(int((CONFIG_MAPS - LISTED_OBJECTS - 1) * self._scale))
        return await self._load(f"{SPACE}/configmaps", "-n", count, body=world.config_map())

    async def _pods(self) -> Measured:
        return await self._load(f"{SPACE}/pods", "-n", str(int(PODS * self._scale)), body=world.pod())

    async def _gets(self) -> Measured:
        return await self._load(f"{SPACE}/configmaps/one", "-D", self._seconds)

    async def _filled(self) -> Measured:
        await asyncio.sleep(SETTLE_S)
        return _plain(self._server.rss_mb())

    async def _load(self, path: str, *limits: str, body: bytes = b"", connections: int = 32) -> Measured:
        return await h2load(self._server, path, self._directory, *limits, body=body, connections=connections)

    async def _lists(self) -> Measured:
        path = f"/api/v1/namespaces/{LISTED}/configmaps"
        writing = asyncio.create_task(self._keep_writing(path))
        try:
            return await self._load(f"{path}?limit={LISTED_OBJECTS}", "-D", self._seconds, connections=4)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def _keep_writing(self, path: str) -> None:
        while True:
            await asyncio.to_thread(self._server.ask, "POST", path, json.loads(world.config_map()))
            await asyncio.sleep(LIST_WRITES_PAUSE_S)

    async def _watches(self, way: str) -> Measured:
        """Let watchers watch a namespace while it is written to, and read what they have counted."""
        server = self._server
        path = f"{SPACE}/configmaps"
        version = server.ask("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
        duration_s = max(5.0 * self._scale, 2.0)
        told = {
            "way": way, "pki": str(self._directory / "pki"), "token": server.token, "watchers": WATCHERS,
            "port": server.port if way == "rest" else server.hub_port, "namespace": NAMESPACE,
            "path": f"{path}?watch=1&resourceVersion={version}", "resource_version": version, "duration_s": duration_s,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.apiserver_watchers", cwd=ROOT, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(told).encode() + b"\n")
            async with asyncio.timeout(120):
                if await process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the watchers did not get ready")
            async with (
                world.writing(server, path, self._directory, world.config_map(), WRITERS),
                asyncio.timeout(WATCH_TIMEOUT_S),
            ):
                if await process.stdout.readline() != b"counting\n":
                    raise RuntimeError("the watchers were told nothing")
                before_s = server.cpu_s()
                counted = json.loads(await process.stdout.readline())
                cpu_s = server.cpu_s() - before_s
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        events = max(counted["events"], 1)
        return Measured(counted["events"] / counted["elapsed_s"], 0.0, 0.0, cpu_s / events * 1e6, counted["lost"])


def _plain(value: float) -> Measured:
    return Measured(value, 0.0, 0.0, 0.0, 0)


async def measure(
    stores: Sequence[str], rows: frozenset[str], rounds: int, scale: float, console: Console
) -> dict[str, Results]:
    """Run all rounds on each store."""
    together: dict[str, Results] = {}
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    await world.compile_modules()
    for side in stores:
        directory = Path(tempfile.mkdtemp(prefix="bench-", dir=cache))
        store = STORES[side](directory / "store")
        try:
            world.make_pki(directory / "pki")
            await store.start()
            for number in range(rounds):
                console.print(f"{side}: round {number + 1} of {rounds}")
                log = directory / f"apiserver-{number}.log"
                async with api_server(store, f"/round-{number}", directory / "pki", log) as server:
                    one = Round(server, directory, rows, scale)
                    await one.run()
                for fault in one.faults:
                    console.print(f"[red]{side}: {fault}")
                for name, measured in one.results.items():
                    together.setdefault(side, {}).setdefault(name, []).append(measured)
        except (RuntimeError, OSError) as error:
            # The other store is worth measuring all the same.
            console.print(f"[red]{side}: {error!r}")
        finally:
            await store.stop()
            shutil.rmtree(directory, ignore_errors=True)
    return together


def summarize(results: dict[str, Results], wanted: frozenset[str]) -> list[dict[str, Any]]:
    """Return one line a row and store: medians, and whether the goal was reached."""
    made = []
    for side, found in results.items():
        for row in ROWS:
            runs = found.get(row.name)
            if not runs or row.name not in wanted:
                continue
            middle = {key: statistics.median(asdict(run)[key] for run in runs) for key in asdict(runs[0])}
            value = middle["per_s"]
            reached = value <= row.goal if row.less_is_better else value >= row.goal
            made.append(
                {
                    "row": row.name, "title": row.title, "store": side, "unit": row.unit, "value": value,
                    "p50_ms": middle["p50_ms"], "p99_ms": middle["p99_ms"], "cpu_us": middle["cpu_us"],
                    "failed": middle["failed"], "peer": row.peer, "goal": row.goal, "reached": reached,
                    "all": [asdict(run)["per_s"] for run in runs],
                }
            )  # fmt: skip
    return made


def table_of(lines: Sequence[dict[str, Any]], rounds: int) -> Table:
    """Lay the lines out for a terminal."""
    table = Table(title=f"medians of {rounds}")
    for heading in ("row", "store", "ours", "peer", "goal", "", "p50 ms", "p99 ms", "CPU µs each", "failed"):
        table.add_column(heading, justify="left" if heading in ("row", "store") else "right")
    for line in lines:
        digits = 2 if line["unit"] == "s" else 0
        table.add_row(
            line["title"],
            line["store"],
            f"{line['value']:,.{digits}f} {line['unit']}",
            f"{line['peer']:,}" if line["peer"] is not None else "–",
            f"{line['goal']:,g}",
            "✓" if line["reached"] else "✗",
            f"{line['p50_ms']:.1f}" if line["p50_ms"] else "",
            f"{line['p99_ms']:.1f}" if line["p99_ms"] else "",
            f"{line['cpu_us']:,.1f}" if line["cpu_us"] else "",
            f"{line['failed']:.0f}",
        )
    return table


def keep(name: str, figures: dict[str, Any]) -> Path:
    """Write JSON and chart and return the JSON's path."""
    path = machine.keep(name, figures)
    described = machine.describe()
    caption = f"{described['processor']}, {described['cores']} cores, {described['system']}; {figures['etcd']}"
    bars = [
        chart.Bar(
            f"{line['title']}",
            line["value"],
            float(line["peer"]),
            f"{line['unit']}, × {line['value'] / line['peer']:.2f}",
        )
        for line in figures["medians"]
        if line["peer"] and line["store"] == ETCD
    ]
    if bars:
        drawn = chart.draw(
            "API server: on one member of etcd", caption, "each row in its unit", bars, "kube-apiserver", 1
        )
        path.with_suffix(".svg").write_text(drawn)
    return path


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice([row.name for row in ROWS]), help="A row; several may be named."
)
@click.option("--store", "stores", multiple=True, type=click.Choice(list(STORES)), help="On this store alone.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="How often; medians are told.")
@click.option("--quick", is_flag=True, help="One round with a tenth of the objects and a quarter of the time.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(only: tuple[str, ...], stores: tuple[str, ...], rounds: int, quick: bool, as_json: bool) -> None:
    """Measure the API server."""
    console = Console(stderr=as_json, width=None if Console().is_terminal else 150)
    if shutil.which("h2load") is None:
        raise click.ClickException("h2load is missing; install it with: apt-get install nghttp2-client")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    wanted = frozenset(only or BY_NAME)
    sides = stores or tuple(STORES)
    version = subprocess.run([etcd_program(), "--version"], capture_output=True, text=True, check=True)
    etcd = "etcd " + version.stdout.splitlines()[0].rpartition(" ")[2]
    console.print(f"{CONDITIONS}. Stores: {', '.join(sides)} ({etcd}). Beside {PEER}, measured at another time.")
    rounds = 1 if quick else rounds
    results = uvloop.run(measure(sides, wanted, rounds, 0.1 if quick else 1.0, console))
    figures: dict[str, Any] = {
        "etcd": etcd, "peer": PEER, "conditions": CONDITIONS, "medians": summarize(results, wanted),
        "rounds": {side: {name: [asdict(run) for run in runs] for name, runs in found.items()}
                   for side, found in results.items()},
    }  # fmt: skip
    whole = not (only or quick or stores)
    path = keep("apiserver" if whole else "apiserver.local", figures)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    console.print(table_of(figures["medians"], rounds))
    console.print(f"{path} holds every round and the machine's description.")


if __name__ == "__main__":
    main()
