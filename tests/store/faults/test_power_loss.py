"""All members lose power at one moment, again and again, under load: what was acknowledged is there afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.faults.power import powered
from tests.store.faults.volatile import Keep
from tests.store.faults.workload import Workload, verdict
from tests.store.processes import NAMES

pytestmark = pytest.mark.root


async def test_nothing_acknowledged_is_lost_when_the_power_goes(tmp_path: Path) -> None:
    async with powered(tmp_path) as cluster:
        workload = Workload(cluster, seed=1)
        async with workload.running():
            for seed, keep in enumerate(Keep):
                await workload.more(60)
                await cluster.cut_power(keep, seed)
            await workload.more(30)
        assert await verdict(cluster, workload) == []


async def test_nor_while_snapshots_are_written_and_segments_dropped(tmp_path: Path) -> None:
    async with powered(tmp_path, "--snapshot-count", "10") as cluster:
        workload = Workload(cluster, seed=2)
        async with workload.running():
            for seed, keep in enumerate((Keep.SECTORS, Keep.PREFIX, Keep.NOTHING)):
                await workload.more(60)
                await cluster.something_temporary()
                assert await cluster.cut_power(keep, seed) > 0, "there was something to lose"
            await workload.more(30)
        assert await verdict(cluster, workload) == []
        for name in NAMES:
            assert "wrote a snapshot" in (tmp_path / f"{name}.log").read_text()
            segments = sorted(path.name for path in cluster.data_dir(name).rglob("*.wal"))
            assert int(segments[0].split(".")[0], 16) > 1, "the first segment was dropped"


async def test_the_loss_is_seen_where_disks_lie(tmp_path: Path) -> None:
    async with powered(tmp_path) as cluster:
        workload = Workload(cluster, seed=3)
        async with workload.running():
            await workload.more(30)
            await cluster.disk.lie("a", "b", "c")
            await workload.more(30)
            await cluster.cut_power(Keep.NOTHING, 0)
            await workload.more(10)
        wrong = await verdict(cluster, workload)
        assert any("lost" in finding for finding in wrong), wrong
