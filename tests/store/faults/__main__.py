"""``python -m tests.store.faults --time 10m --seed N``: faults at random for as long as asked; needs root."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path

import click

from store.flags import Duration
from tests.store.faults.nemesis import Nemesis, under_nemesis
from tests.store.faults.workload import Workload, verdict

STRIKES = 12
"""Faults in one life of a cluster; each life is a seed of its own."""


async def live(seed: int) -> list[str]:
    """Break things in one cluster's life, and return what is wrong afterwards."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="faults") as directory:
        async with under_nemesis(Path(directory), "--snapshot-count", str(dice.choice((10, 30, 1000)))) as cluster:
            nemesis, workload = Nemesis(cluster, seed), Workload(cluster, seed)
            async with workload.running():
                for _ in range(STRIKES):
                    await workload.more(dice.randint(1, 40))
                    print(f"  {await nemesis.strike()}", flush=True)
                await workload.more(10)
            wrong = await verdict(cluster, workload)
            print(f"seed {seed}: {len(workload.calls)} calls, {workload.done} writes acknowledged", flush=True)
            return wrong


@click.command()
@click.option("--time", "time_s", type=Duration(1.0), default="10m", help="How long to go on.")
@click.option("--seed", default=1, help="The first seed; each life of a cluster takes the next one.")
def main(time_s: float, seed: int) -> None:
    """Run members as processes under faults at random, and check what their clients were told."""
    end = time.monotonic() + time_s
    while time.monotonic() < end:
        wrong = asyncio.run(live(seed))
        if wrong:
            raise click.ClickException(f"seed {seed}:\n" + "\n".join(wrong))
        seed += 1


if __name__ == "__main__":
    main()
