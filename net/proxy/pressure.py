"""Tell when connection tracking runs out of room: new connections fail then, whatever the rules say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from net.netlink import read_sysctl
from net.proxy.config import ProxyConfig
from net.proxy.metrics import ProxyMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pressure:
    """Hold how full connection tracking is."""

    entries: int = 0
    entries_max: int = 0
    drops: int = 0
    """Packets dropped for want of room, since the kernel started."""

    def told(self, before: Pressure, full_share: float) -> str:
        """Return what somebody should know; empty where all is well."""
        if self.drops > before.drops:
            return f"full: {self.drops - before.drops} packets were dropped"
        if self.entries_max and self.entries >= full_share * self.entries_max:
            return "nearly full"
        return ""


def parse_drops(text: str) -> int:
    """Sum the drops of all CPUs in /proc/net/stat/nf_conntrack."""
    lines = [line.split() for line in text.splitlines()]
    if not lines or "drop" not in lines[0]:
        return 0
    column = lines[0].index("drop")
    return sum(int(line[column], 16) for line in lines[1:] if len(line) > column)


def read_pressure() -> Pressure:
    """Read it from the thread's network namespace."""
    try:
        drops = parse_drops(Path("/proc/thread-self/net/stat/nf_conntrack").read_text())
    except OSError:  # a kernel that keeps no statistics
        drops = 0
    entries, room = (read_sysctl(f"net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    return Pressure(int(entries or 0), int(room or 0), drops)


async def watch_conntrack(config: ProxyConfig, metrics: ProxyMetrics) -> None:
    """Report until cancelled; a state that lasts is told once."""
    before, told = read_pressure(), ""
    while True:
        now = read_pressure()
        metrics.tracked.set(now.entries)
        metrics.tracked_max.set(now.entries_max)
        metrics.untracked.set(now.drops)
        state = now.told(before, config.conntrack_full_share)
        if state != told and state:
            log.error(
                "connection tracking is %s, connections fail entries=%d max=%d: raise net.netfilter.nf_conntrack_max",
                state, now.entries, now.entries_max,
            )  # fmt: skip
        before, told = now, state
        await asyncio.sleep(config.conntrack_interval_s)
