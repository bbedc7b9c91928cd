"""Links, addresses, routes and their changes, as plain values: what `netlink` reads."""

from __future__ import annotations

from dataclasses import dataclass, field

MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Vxlan:
    """Hold what a VXLAN interface was made with."""

    identifier: int
    local: str
    """The address of our own end; empty where the kernel chooses."""
    port: int
    is_learning: bool
    underlay_index: int = 0
    """The link that it is bound to; 0 where the node's routes decide."""


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
    vxlan: Vxlan | None = None


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Hold one address of an interface."""

    index: int
    address: str
    prefix_length: int


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """Hold one unicast route."""

    network: str
    index: int
    gateway: str = ""
    protocol: int = 0
    metric: int = 0
    source: str = ""
    mtu: int = 0
    """The largest packet that it carries, where that is not its link's."""
    table: int = MAIN_TABLE
    is_onlink: bool = False
    """Whether the gateway counts as on the link, whatever its networks are."""


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """Hold one address on a link and the MAC address that it is known by."""

    index: int
    address: str
    mac: str
    is_permanent: bool = True


@dataclass(frozen=True, slots=True, order=True)
class ForwardingEntry:
    """Hold where frames to a MAC address are sent from a VXLAN interface."""

    index: int
    mac: str
    destination: str


@dataclass(frozen=True, slots=True, order=True)
class RoutingRule:
    """Hold a rule that leads packets from some addresses to a table of their own."""

    source: str
    table: int
    priority: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Event:
    """Tell that something changed: a link, address, route, neighbour or rule; or ("overrun") that events were lost."""

    kind: str
    index: int = 0
    protocol: int = 0
    what: Address | Route | Neighbour | ForwardingEntry | None = field(default=None, compare=False)
    """What it is about, where that can be told."""
    is_gone: bool = field(default=False, compare=False)
    """Whether it was removed, and not made or changed."""
