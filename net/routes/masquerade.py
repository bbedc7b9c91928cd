"""Say how pods' packets leave the cluster: under the node's address, but untouched inside: pure.

This is the only place that makes this rule. Services' masquerading is kube-proxy's own business.
"""

from __future__ import annotations

from collections.abc import Iterable

from net.chains import Chains, Jumps
from net.routes.plan import Peer

CHAIN = "RAFTSMAN-POSTROUTING"
MULTICAST = "224.0.0.0/4"
JUMPS: Jumps = {
    "nat": (("POSTROUTING", f'-m comment --comment "raftsman pods to the outside" -j {CHAIN}'),),
}


def owned(chain: str) -> bool:
    """Tell whether a chain is this module's."""
    return chain == CHAIN


def rules(own: Peer, peers: Iterable[Peer], cluster_cidrs: tuple[str, ...] = ()) -> Chains:
    """Return the chain: packets of this node's pods to anything but pods, nodes and groups are masqueraded."""
    known = sorted(peers)
    pods = cluster_cidrs or tuple(cidr for peer in known for cidr in peer.pod_cidrs)
    nodes = tuple(f"{peer.address}/32" for peer in known if peer.address)
    inside = tuple(dict.fromkeys((*pods, *nodes, MULTICAST)))
    out: list[str] = [f"-d {network} -j RETURN" for network in inside]
    out += [f"-s {cidr} -j MASQUERADE --random-fully" for cidr in own.pod_cidrs]
    return {CHAIN: tuple(out)}
