"""Say how pods' packets leave the cluster, and that the node lets them through: pure.

Outside the cluster they bear the node's address, inside their own. This is the only place that makes
this rule; Services' masquerading is kube-proxy's own business. A machine with other firewall rules (Docker
sets the policy of FORWARD to DROP) lets pods' packets pass by a rule behind everybody else's, so
that no refusal of theirs or of kube-proxy's is passed by.
"""

from __future__ import annotations

from collections.abc import Iterable

from net.chains import Jump, Jumps, Tables
from net.routes.plan import Peer

MASQUERADE, FORWARD = "RAFTSMAN-POSTROUTING", "RAFTSMAN-FORWARD"
MULTICAST = "224.0.0.0/4"
JUMPS: Jumps = {
    "nat": (Jump("POSTROUTING", f'-m comment --comment "raftsman pods to the outside" -j {MASQUERADE}'),),
    "filter": (Jump("FORWARD", f'-m comment --comment "raftsman pods pass" -j {FORWARD}', is_last=True),),
}


def owned(chain: str) -> bool:
    """Tell whether a chain is this module's."""
    return chain in (MASQUERADE, FORWARD)


def rules(own: Peer, peers: Iterable[Peer], cluster_cidrs: tuple[str, ...] = ()) -> Tables:
    """Return both chains: what of this node's pods is masqueraded, and that their packets pass."""
    known = sorted(peers)
    pods = cluster_cidrs or tuple(cidr for peer in known for cidr in peer.pod_cidrs)
    nodes = tuple(f"{peer.address}/32" for peer in known if peer.address)
    inside = tuple(dict.fromkeys((*pods, *nodes, MULTICAST)))
    masquerade = [f"-d {network} -j RETURN" for network in inside]
    masquerade += [f"-s {cidr} -j MASQUERADE --random-fully" for cidr in own.pod_cidrs]
    forward = [f"{end} {cidr} -j ACCEPT" for cidr in own.pod_cidrs for end in ("-s", "-d")]
    return {"nat": {MASQUERADE: tuple(masquerade)}, "filter": {FORWARD: tuple(forward)}}
