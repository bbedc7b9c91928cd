"""Name the elements by which a port of a node leads to one pod: pure."""

from __future__ import annotations

from net.cni import hostports
from net.explain.destination import Destination, HostPort
from net.explain.steps import Wording
from net.explain.things import Element, NftChain
from net.nftables import elements


def host_port_wording(destination: Destination, found: HostPort, ip_version: int) -> Wording:
    """Name the map and its element."""
    table = hostports.TABLE
    place = [elements.protocol(destination.protocol), elements.port(destination.port)]
    words = f"{destination.protocol.lower()} . {destination.port}"
    name = f"any{ip_version}"
    if found.host_ip:
        name, words = f"one{ip_version}", f"{found.host_ip} . {words}"
        place = [elements.address(found.host_ip), *place]
    target = elements.concatenation(elements.address(found.address), elements.port(found.port))
    words += f" : {found.address} . {found.port}"
    element = Element(table.family, table.name, name, elements.concatenation(*place), elements.value(target), words)
    chain = NftChain(table.family, table.name, "lead")
    return Wording(f"{table} lead → @{name} {{ {words} }}", (chain, element))
