"""Raftsman's store and Debian's newest etcd side by side: three members each on the loopback, fsync on.

python -m bench.store [--in-flight N] [--only CASE]… [--rounds N] [--quick] [--json]

Both sides run all the time and are measured in turn, case by case; each round begins with empty stores. Load comes from
one process on the same machine (``http2``; for some cases h2load or grpcio), which costs both sides the same.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from bench import chart, loads, machine, million
from bench.loads import CASES, Case, Measured
from bench.members import ETCD, RAFTSMAN, ROOT, Members, etcd_program

SIDES = (RAFTSMAN, ETCD)
QUICK_CASES = (
    "put-1",
    "put-64",
    "put-512",
    "put-256c",
    "txn-64",
    "range-64",
    "serializable-64",
    "watch-1000",
    "tls-put-64",
)
CONDITIONS = (
    "three members each on the loopback, fsync on, data on one disk, values of 256 B; the load generator has its share "
    "of the same cores; distinct keys except where h2load puts one key; at the leader's address unless said otherwise"
)
Results = dict[str, dict[str, list[Measured]]]


async def one_round(
    cases: Sequence[Case], duration_s: float, directory: Path, progress: Progress, task: TaskID
) -> Results:
    """Run each case once on each side."""
    results: Results = {}
    for secure in (False, True):
        wanted = [case for case in cases if case.tls == secure]
        if not wanted:
            continue
        async with AsyncExitStack() as stack:
            clusters: dict[str, Members] = {}
            for side in SIDES:
                members = clusters[side] = Members(side, directory / f"{side}-{secure}", tls=secure)
                stack.push_async_callback(members.stop)
                await members.start()
                await loads.seed(members)
            for case in wanted:
                for side in SIDES:
                    progress.update(task, description=f"{case.title}, {side}")
                    measured = await loads.run(case, clusters[side], duration_s)
                    results.setdefault(case.name, {}).setdefault(side, []).append(measured)
                    progress.advance(task)
    return results


async def measure(cases: Sequence[Case], rounds: int, duration_s: float, console: Console) -> Results:
    """Run all rounds."""
    together: Results = {}
    _allow_many_files()
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases) * len(SIDES) * rounds)
        for _ in range(rounds):
            directory = Path(tempfile.mkdtemp(prefix="bench-", dir=cache))
            try:
                found = await one_round(cases, duration_s, directory, progress, task)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            for name, sides in found.items():
                for side, measured in sides.items():
                    together.setdefault(name, {}).setdefault(side, []).extend(measured)
    return together


def _allow_many_files() -> None:
    """A thousand connections need as many descriptors here, and in the members, which inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


def medians(runs: Sequence[Measured]) -> dict[str, float]:
    """Return the median of each figure."""
    return {field.name: statistics.median(getattr(run, field.name) for run in runs) for field in fields(Measured)}


def summarize(cases: Sequence[Case], results: Results) -> list[dict[str, Any]]:
    """Return one row a case: medians of both sides, and their ratio."""
    rows = []
    for case in cases:
        sides = {side: medians(runs) for side, runs in results[case.name].items()}
        ratio = sides[RAFTSMAN]["per_s"] / sides[ETCD]["per_s"]
        rows.append({"case": case.name, "title": case.title, "goal": case.goal, "ratio": ratio, **sides})
    return rows


def table_of(rows: Sequence[dict[str, Any]], rounds: int) -> Table:
    """Lay the rows out for a terminal."""
    table = Table(title=f"medians of {rounds}: raftsman / etcd")
    for heading in ("case", "per s", "ratio", "goal", "p50 ms", "p99 ms", "CPU µs each", "failed"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        ours, theirs = row[RAFTSMAN], row[ETCD]
        goal = "" if row["goal"] is None else f"{row['goal']:g} {'✓' if row['ratio'] >= row['goal'] else '✗'}"
        table.add_row(
            row["title"],
            f"{ours['per_s']:,.0f} / {theirs['per_s']:,.0f}",
            f"{row['ratio']:.2f}",
            goal,
            f"{ours['p50_ms']:.2f} / {theirs['p50_ms']:.2f}",
            f"{ours['p99_ms']:.1f} / {theirs['p99_ms']:.1f}",
            f"{ours['cpu_us']:.0f} / {theirs['cpu_us']:.0f}",
            f"{ours['failed']:.0f} / {theirs['failed']:.0f}",
        )
    return table


def tls_drop(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by how many percent mutual TLS lowers each side's throughput."""
    by_name = {row["case"]: row for row in rows}
    return {
        name: {
            side: round(100 * (1 - by_name[f"tls-{name}"][side]["per_s"] / by_name[name][side]["per_s"]), 1)
            for side in SIDES
        }
        for name in by_name
        if f"tls-{name}" in by_name
    }


def keep(name: str, figures: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON and chart and return the JSON's path."""
    path = machine.keep(name, figures)
    described = machine.describe()
    caption = f"{described['processor']}, {described['cores']} cores, {described['system']}; {figures['etcd']}"
    bars = [
        chart.Bar(row["title"], row[RAFTSMAN]["per_s"], row[ETCD]["per_s"], f"× {row['ratio']:.2f}") for row in rows
    ]
    path.with_suffix(".svg").write_text(chart.draw("Store: throughput beside etcd", caption, "per second", bars))
    return path


def _cases(only: Sequence[str], in_flight: int | None, quick: bool) -> list[Case]:
    cases = [case for case in CASES if not only or case.name in only]
    if quick and not only:
        cases = [case for case in CASES if case.name in QUICK_CASES]
    if in_flight is not None:
        connections = next(count for count in range(min(16, in_flight), 0, -1) if in_flight % count == 0)
        title = f"put, {in_flight} in flight ({connections} × {in_flight // connections})"
        cases = [Case(f"put-{in_flight}", title, connections=connections, streams=in_flight // connections)]
    return cases


@click.command()
@click.option("--in-flight", type=click.IntRange(1), help="Measure puts with so many in flight and nothing else.")
@click.option(
    "--only", multiple=True, type=click.Choice([*(case.name for case in CASES), million.NAME]), help="A case."
)
@click.option("--rounds", type=click.IntRange(1), help="How often; medians are told.  [default: 5; quick: 2]")
@click.option("--quick", is_flag=True, help="Fewer cases, two short rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(in_flight: int | None, only: tuple[str, ...], rounds: int | None, quick: bool, as_json: bool) -> None:
    """Measure the store beside etcd."""
    console = Console(stderr=as_json, width=None if Console().is_terminal else 150)
    if only == (million.NAME,):
        figures = million.measure(console)
        if as_json:
            click.echo(json.dumps(figures, indent=2))
        return
    rounds = rounds or (2 if quick else 5)
    cases = _cases(only, in_flight, quick)
    version = subprocess.run([etcd_program(), "--version"], capture_output=True, text=True, check=True)
    etcd = "etcd " + version.stdout.splitlines()[0].rpartition(" ")[2]
    console.print(f"raftsman beside {etcd}: {CONDITIONS}.")
    results = uvloop.run(measure(cases, rounds, 1.2 if quick else 2.5, console))
    rows = summarize(cases, results)
    drops = tls_drop(rows)
    every = {
        name: {side: [asdict(run) for run in runs] for side, runs in sides.items()} for name, sides in results.items()
    }
    figures = {
        "etcd": etcd, "conditions": CONDITIONS, "medians": rows, "tls_drop_percent": drops, "rounds": every,
    }  # fmt: skip
    whole = not (only or quick or in_flight)
    path = keep("store" if whole else "store.local", figures, rows)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    console.print(table_of(rows, rounds))
    for name, drop in drops.items():
        console.print(f"mutual TLS lowers {name} by {drop[RAFTSMAN]:.0f} % here, by {drop[ETCD]:.0f} % in etcd")
    console.print(f"{path} holds every round and the machine's description, {path.with_suffix('.svg').name} the chart.")


if __name__ == "__main__":
    main()
