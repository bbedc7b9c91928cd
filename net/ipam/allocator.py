"""Hand out pod addresses from the node's pod CIDR: pure, and idempotent by attachment.

Theory of operation
-------------------
An *attachment* is one interface of one sandbox, which is what CNI names by container id and
interface name. A *claim* is the address that an attachment holds. The cursor moves on with each
allocation and wraps, and a released address rests for `reuse_delay_s`, so that a peer which still
talks to a dead pod does not reach a new one by its address:

    CIDR 10.244.1.0/29, usable .2 … .6 (network, first host and broadcast are kept back)
    allocate A → .2    allocate B → .3    release A    allocate C → .4   (not .2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import netaddr

REUSE_DELAY_S = 30.0
"""How long a released address rests before it may be handed out again, in seconds."""


class RangeExhaustedError(Exception):
    """No address of the pod CIDR is free and rested; trying again later may help."""


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
    address: str
    namespace_path: str = ""
    host_interface: str = ""
    pod: str = ""
    pod_uid: str = ""
    port_mappings: tuple[PortMapping, ...] = ()


@dataclass(slots=True)
class Allocator:
    """Own the claims on one pod CIDR; callers save `to_state()` before they use an address."""

    cidr: str | None = None
    cursor: int = 0
    reuse_delay_s: float = REUSE_DELAY_S
    claims: dict[Attachment, Claim] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)

    def set_cidr(self, cidr: str) -> bool:
        """Allocate from this pod CIDR from now on; claims on an earlier one live on."""
        canonical = str(netaddr.IPNetwork(cidr).cidr)
        if canonical == self.cidr:
            return False
        self.cidr, self.cursor = canonical, 0
        return True

    def allocate(self, wanted: Claim, now_s: float) -> Claim:
        """Return the attachment's claim, making one where it has none yet.

        The address of `wanted` is ignored. A repeated call gives the same address and keeps the
        newest facts (a runtime may repeat ADD after a crash).
        """
        held = self.claims.get(wanted.attachment)
        address = held.address if held is not None else self._free_address(now_s)
        claim = replace(wanted, address=address)
        self.claims[wanted.attachment] = claim
        return claim

    def release(self, attachment: Attachment, now_s: float) -> Claim | None:
        """Give an attachment's address back; None when it holds none."""
        claim = self.claims.pop(attachment, None)
        if claim is not None:
            self.resting[claim.address] = now_s
        return claim

    def find(self, attachment: Attachment) -> Claim | None:
        """Return the claim of an attachment, if it holds one."""
        return self.claims.get(attachment)

    def _free_address(self, now_s: float) -> str:
        if self.cidr is None:
            raise RangeExhaustedError("the node has no pod CIDR yet")
        for address in [a for a, at in self.resting.items() if now_s - at >= self.reuse_delay_s]:
            del self.resting[address]
        used = {claim.address for claim in self.claims.values()}
        for offset, address in self._candidates(netaddr.IPNetwork(self.cidr)):
            if address not in used and address not in self.resting:
                self.cursor = offset + 1
                return address
        raise RangeExhaustedError(f"no free address in {self.cidr}: {len(used)} are in use")

    def _candidates(self, network: netaddr.IPNetwork) -> Iterator[tuple[int, str]]:
        first, size = int(network.first), int(network.size)
        low, high = (0, size) if size <= 2 else (2, size - 1)
        span = high - low
        start = self.cursor - low if low <= self.cursor < high else 0
        for step in range(span):
            offset = low + (start + step) % span
            yield offset, str(netaddr.IPAddress(first + offset, network.version))

    def to_state(self) -> dict[str, Any]:
        """Return the JSON-shaped state that `from_state` takes back."""
        return {
            "cidr": self.cidr,
            "cursor": self.cursor,
            "resting": dict(self.resting),
            "claims": [
                {
                    "containerId": claim.attachment.container_id,
                    "interface": claim.attachment.interface,
                    "address": claim.address,
                    "namespacePath": claim.namespace_path,
                    "hostInterface": claim.host_interface,
                    "pod": claim.pod,
                    "podUid": claim.pod_uid,
                    "portMappings": [asdict(mapping) for mapping in claim.port_mappings],
                }
                for claim in self.claims.values()
            ],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], now_s: float, reuse_delay_s: float = REUSE_DELAY_S) -> Allocator:
        """Rebuild an allocator; resting addresses rest anew, as clocks do not survive a boot."""
        claims = [
            Claim(
                Attachment(entry["containerId"], entry["interface"]),
                entry["address"],
                entry["namespacePath"],
                entry["hostInterface"],
                entry["pod"],
                entry["podUid"],
                tuple(PortMapping(**mapping) for mapping in entry["portMappings"]),
            )
            for entry in state["claims"]
        ]
        return cls(
            cidr=state["cidr"],
            cursor=int(state["cursor"]),
            reuse_delay_s=reuse_delay_s,
            claims={claim.attachment: claim for claim in claims},
            resting=dict.fromkeys(state["resting"], now_s),
        )
