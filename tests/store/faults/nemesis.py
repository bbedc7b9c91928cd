"""Faults at random, by seed, on members that lie on disks without power and in networks with holes."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.store.faults.network import NetworkCluster, isolated, running
from tests.store.faults.power import OneDiskCluster, mounted
from tests.store.faults.volatile import Keep
from tests.store.processes import NAMES

FAULTS = ("kill", "kill", "pause", "pause", "partition", "one way", "power", "power")


class NemesisCluster(OneDiskCluster, NetworkCluster):
    """Three members, each in its network, all on one PowerLossDisk; their logs have small segments."""

    def program(self, name: str) -> tuple[str, ...]:
        namespace = self.network.namespace(name)
        return ("ip", "netns", "exec", namespace, sys.executable, "-m", "tests.store.faults.small_segments")


class Nemesis:
    """Breaks one thing after the other and puts it right again; one seed breaks the same things in the same order."""

    def __init__(self, cluster: NemesisCluster, seed: int) -> None:
        self._cluster = cluster
        self._dice = random.Random(seed)
        self.done: list[str] = []

    async def strike(self, kind: str | None = None) -> str:
        """Break something for a moment and tell what it was."""
        dice, cluster = self._dice, self._cluster
        kind = kind or dice.choice(FAULTS)
        victims = dice.sample(NAMES, dice.choice((1, 1, 1, 2, 3)))
        length_s = dice.choice((0.1, 0.4, 1.0, 2.0))
        what = f"{kind} of {'+'.join(victims)} for {length_s} s"
        if kind == "power":
            keep, seed = dice.choice(list(Keep)), dice.randrange(1 << 30)
            what = f"power cut, kept: {keep}"
            await cluster.disk.cut(keep, seed)
            await cluster.kill_all()
            await cluster.disk.restore()
            await cluster.start_all()
        elif kind == "kill":
            for name in victims:
                await cluster.kill(name)
            await asyncio.sleep(length_s)
            for name in victims:
                await cluster.start(name)
        elif kind == "pause":
            for name in victims:
                cluster.pause(name)
            await asyncio.sleep(length_s)
            for name in victims:
                cluster.go_on(name)
        else:
            cuts = set().union(*(isolated(name) for name in victims))
            if kind == "one way":
                cuts = {cut for cut in cuts if dice.random() < 0.5}
            cluster.network.cut(cuts)
            await asyncio.sleep(length_s)
            cluster.network.heal()
        self.done.append(what)
        return what


@asynccontextmanager
async def under_nemesis(directory: Path, *flags: str) -> AsyncIterator[NemesisCluster]:
    """Have such a cluster while the context lasts."""
    cluster = NemesisCluster(directory, *flags)
    async with mounted(cluster.disk), running(cluster):
        yield cluster
