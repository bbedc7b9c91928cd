"""Open ports of the node that lead to one pod each (hostPort), by an nftables table of our own.

    to an address of this node → one4, one6 (address . protocol . port), any4, any6 (protocol . port) → DNAT
    a pod that reaches itself  → self4, self6 → masquerade

The table stands beside either proxy's rules and comes before them; a connection that it does not know
passes on. After the first port nearly every change is one batch of set elements. The mappings stand in
the pods' claims, so a restart compares them with the kernel and writes nothing where they agree. On
127.0.0.1 and ::1 host ports do not answer: see the README on route_localnet.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from net.cni import spec
from net.cni.plan import version_of
from net.cni.spec import CniError
from net.ipam.allocator import Claim, PortMapping
from net.messages import AF_INET, AF_INET6
from net.netlink import RouteSocket
from net.nftables import door, elements, operations
from net.nftables.door import NftablesSocket
from net.nftables.errors import NftablesError
from net.nftables.operations import AddElements, DeleteElements, Operation, Table
from net.proxy.conntrack import Place, Reconciler, place

log = logging.getLogger(__name__)

TABLE = Table("inet", "raftsman-hostports")
PROTOCOLS = ("tcp", "udp", "sctp")
_TARGETS = {4: "ipv4_addr . inet_service", 6: "ipv6_addr . inet_service"}
_SETS = "\n".join(
    f"""
  map any{v} {{ type inet_proto . inet_service : {_TARGETS[v]}; }}
  map one{v} {{ type ipv{v}_addr . inet_proto . inet_service : {_TARGETS[v]}; }}
  set self{v} {{ type ipv{v}_addr . ipv{v}_addr; }}"""
    for v in (4, 6)
)
_BODY = f"""
  comment "ports of this node that lead to its pods";
{_SETS}
  chain lead {{
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    dnat ip to ip daddr . meta l4proto . th dport map @one4
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain prerouting {{
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} goto lead
  }}
  chain output {{
    type nat hook output priority -105; policy accept;
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} goto lead
  }}
  chain postrouting {{
    type nat hook postrouting priority 95; policy accept;
    ct status dnat ip saddr . ip daddr @self4 masquerade fully-random
    ct status dnat ip6 saddr . ip6 daddr @self6 masquerade fully-random
  }}
"""
RULE_COUNT = 10
MARKER = f"schema-{hashlib.sha256(_BODY.encode()).hexdigest()[:8]}"
"""An empty chain: a table of another release lacks it and is made anew."""
# In one transaction: connections that are under way keep their translation, new ones have it at once again.
SCHEMA = f"table {TABLE} {{ }}\ndelete table {TABLE}\ntable {TABLE} {{{_BODY}  chain {MARKER} {{ }}\n}}\n"
Elements = dict[str, dict[bytes, bytes]]
"""What stands in each set: data by key; a set's elements have none."""
SET_NAMES = ("any4", "one4", "self4", "any6", "one6", "self6")


def parse(entries: Any) -> tuple[PortMapping, ...]:
    """Read a runtime's portMappings, keys in lower case; CniError where one makes no sense."""
    found = []
    if not isinstance(entries, list | tuple):
        raise CniError(spec.INVALID_CONFIGURATION, "portMappings must be a list")
    for entry in entries:
        nonsense = f"port mapping {entry} makes no sense"
        try:
            protocol = str(entry.get("protocol") or "tcp").lower()
            host_ip = str(entry.get("hostip") or "")
            host_port, container_port = int(entry.get("hostport") or 0), int(entry["containerport"])
            host_ip = str(ipaddress.ip_address(host_ip)) if host_ip else ""
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CniError(spec.INVALID_CONFIGURATION, nonsense, str(error)) from error
        if protocol not in PROTOCOLS or not (0 <= host_port < 65536 and 0 < container_port < 65536):
            raise CniError(spec.INVALID_CONFIGURATION, nonsense)
        if host_port:
            found.append(PortMapping(protocol, host_port, container_port, host_ip))
    return tuple(found)


def wanted(claims: Iterable[Claim]) -> Elements:
    """Return the elements for all pods of the node; of two pods that want one port, the first keeps it."""
    found: Elements = {name: {} for name in SET_NAMES}
    for claim in sorted(claims, key=lambda claim: claim.addresses):
        for mapping in claim.port_mappings:
            for address in claim.addresses:
                _add(found, mapping, address)
    return found


def _add(found: Elements, mapping: PortMapping, address: str) -> None:
    version = version_of(address)
    if not _is_of(mapping, version):
        return
    pod = elements.address(address)
    port = [elements.protocol(mapping.protocol), elements.port(mapping.host_port)]
    target = elements.value(elements.concatenation(pod, elements.port(mapping.container_port)))
    if _is_anywhere(mapping):
        found[f"any{version}"].setdefault(elements.concatenation(*port), target)
    else:
        key = elements.concatenation(elements.address(mapping.host_ip), *port)
        found[f"one{version}"].setdefault(key, target)
    found[f"self{version}"][elements.concatenation(pod, pod)] = b""


def udp_fronts(claims: Iterable[Claim], version: int) -> dict[Place, frozenset[Place]]:
    """Return where each UDP host port leads, for the reconciliation of flows that are older than it."""
    found: dict[Place, frozenset[Place]] = {}
    for claim in sorted(claims, key=lambda claim: claim.addresses):
        for mapping in claim.port_mappings:
            for address in claim.addresses:
                if mapping.protocol != "udp" or version_of(address) != version or not _is_of(mapping, version):
                    continue
                front = place("" if _is_anywhere(mapping) else mapping.host_ip, mapping.host_port)
                found.setdefault(front, frozenset((place(address, mapping.container_port),)))
    return found


def _is_of(mapping: PortMapping, version: int) -> bool:
    return not mapping.host_ip or version_of(mapping.host_ip) == version


def _is_anywhere(mapping: PortMapping) -> bool:
    return not mapping.host_ip or ipaddress.ip_address(mapping.host_ip).is_unspecified


def changes(standing: Mapping[str, dict[bytes, bytes]], aim: Elements) -> list[Operation]:
    """Return the operations of one transaction that lead from what stands to what is wanted."""
    gone: list[Operation] = []
    new: list[Operation] = []
    for name in SET_NAMES:
        now, then = standing.get(name, {}), aim[name]
        leaving = [elements.element(key) for key, data in now.items() if then.get(key) != data]
        coming = [elements.element(key, data) for key, data in then.items() if now.get(key) != data]
        gone += [DeleteElements(TABLE, name, leaving)] if leaving else []
        new += [AddElements(TABLE, name, coming)] if coming else []
    return [*gone, *new]


@dataclass(slots=True)
class HostPorts:
    """Keep the node's host ports at what the claims say; nftables is not looked at until one is asked for."""

    open_door: Callable[[], NftablesSocket] = NftablesSocket
    load: Callable[[str], Awaitable[None]] = door.load
    _door: NftablesSocket | None = None
    _standing: Elements | None = None
    _generation: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _flows: tuple[Reconciler, ...] = field(default_factory=lambda: (Reconciler(4), Reconciler(6)))

    def close(self) -> None:
        """Close the socket; the rules stay."""
        if self._door is not None:
            self._door.close()

    async def sync(self, claims: Iterable[Claim]) -> int:
        """Bring the table to the claims and return how many operations that took; raises NftablesError."""
        async with self._lock:
            held = tuple(claims)
            aim = wanted(held)
            if self._door is None:
                self._door = self._open(is_wanted=any(aim.values()))
                if self._door is None:
                    return 0
            standing, self._standing = self._standing, None
            try:
                todo = changes(await self._read(self._door) if standing is None else standing, aim)
                self._door.batch(todo)
            except NftablesError as error:
                if standing is None:
                    raise
                log.info("host ports are made anew error=%s", error)
                todo = changes(await self._read(self._door), aim)
                self._door.batch(todo)
            # Kept only after success: what a failure leaves is read anew.
            self._standing = aim
            await self._drop_stale_flows(held)
            return len(todo)

    async def _drop_stale_flows(self, claims: tuple[Claim, ...]) -> None:
        """Have UDP clients that keep their port reach the pod that has the port now."""
        for flows in self._flows:
            fronts = udp_fronts(claims, flows.ip_version)
            if not flows.differs(fronts) or (flows.is_new and not fronts):
                continue
            try:
                await asyncio.to_thread(_reconcile, flows, fronts)
            except OSError as error:
                log.warning("flows of host ports cannot be looked at, tried again at the next change error=%s", error)

    def _open(self, is_wanted: bool) -> NftablesSocket | None:
        """Open the door where there is anything to do behind it: a wanted port, or a table of an earlier run."""
        socket = self.open_door()
        try:
            if is_wanted or TABLE in socket.tables():
                return socket
        except NftablesError as error:
            log.debug("nftables cannot be read error=%s", error)
        socket.close()
        return None

    async def _read(self, socket: NftablesSocket) -> Elements:
        """Return what stands; where the table is not whole, it is made, empty."""
        if not _is_whole(socket):
            await self.load(SCHEMA)
        return {name: {found.key: found.data for found in socket.elements(TABLE, name)} for name in SET_NAMES}

    def forget(self) -> None:
        """Read the kernel again at the next sync."""
        self._standing = None

    def stands(self) -> bool:
        """Tell whether the table is there, where it should be: two short requests at most."""
        if self._door is None or self._standing is None:
            return True
        generation = self._door.generation()
        if generation != self._generation and TABLE not in self._door.tables():
            return False
        self._generation = generation
        return True


def _reconcile(flows: Reconciler, fronts: dict[Place, frozenset[Place]]) -> None:
    with RouteSocket() as socket:
        family = AF_INET6 if flows.ip_version == 6 else AF_INET
        local = frozenset(found.address for found in socket.addresses(family))
    flows.reconcile(fronts, local)


def _is_whole(socket: NftablesSocket) -> bool:
    chains = socket.parts(TABLE, operations.GETCHAIN)
    names = {chain.get(operations.NFTA_CHAIN_NAME, b"").rstrip(b"\0").decode() for chain in chains}
    return MARKER in names and len(socket.parts(TABLE, operations.GETRULE)) == RULE_COUNT
