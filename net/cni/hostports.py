"""Open ports of the node that lead to one pod each (hostPort), by two chains of our own.

    nat  PREROUTING, OUTPUT (to an address of this node) → RAFTSMAN-HOSTPORTS → DNAT to the pod
         POSTROUTING → RAFTSMAN-HOSTPORTS-MASQ → MASQUERADE a pod that reaches itself by its host port

The mappings stand in the pods' claims, so the chains are made anew from the state file after a
restart. On 127.0.0.1 host ports do not answer: see the README on route_localnet.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from net import chains
from net.chains import Chains, Jump, Jumps, Tables
from net.cni import spec
from net.cni.spec import CniError
from net.ipam.allocator import Claim, PortMapping
from net.xtables import Xtables

DISPATCH, MASQUERADE = "RAFTSMAN-HOSTPORTS", "RAFTSMAN-HOSTPORTS-MASQ"
_TOLD = '-m comment --comment "raftsman host ports"'
_TO_NODE = f"! -d 127.0.0.0/8 {_TOLD} -m addrtype --dst-type LOCAL -j {DISPATCH}"
JUMPS: Jumps = {
    "nat": (
        Jump("PREROUTING", _TO_NODE),
        Jump("OUTPUT", _TO_NODE),
        Jump("POSTROUTING", f"{_TOLD} -j {MASQUERADE}"),
    ),
}


def owned(chain: str) -> bool:
    """Tell whether a chain is this module's."""
    return chain in (DISPATCH, MASQUERADE)


def parse(entries: Iterable[dict[str, Any]]) -> tuple[PortMapping, ...]:
    """Read a runtime's portMappings; CniError where one makes no sense."""
    found = []
    for entry in entries:
        protocol = str(entry.get("protocol") or "tcp").lower()
        host_ip = str(entry.get("hostIP") or "")
        try:
            host_port, container_port = int(entry.get("hostPort") or 0), int(entry["containerPort"])
            unspecified = not host_ip or ipaddress.ip_address(host_ip).is_unspecified
        except (KeyError, ValueError) as error:
            raise CniError(spec.INVALID_CONFIGURATION, f"port mapping {entry} makes no sense", str(error)) from error
        if protocol not in ("tcp", "udp", "sctp") or not (0 <= host_port < 65536 and 0 < container_port < 65536):
            raise CniError(spec.INVALID_CONFIGURATION, f"port mapping {entry} makes no sense")
        if host_port and ":" not in host_ip:
            found.append(PortMapping(protocol, host_port, container_port, "" if unspecified else host_ip))
    return tuple(found)


def rules(claims: Iterable[Claim]) -> Chains:
    """Return both chains for all pods of the node."""
    dispatch: list[str] = []
    masquerade: list[str] = []
    for claim in sorted(claims, key=lambda claim: claim.addresses):
        address = next((address for address in claim.addresses if ":" not in address), "")
        for mapping in claim.port_mappings if address else ():
            protocol = mapping.protocol
            to = f"-d {mapping.host_ip}/32 " if mapping.host_ip else ""
            told = f'-m comment --comment "{claim.pod or claim.attachment.container_id} host port"'
            dispatch.append(
                f"{to}-p {protocol} {told} -m {protocol} --dport {mapping.host_port}"
                f" -j DNAT --to-destination {address}:{mapping.container_port}"
            )
            masquerade.append(
                f"-s {address}/32 -d {address}/32 -p {protocol} {told}"
                f" -m {protocol} --dport {mapping.container_port} -j MASQUERADE --random-fully"
            )
    return {DISPATCH: tuple(dispatch), MASQUERADE: tuple(masquerade)}


@dataclass(slots=True)
class HostPorts:
    """Keep the node's host ports at what the claims say; iptables is not looked at until one is asked for."""

    open_door: Callable[[], Awaitable[Xtables]]
    _door: Xtables | None = None
    _standing: Tables | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def sync(self, claims: Iterable[Claim]) -> None:
        """Bring the chains to the claims; raises XtablesError where that fails."""
        async with self._lock:
            wanted: Tables = {"nat": rules(claims)}
            if self._door is None:
                if not wanted["nat"][DISPATCH]:
                    return
                self._door = await self.open_door()
            standing, self._standing = self._standing, None
            if standing is None:
                standing = chains.parse(await self._door.save("nat"), owned)
            text = chains.difference(standing, wanted, JUMPS, owned)
            if text:
                await self._door.restore(text)
            # Kept only after success: what a failure leaves is read anew.
            self._standing = chains.merged(standing, wanted, JUMPS, owned)

    def forget(self) -> None:
        """Read the kernel again at the next sync."""
        self._standing = None
