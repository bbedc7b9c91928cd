"""Runs fresh lives of simulated clusters for as long as asked: ``python -m tests.simulation``."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import sys
import time
import traceback
from collections import Counter

from tests.simulation.lives import Life
from tests.simulation.profiles import profile_of

_UNITS = {"s": 1, "m": 60, "h": 3600}
_WAVE = 32
"""Lives of each process between two looks at the clock."""


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give for instance 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _live(seed: int) -> tuple[int, str, str]:
    """Live one life; return its seed, its profile's name and what went wrong, if anything did."""
    logging.disable(logging.CRITICAL)
    name = profile_of(seed).name
    try:
        Life(seed).live()
    except Exception:  # noqa: BLE001 - whatever it is, it belongs to this seed
        return seed, name, traceback.format_exc(limit=-3)
    return seed, name, ""


def replay(seed: int) -> int:
    """Live one life again and print everything that happens."""
    life = Life(seed)
    print(f"seed {seed}: {life.profile}")
    life.cluster.narrate = print
    try:
        life.live()
    except Exception:  # noqa: BLE001 - it is printed after the story that led to it
        traceback.print_exc()
        return 1
    finally:
        print(f"trace {life.cluster.fingerprint()}")
    return 0


def run(first: int, count: int | None, seconds: float, jobs: int) -> int:
    """Live many lives; return how many went wrong."""
    started = time.monotonic()
    lived: Counter[str] = Counter()
    failed = []
    seed, end = first, first + count if count is not None else sys.maxsize
    with multiprocessing.Pool(jobs) as pool:
        while seed < end and time.monotonic() - started < seconds:
            wave = range(seed, min(end, seed + jobs * _WAVE))
            seed = wave.stop
            for one, name, wrong in pool.imap_unordered(_live, wave, chunksize=2):
                lived[name] += 1
                if wrong:
                    failed.append(one)
                    print(f"seed {one} ({name}) fails; replay it: python -m tests.simulation --replay {one}\n{wrong}")
            took_s = time.monotonic() - started
            print(f"{sum(lived.values())} lives, {len(failed)} failed, {took_s:.0f} s", flush=True)
    kinds = ", ".join(f"{name} {number}" for name, number in sorted(lived.items()))
    print(f"seeds {first} to {seed - 1}: {sum(lived.values())} lives ({kinds}), failed: {sorted(failed) or 'none'}")
    return len(failed)


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many lives (default: as many as the time allows)")
    parser.add_argument("--first-seed", type=int, help="default: taken from the clock")
    parser.add_argument(
        "--time", type=_duration, default=600.0, help="how long at most, like 90s, 10m, 2h (default 10m)"
    )
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: one a CPU)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="live one life and print all that happens")
    given = parser.parse_args()
    if given.replay is not None:
        return replay(given.replay)
    first = given.first_seed if given.first_seed is not None else int(time.time()) % 1_000_000 * 1000
    return 1 if run(first, given.seeds, given.time, given.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
