"""Members are killed, stopped, cut off and left without power in an order that a seed gives; histories hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.faults.nemesis import Nemesis, under_nemesis
from tests.store.faults.workload import Workload, verdict

pytestmark = pytest.mark.root


async def test_histories_hold_under_faults_at_random(tmp_path: Path) -> None:
    async with under_nemesis(tmp_path, "--snapshot-count", "30") as cluster:
        nemesis, workload = Nemesis(cluster, seed=31), Workload(cluster, seed=31)
        async with workload.running():
            for kind in ("kill", "pause", "one way", "power", "pause", "kill"):
                await workload.more(15)
                await nemesis.strike(kind)
            await workload.more(15)
        assert await verdict(cluster, workload) == [], nemesis.done
