"""Hand out pod addresses from the node's pod CIDRs: pure, and idempotent by attachment.

Theory of operation
-------------------
An *attachment* is one interface of one sandbox, which is what CNI names by container id and
interface name. A *claim* is what an attachment holds: one address of each family that the node has
a range for, all of them or none. In each range the cursor moves on with every allocation and wraps,
and a released address rests for `reuse_delay_s`, so that a peer which still talks to a dead pod
does not reach a new one by its address:

    CIDR 10.244.1.0/29, usable .2 … .6 (network, first host and broadcast are kept back)
    allocate A → .2    allocate B → .3    release A    allocate C → .4   (not .2)
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import netaddr

CLAIMS_CACHED_MAX = 1024
REUSE_DELAY_S = 30.0
"""How long a released address rests before it may be handed out again, in seconds."""


class RangeExhaustedError(Exception):
    """No address of a pod CIDR is free and rested; trying again later may help."""


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """Name one interface of one sandbox."""

    container_id: str
    interface: str


@dataclass(frozen=True, slots=True)
class PortMapping:
    """Hold one port of the node that leads to the pod."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""
    """The one address of the node that serves it; all where empty."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Record what one attachment holds, with all that clean-up needs to know."""

    attachment: Attachment
    addresses: tuple[str, ...] = ()
    """One of each family, in the order of the node's ranges."""
    namespace_path: str = ""
    host_interface: str = ""
    pod: str = ""
    pod_uid: str = ""
    port_mappings: tuple[PortMapping, ...] = ()


@lru_cache(maxsize=CLAIMS_CACHED_MAX)
def _state_of(claim: Claim) -> dict[str, Any]:
    """Return a claim as the state has it; made once, since each ADD writes those of all pods."""
    return {
        "containerId": claim.attachment.container_id,
        "interface": claim.attachment.interface,
        "addresses": list(claim.addresses),
        "namespacePath": claim.namespace_path,
        "hostInterface": claim.host_interface,
        "pod": claim.pod,
        "podUid": claim.pod_uid,
        "portMappings": [asdict(mapping) for mapping in claim.port_mappings],
    }


@dataclass(slots=True)
class AddressRange:
    """Hold one pod CIDR and where the search for the next address begins."""

    cidr: str
    cursor: int = 0

    def next_free(self, taken: Set[str]) -> tuple[int, str] | None:
        """Return the next free address and its offset; None where there is none."""
        network = netaddr.IPNetwork(self.cidr)
        first, size = int(network.first), int(network.size)
        low, high = (0, size) if size <= 2 else (2, size - 1)
        span = high - low
        start = self.cursor - low if low <= self.cursor < high else 0
        for step in range(span):
            offset = low + (start + step) % span
            address = str(netaddr.IPAddress(first + offset, network.version))
            if address not in taken:
                return offset, address
        return None


@dataclass(slots=True)
class Allocator:
    """Own the claims on a node's pod CIDRs; callers save `to_state()` before they answer with an address."""

    ranges: list[AddressRange] = field(default_factory=list)
    reuse_delay_s: float = REUSE_DELAY_S
    claims: dict[Attachment, Claim] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The ranges that addresses come from, one a family."""
        return tuple(entry.cidr for entry in self.ranges)

    def set_cidrs(self, cidrs: Iterable[str]) -> bool:
        """Allocate from these pod CIDRs from now on; claims on earlier ones live on."""
        canonical = tuple(str(netaddr.IPNetwork(cidr).cidr) for cidr in cidrs)
        if canonical == self.cidrs:
            return False
        known = {entry.cidr: entry for entry in self.ranges}
        self.ranges = [known.get(cidr) or AddressRange(cidr) for cidr in canonical]
        return True

    def allocate(self, wanted: Claim, now_s: float) -> Claim:
        """Return the attachment's claim, making one where it has none yet.

        The addresses of `wanted` are ignored. A repeated call gives the same addresses and keeps the
        newest facts (a runtime may repeat ADD after a crash).
        """
        held = self.claims.get(wanted.attachment)
        addresses = held.addresses if held is not None else self._free_addresses(now_s)
        claim = replace(wanted, addresses=addresses)
        self.claims[wanted.attachment] = claim
        return claim

    def release(self, attachment: Attachment, now_s: float, was_used: bool = True) -> Claim | None:
        """Give an attachment's addresses back; None when it holds none. Those that no packet bore need no rest."""
        claim = self.claims.pop(attachment, None)
        if claim is not None and was_used:
            self.resting.update(dict.fromkeys(claim.addresses, now_s))
        return claim

    def find(self, attachment: Attachment) -> Claim | None:
        """Return the claim of an attachment, if it holds one."""
        return self.claims.get(attachment)

    def _free_addresses(self, now_s: float) -> tuple[str, ...]:
        if not self.ranges:
            raise RangeExhaustedError("the node has no pod CIDR yet")
        for address in [a for a, at in self.resting.items() if now_s - at >= self.reuse_delay_s]:
            del self.resting[address]
        used = {address for claim in self.claims.values() for address in claim.addresses}
        found = [entry.next_free(used | self.resting.keys()) for entry in self.ranges]
        for entry, free in zip(self.ranges, found, strict=True):
            if free is None:
                raise RangeExhaustedError(self._why_exhausted(entry.cidr, used))
        addresses = []
        for entry, free in zip(self.ranges, found, strict=True):
            assert free is not None
            entry.cursor = free[0] + 1
            addresses.append(free[1])
        return tuple(addresses)

    def _why_exhausted(self, cidr: str, used: Set[str]) -> str:
        inside = netaddr.IPNetwork(cidr)
        in_use = sum(netaddr.IPAddress(address) in inside for address in used)
        resting = sum(netaddr.IPAddress(address) in inside for address in self.resting)
        told = f"no free address in {cidr}: {in_use} are in use"
        return f"{told}, {resting} rest up to {self.reuse_delay_s:g} s after their pods' end" if resting else told

    def to_state(self) -> dict[str, Any]:
        """Return the JSON-shaped state that `from_state` takes back."""
        return {
            "ranges": [asdict(entry) for entry in self.ranges],
            "resting": dict(self.resting),
            "claims": [_state_of(claim) for claim in self.claims.values()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], now_s: float, reuse_delay_s: float = REUSE_DELAY_S) -> Allocator:
        """Rebuild an allocator; resting addresses rest anew, as clocks do not survive a boot."""
        claims = [
            Claim(
                Attachment(entry["containerId"], entry["interface"]),
                tuple(entry["addresses"]),
                entry["namespacePath"],
                entry["hostInterface"],
                entry["pod"],
                entry["podUid"],
                tuple(PortMapping(**mapping) for mapping in entry["portMappings"]),
            )
            for entry in state["claims"]
        ]
        return cls(
            ranges=[AddressRange(entry["cidr"], int(entry["cursor"])) for entry in state["ranges"]],
            reuse_delay_s=reuse_delay_s,
            claims={claim.attachment: claim for claim in claims},
            resting=dict.fromkeys(state["resting"], now_s),
        )
