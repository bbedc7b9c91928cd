"""What the proxy's loop asks of whoever writes the rules, whatever they are written in."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal, Protocol

from net.netlink import NetlinkError
from net.nftables.errors import NftablesError
from net.proxy.rules import PortRules, RuleSettings
from net.xtables import XtablesError

Mode = Literal["nftables", "iptables"]
Services = Mapping[str, tuple[PortRules, ...]]
"""The rules of each Service, by namespace/name."""


APPLY_ERRORS = (XtablesError, NftablesError, NetlinkError)
"""What a door raises where the kernel does not hold the wanted rules; the old ones stand."""


@dataclass(slots=True)
class SyncResult:
    """Tell what a sync did."""

    written_bytes: int = 0
    """What was sent to the kernel; 0 where it held all already."""
    refused: dict[str, str] = field(default_factory=dict)
    """Services that the kernel refused, with its words; they keep their old rules."""


class Applier(Protocol):
    """Own the rules of one address family."""

    mode: Mode
    settings: RuleSettings
    last_read_s: float
    """How long the last comparison with the kernel took, in seconds."""

    def use(self, settings: RuleSettings) -> None:
        """Take new settings; what depends on them is written at the next sync."""
        ...

    async def sync(self, services: Services, changed: Set[str] | None = None) -> SyncResult:
        """Bring the kernel to these rules; raises one of APPLY_ERRORS where nothing could be written.

        `changed` names the Services that differ from those of the last sync that succeeded (or were added or
        removed since), so that the others need no look; None says that any may differ.
        """
        ...

    def forget(self) -> None:
        """Read the kernel again at the next sync, and try again what it refused."""
        ...

    async def stands(self) -> bool:
        """Tell whether the rules are still there, by a look that costs little."""
        ...

    async def disturbed(self, interval_s: float) -> str:
        """Wait until somebody else changed the rules, and say what; who hears of nothing looks every so often."""
        ...

    async def connections(self) -> Mapping[bytes, int]:
        """Return how many connections each front has seen, by its key."""
        ...

    def close(self) -> None:
        """Let go of the kernel; the rules stay."""
        ...

    async def clean_up(self) -> None:
        """Take every rule of this kind away."""
        ...
