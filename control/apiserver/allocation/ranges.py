"""Ranges of addresses and ports, and the order in which free values are tried."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import Random

SIZE_MAX = 1 << 62


class AllocationError(Exception):
    """A value cannot be had; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """A service network: all its addresses but the first, and the last one of IPv4.

    The lower band (upstream's rule: a sixteenth, between 16 and 256 addresses) is tried last when an address is
    chosen, so that people can name addresses there themselves.
    """

    network: IPv4Network | IPv6Network

    @property
    def family(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self.network.version}"

    @property
    def size(self) -> int:
        """How many addresses can be handed out; no more of IPv6 than anybody could count."""
        return min(max(self.network.num_addresses - (2 if self.network.version == 4 else 1), 0), SIZE_MAX)

    def check(self, address: str) -> None:
        """Raise AllocationError unless the address may be handed out."""
        try:
            parsed = ip_address(address)
        except ValueError:
            raise AllocationError(f"invalid IP address: {address}") from None
        if parsed not in self.network or not 0 < int(parsed) - int(self.network.network_address) <= self.size:
            raise AllocationError(
                f"the provided IP ({address}) is not in the valid range."
                f" The range of valid IPs is {self.network.with_prefixlen}"
            )

    def candidates(self, random: Random) -> Iterator[str]:
        """Every address once: the upper band from a random place on, then the lower."""
        lower = band_size(self.size)
        base, kind = int(self.network.network_address) + 1, type(self.network.network_address)
        for start, count in ((lower, self.size - lower), (0, lower)):
            if count > 0:
                offset = random.randrange(count)
                for step in range(count):
                    yield str(kind(base + start + (offset + step) % count))


@dataclass(frozen=True, slots=True)
class PortRange:
    """Node ports, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @property
    def size(self) -> int:
        """How many ports there are."""
        return self.last - self.first + 1

    def check(self, port: int) -> None:
        """Raise AllocationError unless the port belongs to the range."""
        if not self.first <= port <= self.last:
            raise AllocationError(
                f"provided port is not in the valid range. The range of valid ports is {self.first}-{self.last}"
            )

    def candidates(self, random: Random) -> Iterator[int]:
        """Every port once: the upper band from a random place on, then the lower."""
        lower = band_size(self.size, least=16, most=128, part=32)
        for start, count in ((lower, self.size - lower), (0, lower)):
            if count > 0:
                offset = random.randrange(count)
                for step in range(count):
                    yield self.first + start + (offset + step) % count


def band_size(size: int, *, least: int = 16, most: int = 256, part: int = 16) -> int:
    """How many values of a range are left for people to name: none of a small one."""
    return 0 if size < least else min(max(least, size // part), most)


class PortBitmap:
    """Which ports of a range are taken, in the form that kube-apiserver stores: a big-endian number, bit i = port i."""

    def __init__(self, ports: PortRange, taken: int = 0) -> None:
        self._ports = ports
        self._taken = taken

    @classmethod
    def from_object(cls, ports: PortRange, value: dict[str, object]) -> PortBitmap:
        """Read a RangeAllocation; one of another range keeps the ports that both have."""
        first, _, last = str(value.get("range") or ports).partition("-")
        stored = PortRange(int(first), int(last))
        taken = int.from_bytes(base64.b64decode(str(value.get("data") or "")), "big")
        if stored == ports:
            return cls(ports, taken & (1 << ports.size) - 1)
        bitmap = cls(ports)
        for offset in range(stored.size):
            port = stored.first + offset
            if taken >> offset & 1 and ports.first <= port <= ports.last:
                bitmap.take(port)
        return bitmap

    def to_object(self) -> dict[str, object]:
        """The RangeAllocation to store."""
        data = self._taken.to_bytes((self._ports.size + 7) // 8, "big").lstrip(b"\0")
        return {
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": {},
            "range": str(self._ports),
            "data": base64.b64encode(data).decode(),
        }

    def copy(self) -> PortBitmap:
        """Return a bitmap of its own with the same ports taken."""
        return PortBitmap(self._ports, self._taken)

    def has(self, port: int) -> bool:
        """Whether the port is taken."""
        return bool(self._taken >> (port - self._ports.first) & 1)

    def take(self, port: int) -> bool:
        """Take a port; False when it was taken before."""
        bit = 1 << (port - self._ports.first)
        if self._taken & bit:
            return False
        self._taken |= bit
        return True

    def free(self, port: int) -> None:
        """Free a port."""
        self._taken &= ~(1 << (port - self._ports.first))

    def free_all(self, ports: Iterable[int]) -> int:
        """Free ports and tell how many were taken before."""
        before = self._taken
        for port in ports:
            self.free(port)
        return (before ^ self._taken).bit_count()

    def taken(self) -> Iterator[int]:
        """All ports that are taken, in order."""
        for offset in range(self._ports.size):
            if self._taken >> offset & 1:
                yield self._ports.first + offset

    def choose(self, random: Random) -> int:
        """Take some free port."""
        for port in self._ports.candidates(random):
            if self.take(port):
                return port
        raise AllocationError("range is full")
