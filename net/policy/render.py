"""Write policies as nftables rules: pure.

The table, by the example of a pod 10.244.1.7 that default/web selects:

    chain judge-ingress        hook forward: replies pass, then  ip daddr vmap @ingress-4
    map ingress-4              10.244.1.7 : goto ingress-profile-5f1c…
    chain ingress-profile-…    jump ingress/default/web-9a02…, one a policy that selects the pod; then drop
    chain ingress/default/…    ip saddr @pods-4-77d1… tcp dport 80 accept, …
    set pods-4-77d1…           the addresses of all pods that one scope means, shared by all policies

Chains are never changed: their names hold a digest of their rules, so other rules are another chain,
and what stands is known by its name. A pod that comes or goes is set elements alone. `accept` ends
one of the two base chains only: who may leave one pod is still judged on the way into another.

Both judge at the forward hook, after the translation of Service addresses, and behind the proxy's own
chains, so that a Service without endpoints refuses as it does elsewhere. What a node's own processes
send to its pods, and pods to their node, does not pass there: Kubernetes always allows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from net.policy.model import DIRECTIONS, Direction, Peers, PodScope, Policy, PortMatch, Rule
from net.policy.ranges import ADDRESSES_ALL, PORTS_ALL, Ranges, address_text, port_text

TABLE = "raftsman-policy"
PRIORITY: Mapping[Direction, int] = {"egress": 10, "ingress": 11}
"""Behind the proxy's filters (-110, 0); who leaves is judged before who enters."""
IP_VERSIONS = (4, 6)
ADDRESS_TYPES: Mapping[int, str] = {4: "ipv4_addr", 6: "ipv6_addr"}
PROFILE_PREFIXES = tuple(f"{direction}-profile-" for direction in DIRECTIONS)
NAME_LENGTH_MAX = 150
COMMENT_LENGTH_MAX = 120
Lines = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """Hold a chain's rules, and for one that the kernel calls its head."""

    rules: Lines
    head: str = ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _plain(text: str, more: str = "") -> str:
    """Replace what could end a name or a comment: not every API server validates what it stores."""
    return re.sub(f"[^A-Za-z0-9/._{re.escape(more)}-]", "_", text)


def profiles_map(direction: Direction, ip_version: int) -> str:
    """Return the name of the map from a pod's address to its profile."""
    return f"{direction}-{ip_version}"


def itself_set(ip_version: int) -> str:
    """Return the name of the set by which isolated pods reach themselves."""
    return f"itself-{ip_version}"


def scope_set(scope: PodScope, ip_version: int) -> str:
    """Return the name of the set of a scope's addresses."""
    return f"pods-{ip_version}-{_digest(str(scope))}"


def port_set(name: str, protocol: str, ip_version: int) -> str:
    """Return the name of the set of (address, port) that a named port stands for."""
    return f"port-{ip_version}-{protocol.lower()}-{name}"


def _base_rules(direction: Direction) -> Lines:
    side = "daddr" if direction == "ingress" else "saddr"
    return (
        # The other end's answers, and errors about a flow: whoever may ask may be answered.
        "ct direction reply accept",
        "ct state related accept",
        # On a bridge these pass here too, and nobody finds anybody without them.
        "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
        f"ip saddr . ip daddr @{itself_set(4)} accept",
        f"ip6 saddr . ip6 daddr @{itself_set(6)} accept",
        f"ip {side} vmap @{profiles_map(direction, 4)}",
        f"ip6 {side} vmap @{profiles_map(direction, 6)}",
    )


def base_chains() -> dict[str, Chain]:
    """Return the two chains that the kernel calls, by name."""
    chains = {}
    for direction in DIRECTIONS:
        head = f"{{ type filter hook forward priority {PRIORITY[direction]} ; policy accept ; }}"
        rules = _base_rules(direction)
        chains[f"judge-{direction}-{_digest(head, *rules)[:8]}"] = Chain(rules, head)
    return chains


def base_sets() -> dict[str, str]:
    """Return the declarations of what always stands, by name."""
    declared = {}
    for version in IP_VERSIONS:
        kind = ADDRESS_TYPES[version]
        for direction in DIRECTIONS:
            declared[profiles_map(direction, version)] = f"map {{ type {kind} : verdict ; }}"
        declared[itself_set(version)] = f"set {{ type {kind} . {kind} ; }}"
    return declared


def scope_declaration(scope: PodScope, ip_version: int) -> str:
    """Declare the set of a scope."""
    comment = _plain(str(scope)[:COMMENT_LENGTH_MAX], " :=!,()[]")
    return f'set {{ type {ADDRESS_TYPES[ip_version]} ; comment "{comment}" ; }}'


def port_declaration(ip_version: int) -> str:
    """Declare the set of a named port."""
    return f"set {{ type {ADDRESS_TYPES[ip_version]} . inet_service ; }}"


def policy_chain(policy: Policy, direction: Direction) -> tuple[str, Chain]:
    """Return the chain of one policy in one direction: what it allows is accepted, all else returns."""
    rules = policy.rules(direction)
    assert rules is not None, "a policy has no chain where it does not isolate"
    lines: dict[str, None] = {}
    for index, rule in enumerate(rules):
        for matches in _matches(rule, direction):
            lines[f'{matches} accept comment "{direction}[{index}]"'.lstrip()] = None
    name = _plain(f"{direction}/{policy.key}"[:NAME_LENGTH_MAX])
    return f"{name}-{_digest(policy.key, *lines)}", Chain(tuple(lines))


@lru_cache(maxsize=4096)
def profile_chain(direction: Direction, policy_chains: tuple[str, ...]) -> tuple[str, Chain]:
    """Return the chain that judges all pods which the same policies select."""
    lines = (*(f"jump {name}" for name in policy_chains), "counter drop")
    return f"{direction}-profile-{_digest(*policy_chains)}", Chain(lines)


def _matches(rule: Rule, direction: Direction) -> Iterable[str]:
    peer_side = "saddr" if direction == "ingress" else "daddr"
    peers = [(0, "")] if rule.peers is None else list(_peer_matches(rule.peers, peer_side))
    ports = [(0, "")] if rule.ports is None else [one for match in rule.ports for one in _port_matches(match)]
    for (peer_version, peer), (port_version, port) in product(peers, ports):
        # Zero is either version; a named port is an address's, and so of its version alone.
        if peer_version and port_version and peer_version != port_version:
            continue
        yield f"{peer} {port}".strip()


def _peer_matches(peers: Peers, side: str) -> Iterable[tuple[int, str]]:
    for version, keyword, found in ((4, "ip", peers.addresses_4), (6, "ip6", peers.addresses_6)):
        for scope in peers.scopes:
            yield version, f"{keyword} {side} @{scope_set(scope, version)}"
        if found == ADDRESSES_ALL[version]:
            yield version, f"meta nfproto ipv{version}"
        elif found:
            yield version, f"{keyword} {side} {_one_of([address_text(version, one) for one in found])}"


def _port_matches(match: PortMatch) -> Iterable[tuple[int, str]]:
    protocol = match.protocol.lower()
    if match.numbers == PORTS_ALL:
        yield 0, f"meta l4proto {protocol}"
        return
    if match.numbers:
        yield 0, f"{protocol} dport {_ports(match.numbers)}"
    for name in match.names:
        for version, keyword in ((4, "ip"), (6, "ip6")):
            yield version, f"{keyword} daddr . {protocol} dport @{port_set(name, match.protocol, version)}"


def _ports(found: Ranges) -> str:
    return _one_of([port_text(one) for one in found])


def _one_of(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"
