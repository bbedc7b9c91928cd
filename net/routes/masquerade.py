"""Say how pods' packets leave the cluster, and that the node lets them through: pure.

Outside the cluster they bear the node's address; to pods and nodes, tunnelled or not, their own. This is the
only place that makes this rule; Services' masquerading is kube-proxy's own business, and stands before it.
`table` is the rule for nftables, in a table of its own for both IP versions; `rules` the same for a kernel
without nf_tables.

A machine with other firewall rules (Docker sets the policy of iptables' FORWARD to DROP) lets pods' packets pass by
a rule behind everybody else's, so that no refusal of theirs or of kube-proxy's is passed by.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from net.chains import Jump, Jumps, Tables
from net.routes.peers import Peer, version_of

MASQUERADE, FORWARD = "RAFTSMAN-POSTROUTING", "RAFTSMAN-FORWARD"
TABLE = "raftsman-pods"
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
FORWARD_JUMPS = (Jump("FORWARD", f'-m comment --comment "raftsman pods pass" -j {FORWARD}', is_last=True),)
MASQUERADE_JUMPS = (Jump("POSTROUTING", f'-m comment --comment "raftsman pods to the outside" -j {MASQUERADE}'),)


def owned(chain: str) -> bool:
    """Tell whether a chain is this module's."""
    return chain in (MASQUERADE, FORWARD)


def jumps(with_masquerade: bool, with_forward: bool) -> Jumps:
    """Return the jumps to our chains."""
    return {
        "nat": MASQUERADE_JUMPS if with_masquerade else (),
        "filter": FORWARD_JUMPS if with_forward else (),
    }


def inside(peers: Iterable[Peer], cluster_cidrs: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Return the networks of one IP version that pods reach under their own addresses."""
    known = sorted(peers)
    pods = [cidr for cidr in cluster_cidrs if version_of(cidr) == version]
    pods = pods or [cidr for peer in known for cidr in peer.pod_cidrs if version_of(cidr) == version]
    length = 128 if version == 6 else 32
    nodes = [f"{address}/{length}" for peer in known for address in peer.addresses if version_of(address) == version]
    return tuple(dict.fromkeys((*pods, *nodes, MULTICAST[version])))


def rules(
    own: Peer,
    peers: Iterable[Peer],
    cluster_cidrs: tuple[str, ...] = (),
    version: int = 4,
    with_masquerade: bool = True,
    with_forward: bool = True,
) -> Tables:
    """Return iptables' chains: what of this node's pods is masqueraded, and that their packets pass."""
    cidrs = [cidr for cidr in own.pod_cidrs if version_of(cidr) == version]
    masquerade = [f"-d {network} -j RETURN" for network in inside(peers, cluster_cidrs, version)]
    masquerade += [f"-s {cidr} -j MASQUERADE --random-fully" for cidr in cidrs]
    forward = [f"{end} {cidr} -j ACCEPT" for cidr in cidrs for end in ("-s", "-d")]
    return {
        "nat": {MASQUERADE: tuple(masquerade)} if with_masquerade else {},
        "filter": {FORWARD: tuple(forward)} if with_forward else {},
    }


def table(own: Peer, peers: Iterable[Peer], cluster_cidrs: tuple[str, ...] = ()) -> str:
    """Return nft's input that puts our table in place of the one that stands, whatever that holds."""
    known = tuple(peers)
    sets, chain = [], []
    for version, kind, header in ((4, "ipv4_addr", "ip"), (6, "ipv6_addr", "ip6")):
        cidrs = [cidr for cidr in own.pod_cidrs if version_of(cidr) == version]
        if not cidrs:
            continue
        sets += [
            _set(f"pods-{header}", kind, cidrs),
            _set(f"inside-{header}", kind, inside(known, cluster_cidrs, version)),
        ]
        chain.append(f"    {header} saddr @pods-{header} {header} daddr != @inside-{header} masquerade fully-random")
    # Behind kube-proxy's chain, at 100: what it masquerades for a Service's sake needs no second look.
    head = "  chain postrouting {\n    type nat hook postrouting priority 110; policy accept;"
    return "\n".join(
        [
            f"table inet {TABLE}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            *sets,
            head,
            *chain,
            "  }",
            "}\n",
        ]
    )


def _set(name: str, kind: str, networks: Iterable[str]) -> str:
    """Return a set; networks that lie in others are left out, since nft 1.0.6 refuses some of these overlaps."""
    by_version = [ipaddress.ip_network(network) for network in networks]
    listed = ", ".join(str(network) for network in _collapsed(by_version))
    return f"  set {name} {{\n    type {kind}; flags interval;\n    elements = {{ {listed} }}\n  }}"


def _collapsed(
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
