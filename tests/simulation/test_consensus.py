"""Whole clusters in a simulated world, one history a seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from store.raft.replica import Limits
from tests.simulation.cluster import Cluster
from tests.simulation.world import Weather

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "50"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))

STORMY = Weather(loss=0.05, duplication=0.05, delay_s=0.004, delay_tail_s=0.8)


def live_through(cluster: Cluster, events: int) -> None:
    """Let clients write and read while members crash and links break; then let everything heal."""
    chance = random.Random(cluster.seed + 7)
    cluster.start_all()
    absent: dict[int, int] = {}
    for event in range(events):
        cluster.run(chance.choice((0.01, 0.05, 0.3, 1.0)))
        for _ in range(chance.choice((1, 2, 6, 20))):
            cluster.propose()
        if chance.random() < 0.5:
            cluster.read()
        break_something(cluster, chance, absent, event)
        for member_id, member in cluster.members.items():
            if member.replica is None and absent.get(member_id, 0) <= event and chance.random() < 0.5:
                cluster.start(member_id)
    cluster.network.weather = Weather()
    for member_id, member in cluster.members.items():
        member.disk.calls_until_power_loss = -1
        if member.replica is None:
            cluster.start(member_id)
    cluster.heal()
    cluster.run(8.0)
    assert cluster.leader() is not None, f"no leader after everything healed; seed={cluster.seed}"
    last = cluster.propose()
    cluster.run(5.0)
    assert last.done, f"a healthy cluster does not answer; seed={cluster.seed}"
    assert last.error is None, f"a healthy cluster does not write; seed={cluster.seed}"
    cluster.check_settled()


def break_something(cluster: Cluster, chance: random.Random, absent: dict[int, int], event: int) -> None:
    """Choose a fault, often for the leader and just after it was given something to do."""
    leader = cluster.leader()
    victim = chance.choice(list(cluster.members))
    if leader is not None and chance.random() < 0.5:
        victim = leader.member_id
    fault = chance.random()
    if fault < 0.06:
        cluster.crash(victim)
    elif fault < 0.25:
        cluster.members[victim].disk.calls_until_power_loss = chance.randrange(12)
    elif fault < 0.4:
        cluster.isolate(victim)
        for _ in range(3):
            cluster.propose(victim)
    elif fault < 0.5:
        cluster.crash(victim)
        absent[victim] = event + 6
    elif fault < 0.65:
        cluster.heal()


def cluster_of(seed: int) -> Cluster:
    """Vary what is varied from seed to seed: size, snapshots, segments, groups."""
    limits = Limits(
        request_timeout_s=3.0,
        snapshot_entries=(10_000, 12, 5)[seed % 3],
        segment_bytes=(1024, 4096, 1 << 20)[seed % 4 % 3],
        group_bytes_max=(1 << 20, 1)[seed % 7 % 2],
    )
    return Cluster(seed, size=5 if seed % 5 == 4 else 3, weather=STORMY, limits=limits)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_no_acknowledged_write_is_lost(seed: int) -> None:
    live_through(cluster_of(seed), events=25)


TRACE = """
import sys
from tests.simulation.cluster import Cluster
from tests.simulation.test_consensus import STORMY, live_through
cluster = Cluster(3, weather=STORMY)
live_through(cluster, events=8)
print(cluster.trace.hexdigest())
"""


def test_a_seed_gives_one_history_whatever_the_hash_seed() -> None:
    traces = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", TRACE], env=environment, check=True, capture_output=True)
        traces.add(done.stdout)
    assert len(traces) == 1
