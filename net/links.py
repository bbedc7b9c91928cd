"""Links, addresses, routes and their changes, as plain values: what `netlink` reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """Hold one network interface."""

    index: int
    name: str
    kind: str
    """veth, bridge, …; empty for hardware."""
    mtu: int
    mac: str
    is_up: bool
    master: int = 0
    """The bridge whose port this is."""


@dataclass(frozen=True, slots=True)
class Address:
    """Hold one address of an interface."""

    index: int
    address: str
    prefix_length: int


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Hold one unicast route of the main table."""

    network: str
    index: int
    gateway: str = ""
    protocol: int = 0
    metric: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Tell that something changed: a link, an address, a route, or ("overrun") that events were lost."""

    kind: str
    index: int = 0
    protocol: int = 0
