"""PURE: the addresses that load balancers get, as networks and ranges of both families."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterator
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PoolError(ValueError):
    """A text names no addresses, or a Service asks for what it cannot have."""


@dataclass(frozen=True)
class Span:
    """All addresses from one to another, both among them."""

    first: Address
    last: Address

    def __contains__(self, address: object) -> bool:
        """Tell whether an address lies within."""
        if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            return False
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    def __iter__(self) -> Iterator[Address]:
        """Go through the addresses in their order; there may be very many."""
        make = type(self.first)
        for number in range(int(self.first), int(self.last) + 1):
            yield make(number)


def parse_span(text: str) -> Span:
    """Read a network or FIRST-LAST; raises PoolError.

    Of a network, the address that names it is left out, and IPv4's broadcast address: nobody may use them.
    """
    first, dash, last = (part.strip() for part in text.partition("-"))
    try:
        if not dash:
            network = ipaddress.ip_network(first)
            spare = 1 if network.num_addresses > 2 else 0
            end = network[-1 - spare] if network.version == 4 else network[-1]
            return Span(network[spare], end)
        span = Span(ipaddress.ip_address(first), ipaddress.ip_address(last))
    except ValueError as error:
        raise PoolError(f"{text!r} is neither a network nor a range FIRST-LAST: {error}") from None
    if span.first.version != span.last.version or int(span.first) > int(span.last):
        raise PoolError(f"{text!r} does not lead from a lower address to a higher one")
    return span


@dataclass(frozen=True)
class Pool:
    """The addresses that may be given away."""

    spans: tuple[Span, ...]

    def __contains__(self, text: object) -> bool:
        """Tell whether an address, as text, is of the pool."""
        try:
            address = ipaddress.ip_address(str(text))
        except ValueError:
            return False
        return any(address in span for span in self.spans)

    def serves(self, family: str) -> bool:
        """Tell whether there are addresses of a family: IPv4, IPv6."""
        return any(f"IPv{span.first.version}" == family for span in self.spans)

    def free(self, family: str, taken: Container[str]) -> str:
        """Return the lowest address of a family that nobody has; raises PoolError."""
        for span in self.spans:
            if f"IPv{span.first.version}" == family:
                for address in span:
                    if str(address) not in taken:
                        return str(address)
        raise PoolError(f"all {family} addresses of the pool are in use" if self.serves(family) else
                        f"the pool holds no {family} addresses")  # fmt: skip


def parse_pool(text: str) -> Pool:
    """Read networks and ranges, separated by commas; raises PoolError."""
    return Pool(tuple(parse_span(part) for part in text.split(",") if part.strip()))
