"""Whole clusters in a simulated world, one history a seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.lives import Life
from tests.simulation.profiles import KINDS, profile_of

FAST_SEEDS = range(30)
ALL_SEEDS = range(300)
LEDGER_SEEDS = (100025, 200078, 200145, 300218, 300766, 301448, 602714, 603236, 703261)
"""Lives that once found something, by the ledger; rules of the world that came later have changed some of them."""


@pytest.mark.parametrize("seed", [*FAST_SEEDS, *LEDGER_SEEDS])
def test_a_life_of_a_cluster(seed: int) -> None:
    Life(seed).live()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FAST_SEEDS.stop, ALL_SEEDS.stop))
def test_more_lives_of_clusters(seed: int) -> None:
    Life(seed).live()


TRACE = """
from tests.simulation.lives import Life
for seed in {seeds}:
    life = Life(seed)
    life.live()
    print(seed, life.cluster.fingerprint())
"""


def test_a_seed_gives_one_history_whatever_the_hash_seed() -> None:
    seeds = [next(seed for seed in ALL_SEEDS if profile_of(seed).name == name) for name in sorted(set(KINDS))]
    traces = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        program = [sys.executable, "-c", TRACE.format(seeds=seeds)]
        done = subprocess.run(program, env=environment, check=True, capture_output=True)
        traces.add(done.stdout)
    assert len(traces) == 1
