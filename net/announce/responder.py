"""Answer for addresses on a link: ARP and neighbour discovery on raw sockets.

The addresses are not put on the link. Then the node would take them for its own, so that everything that listens on all
addresses (node ports, the kubelet, a shell) would answer there too, and the kernel would go on answering for them
when this process is dead and another node has taken over. This way a dead process is silent, and what is
not a Service's port is nobody's: packets reach the proxy's rules by the node's Ethernet address alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from net.announce import frames
from net.links import Link
from net.netlink import RouteSocket

log = logging.getLogger(__name__)

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP, PACKET_MR_MULTICAST = 263, 1, 2, 0
SO_ATTACH_FILTER = 26
MEMBERSHIP = struct.Struct("=iHH8s")
INSTRUCTION = struct.Struct("=HBBI")
BURST_MAX = 64
RECEIVE_BYTES = 2048
REPEATS_S = (0.2, 1.0, 3.0)
"""When a takeover is said again: the first word may be lost, or come while a switch still learns."""

ONLY_SOLICITATIONS = (
    # Of IPv6: next header 58 at 20, type 135 at 54; and ARP has a socket of its own.
    (0x30, 0, 0, 20), (0x15, 0, 3, frames.ICMPV6), (0x30, 0, 0, 54), (0x15, 0, 1, frames.NEIGHBOUR_SOLICITATION),
    (0x06, 0, 0, RECEIVE_BYTES), (0x06, 0, 0, 0),
)  # fmt: skip


def _attach_filter(channel: socket.socket, program: Iterable[tuple[int, int, int, int]]) -> None:
    """Let the kernel drop what is of no interest: a busy link carries a million other packets a second."""
    code = b"".join(INSTRUCTION.pack(*instruction) for instruction in program)
    held = ctypes.create_string_buffer(code)
    header = struct.pack("@HxxxxxxP", len(code) // INSTRUCTION.size, ctypes.addressof(held))
    channel.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)


@dataclass
class Port:
    """One link on which we answer."""

    link: Link
    addresses: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Open the sockets in the namespace in which this is made."""
        self.mac = bytes.fromhex(self.link.mac.replace(":", ""))
        self._sockets = [self._open(frames.ETHERTYPE_ARP), self._open(frames.ETHERTYPE_IPV6)]
        _attach_filter(self._sockets[1], ONLY_SOLICITATIONS)
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.add_reader(each, self._burst, each)

    def _open(self, kind: int) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(kind))
        try:
            made.bind((self.link.name, kind))
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Fall silent."""
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            each.close()

    def _burst(self, channel: socket.socket) -> None:
        for _ in range(BURST_MAX):
            try:
                frame = channel.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("link is gone for now link=%s error=%s", self.link.name, error)
                return
            asked = frames.parse(frame)
            if asked is not None and asked.address in self.addresses:
                self.send(frames.answer(asked, self.mac))

    def send(self, frame: bytes) -> None:
        """Send a frame; one that cannot be sent is asked for again."""
        try:
            self._sockets[0].send(frame)
        except OSError as error:
            log.debug("frame is not sent link=%s error=%s", self.link.name, error)

    def use(self, addresses: set[str]) -> None:
        """Answer for these addresses and no other."""
        for address in addresses ^ self.addresses:
            if ":" not in address:
                continue
            group = frames.multicast_mac(frames.solicited_node(address))
            wish = PACKET_ADD_MEMBERSHIP if address in addresses else PACKET_DROP_MEMBERSHIP
            request = MEMBERSHIP.pack(self.link.index, PACKET_MR_MULTICAST, 6, group)
            try:
                self._sockets[1].setsockopt(SOL_PACKET, wish, request)
            except OSError as error:
                log.warning("group is not joined or left link=%s address=%s error=%s", self.link.name, address, error)
        self.addresses = set(addresses)

    def announce(self, address: str) -> None:
        """Tell everybody that an address is here now."""
        for frame in frames.announcements(address, self.mac):
            self.send(frame)


def link_for(
    address: str, networks: Mapping[int, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]]
) -> int | None:
    """Return the index of the link whose network an address is of; the narrowest network counts."""
    parsed = ipaddress.ip_address(address)
    found = [
        (own.network.prefixlen, index)
        for index, owned in networks.items()
        for own in owned
        if own.version == parsed.version and parsed in own.network and own.network.num_addresses > 1
    ]
    return max(found)[1] if found else None


class Responder:
    """Answers for addresses, each on its link."""

    def __init__(self, interface: str = "") -> None:
        self._interface = interface
        self._ports: dict[int, Port] = {}
        self._repeats: dict[str, list[asyncio.TimerHandle]] = {}
        self.addresses: frozenset[str] = frozenset()

    def use(self, addresses: Iterable[str]) -> None:
        """Answer for these addresses and no other, and announce those that are new."""
        wanted = frozenset(addresses)
        if wanted == self.addresses:
            return
        gone, new = self.addresses - wanted, wanted - self.addresses
        self.addresses = wanted
        for address in gone:
            self._hush(address)
        self.place()
        loop = asyncio.get_running_loop()
        for address in new:
            self._announce(address)
            self._repeats[address] = [loop.call_later(delay, self._announce, address) for delay in REPEATS_S]

    def place(self) -> None:
        """Find each address's link anew; to be called when links or their addresses change."""
        with RouteSocket() as kernel:
            links = {link.index: link for link in kernel.links()}
            networks: dict[int, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = {}
            for family in (socket.AF_INET, socket.AF_INET6):
                for own in kernel.addresses(family):
                    if links.get(own.index) is not None and len(links[own.index].mac) == 17:
                        text = f"{own.address}/{own.prefix_length}"
                        networks.setdefault(own.index, []).append(ipaddress.ip_interface(text))
        named = next((index for index, link in links.items() if link.name == self._interface), None)
        wanted: dict[int, set[str]] = {}
        for address in self.addresses:
            index = named if self._interface else link_for(address, networks)
            if index is None:
                log.warning("no link is in the network of an address address=%s", address)
                continue
            wanted.setdefault(index, set()).add(address)
        for index in list(self._ports):
            if index not in wanted or links.get(index) is None or links[index].mac != self._ports[index].link.mac:
                self._ports.pop(index).close()
        for index, addresses in wanted.items():
            if index not in self._ports:
                self._ports[index] = Port(links[index])
            self._ports[index].use(addresses)

    def _announce(self, address: str) -> None:
        for port in self._ports.values():
            if address in port.addresses:
                port.announce(address)

    def _hush(self, address: str) -> None:
        for handle in self._repeats.pop(address, ()):
            handle.cancel()

    def close(self) -> None:
        """Fall silent."""
        for address in list(self._repeats):
            self._hush(address)
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        self.addresses = frozenset()
