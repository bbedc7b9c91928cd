"""A million keys in one member: memory, start, and how long its event loop pauses while snapshots are written.

python -m bench.store --only million
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench import machine
from bench.loads import VALUE
from bench.members import ROOT
from store import collector
from store.machine import Machine
from store.mvcc.encoding import block, plain_put_request, tag
from store.raft.contract import ConsensusConfig, Peer
from store.raft.driver import RaftConsensus

NAME = "million"
KEYS = 1_000_000
GOALS = {"bytes_per_key": 600.0, "start_s": 15.0, "pause_ms": 50.0}
_KEY = b"/registry/pods/d/p-%010d"
_WINDOW = 2000
_PROBE_S = 0.002
_LIGHT_PUTS_PER_S = 500
_LIGHT_S = 10.0
_SNAPSHOT_ENTRIES_LIGHT = 2000


def _payload(number: int) -> bytes:
    return plain_put_request(block(tag(1, 2), _KEY % number) + block(tag(2, 2), VALUE))


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def _config(directory: Path, snapshot_entries: int = 10_000) -> ConsensusConfig:
    member = Peer(1, "alone", "127.0.0.1", 0)
    return ConsensusConfig(7, member, (), directory, snapshot_entries=snapshot_entries)


class _Pauses:
    """The longest times that the loop did not run, apart for the times with a snapshot under way."""

    def __init__(self, consensus: RaftConsensus) -> None:
        self._keeper = consensus._replica._keeper
        self.longest_s = 0.0
        self.busiest_s = 0.0
        """The most CPU time between two turns: a pause without what other processes add to it."""
        self.longest_in_snapshot_s = 0.0
        self.in_snapshot_s = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            writes = self._keeper.writing
            before, before_cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(_PROBE_S)
            late_s = time.perf_counter() - before - _PROBE_S
            self.busiest_s = max(self.busiest_s, time.process_time() - before_cpu)
            self.longest_s = max(self.longest_s, late_s)
            if writes or self._keeper.writing:
                self.longest_in_snapshot_s = max(self.longest_in_snapshot_s, late_s)
                self.in_snapshot_s += late_s + _PROBE_S


async def _lead(consensus: RaftConsensus) -> None:
    leads = asyncio.Event()
    consensus.on_leadership(lambda serving, _term: leads.set() if serving else None)
    await consensus.start()
    await leads.wait()


async def _fill(consensus: RaftConsensus) -> None:
    """Put all keys, a number of them in flight."""
    room = asyncio.Semaphore(_WINDOW)

    def done(result: object, error: Exception | None) -> None:
        assert error is None, error
        room.release()

    for number in range(KEYS):
        if room.locked():
            await room.acquire()
        else:
            # Without a turn of the loop.
            room._value -= 1
        consensus.propose_direct(_payload(number), done)
    for _ in range(_WINDOW):
        await room.acquire()


async def fill(directory: Path) -> dict[str, float]:
    """Fill a member and keep it under a light load through several snapshots."""
    before = _resident_bytes()
    machine_ = Machine()
    consensus = RaftConsensus(_config(directory), machine_)
    await _lead(consensus)
    began = time.perf_counter()
    await _fill(consensus)
    filled_s = time.perf_counter() - began
    resident = _resident_bytes() - before
    await consensus.stop()
    content = KEYS * (len(_KEY % 0) + len(VALUE))
    return {
        "fill_per_s": KEYS / filled_s,
        "bytes_per_key": (resident - content) / KEYS,
        "log_in_memory_bytes_per_key": sum(len(entry[0]) for entry in consensus._replica._journal[0:]) / KEYS,
    }


async def start(directory: Path) -> dict[str, float]:
    """Start a filled member, then put it under a light load while snapshots are written."""
    before = _resident_bytes()
    began, began_cpu = time.perf_counter(), time.process_time()
    collector.hold()
    machine_ = Machine()
    consensus = RaftConsensus(_config(directory, _SNAPSHOT_ENTRIES_LIGHT), machine_)
    await _lead(consensus)
    started_s, started_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    collector.calm()
    assert len(machine_.store) == KEYS, "everything is back"
    collections: list[float] = []
    gc.callbacks.append(_collection_timer(collections))
    content = KEYS * (len(_KEY % 0) + len(VALUE))
    resident = _resident_bytes() - before
    pauses = _Pauses(consensus)
    watching = asyncio.ensure_future(pauses.watch())
    end = time.perf_counter() + _LIGHT_S
    number = KEYS
    while time.perf_counter() < end or consensus._replica._keeper.writing:
        number += 1
        await consensus.propose(_payload(number % KEYS))
        await asyncio.sleep(1 / _LIGHT_PUTS_PER_S)
    watching.cancel()
    await consensus.stop()
    return {
        "start_s": started_s,
        "start_cpu_s": started_cpu_s,
        "bytes_per_key_after_start": (resident - content) / KEYS,
        "pause_ms": pauses.longest_in_snapshot_s * 1e3,
        "pause_without_snapshot_ms": pauses.longest_s * 1e3,
        "busiest_turn_cpu_ms": pauses.busiest_s * 1e3,
        "snapshot_s": pauses.in_snapshot_s,
        "collections": len(collections),
        "longest_collection_ms": max(collections, default=0.0) * 1e3,
    }


def _collection_timer(collections: list[float]) -> Callable[[str, dict[str, int]], None]:
    began = 0.0

    def note(phase: str, _facts: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            collections.append(time.perf_counter() - began)

    return note


def measure(console: Console) -> dict[str, Any]:
    """Measure in processes of their own; keep and show the figures."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="million-", dir=cache))
    figures: dict[str, Any] = {}
    try:
        for part in ("fill", "start"):
            console.print(f"{part}: {KEYS:,} keys of {len(_KEY % 0)} B with values of {len(VALUE)} B …")
            command = [sys.executable, "-m", "bench.million", part, str(directory)]
            figures |= json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for name, value in figures.items():
        goal = GOALS.get(name)
        console.print(f"{name:32} {value:12,.1f}" + ("" if goal is None else f"   goal ≤ {goal:g}"))
    machine.keep(NAME, {"figures": figures, "goals": GOALS})
    return figures


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    print(json.dumps(uvloop.run({"fill": fill, "start": start}[sys.argv[1]](Path(sys.argv[2])))))
