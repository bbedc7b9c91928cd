"""Render the rule model as kube-proxy's iptables chains: pure text, in iptables-save's own form.

The chains, their names, hashes and comments are kube-proxy's, so that people, dashboards and the
original itself find what they know. Rules are written exactly as iptables-save prints them; thus a
restart compares what is wanted with what stands, and writes nothing where both are the same.

    nat     PREROUTING, OUTPUT → KUBE-SERVICES → KUBE-SVC-<hash> → KUBE-SEP-<hash> → DNAT
            KUBE-SERVICES (last) → KUBE-NODEPORTS → KUBE-EXT-<hash> → KUBE-SVC-… or KUBE-SVL-…
            POSTROUTING → KUBE-POSTROUTING → MASQUERADE what KUBE-MARK-MASQ marked
    filter  what has no endpoints is refused; what may be forwarded is let through
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from net.chains import Chains, Jump, Jumps, Tables
from net.proxy.rules import Front, FrontKind, PortRules, RuleSet, RuleSettings, Verdict
from net.proxy.services import Endpoint, PortName

CANARY = "KUBE-PROXY-CANARY"
COMMENTED_ENDPOINTS_MAX = 1000
"""kube-proxy's own limit, beyond which rules of single endpoints bear no comments."""
NEEDS_ESCAPE = re.compile(r"[\"'\\]")
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
NO_QUOTES_NEEDED = re.compile(r"[-_0-9A-Za-z]+\Z")


def chain_hash(*parts: str) -> str:
    """Return kube-proxy's hash of what a chain is for."""
    bits = int.from_bytes(hashlib.sha256("".join(parts).encode()).digest()[:10], "big")
    # Sixteen digits of base 32, in pairs: base64.b32encode takes three times as long, for each endpoint.
    return (
        _PAIRS[bits >> 70] + _PAIRS[bits >> 60 & 1023] + _PAIRS[bits >> 50 & 1023] + _PAIRS[bits >> 40 & 1023]
        + _PAIRS[bits >> 30 & 1023] + _PAIRS[bits >> 20 & 1023] + _PAIRS[bits >> 10 & 1023] + _PAIRS[bits & 1023]
    )  # fmt: skip


def service_chain(kind: str, name: PortName) -> str:
    """Return the chain of a service port; kind is SVC, SVL, EXT or FW."""
    return f"KUBE-{kind}-{chain_hash(str(name), name.protocol.lower())}"


def endpoint_chain(name: PortName, endpoint: Endpoint) -> str:
    """Return the chain of one endpoint of a service port."""
    return f"KUBE-SEP-{chain_hash(str(name), name.protocol.lower(), str(endpoint))}"


def comment(text: str) -> str:
    """Return a comment match, quoted as iptables-save quotes."""
    if not NO_QUOTES_NEEDED.match(text):
        if NEEDS_ESCAPE.search(text):
            text = NEEDS_ESCAPE.sub(r"\\\g<0>", text)
        text = f'"{text}"'
    return f"-m comment --comment {text}"


def host(address: str) -> str:
    """Return an address or network as iptables-save prints it, with its prefix length."""
    if "/" not in address and ":" not in address:
        return address + "/32"  # nearly all of them, and ten times faster than the library
    return _network(address)


@lru_cache(maxsize=1024)
def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def probability(count: int) -> str:
    """Return 1/count as the kernel keeps it: in 31 bits."""
    return f"{round(0x80000000 / count) / 0x80000000:.11f}"


@dataclass(frozen=True, slots=True)
class PortText:
    """Hold the rules that one service port adds to the shared chains, and the chains of its own."""

    services: tuple[str, ...] = ()
    node_ports: tuple[str, ...] = ()
    filter_services: tuple[str, ...] = ()
    filter_external: tuple[str, ...] = ()
    filter_node_ports: tuple[str, ...] = ()
    filter_firewall: tuple[str, ...] = ()
    chains: Chains = field(default_factory=dict)


def _to(front: Front, protocol: str) -> tuple[str, str]:
    """Return how a rule matches a front: what stands before the comment, and after it."""
    return f"-d {host(front.address)} -p {protocol}", f"-m {protocol} --dport {front.port}"


def render_port(rules: PortRules, settings: RuleSettings, sparing: bool = False) -> PortText:
    """Render one service port; sparing leaves the comments of endpoints away, which are most of a large table."""
    name, protocol = str(rules.port.name), rules.port.protocol
    external_chain = service_chain("EXT", rules.port.name)
    balancer_chain = service_chain("FW", rules.port.name) if rules.firewalled else external_chain
    services: list[str] = []
    node_ports: list[str] = []
    filter_services: list[str] = []
    filter_external: list[str] = []
    firewall: list[str] = []
    for front in rules.fronts:
        if front.kind is FrontKind.NODE_PORT:
            match = f"-m {protocol} --dport {front.port}"
            if rules.has_endpoints:
                node_ports.append(f"-p {protocol} {comment(name)} {match} -j {external_chain}")
            if stop := _stop(rules.external, name, protocol, settings):
                told, target = stop
                filter_external.append(f"-p {protocol} {told} -m addrtype --dst-type LOCAL {match} -j {target}")
            continue
        to, match = _to(front, protocol)
        about = comment(f"{name} {front.kind.value}")
        if front.kind is FrontKind.CLUSTER_IP:
            if stop := _stop(rules.internal, name, protocol, settings):
                filter_services.append(f"{to} {stop[0]} {match} -j {stop[1]}")
            else:
                services.append(f"{to} {about} {match} -j {_pool_chain(rules, rules.internal)}")
            continue
        if rules.has_endpoints:
            chain = balancer_chain if front.kind is FrontKind.LOAD_BALANCER else external_chain
            services.append(f"{to} {about} {match} -j {chain}")
        if front.kind is FrontKind.LOAD_BALANCER and rules.firewalled:
            told = comment(f"{name} traffic not accepted by {balancer_chain}")
            firewall.append(f"{to} {told} {match} -j DROP")
        if stop := _stop(rules.external, name, protocol, settings):
            filter_external.append(f"{to} {stop[0]} {match} -j {stop[1]}")
    return PortText(
        services=tuple(services),
        node_ports=tuple(node_ports),
        filter_services=tuple(filter_services),
        filter_external=tuple(filter_external),
        filter_node_ports=_health_check(rules),
        filter_firewall=tuple(firewall),
        chains=_own_chains(rules, settings, sparing),
    )


def _pool_chain(rules: PortRules, verdict: Verdict) -> str:
    return service_chain("SVL" if verdict is Verdict.LOCAL else "SVC", rules.port.name)


def _stop(verdict: Verdict, name: str, protocol: str, settings: RuleSettings) -> tuple[str, str] | None:
    """Return comment and target where traffic is refused; None where it is served.

    TCP is refused by a reset: the kernel limits the rate of ICMP errors to each peer, and a client
    that misses one waits a second before it tries again.
    """
    if verdict is Verdict.REJECT:
        unreachable = "icmp6-port-unreachable" if settings.ip_version == 6 else "icmp-port-unreachable"
        how = "tcp-reset" if protocol == "tcp" else unreachable
        return comment(f"{name} has no endpoints"), f"REJECT --reject-with {how}"
    if verdict is Verdict.DROP:
        return comment(f"{name} has no local endpoints"), "DROP"
    return None


def _health_check(rules: PortRules) -> tuple[str, ...]:
    port = rules.port.health_check_node_port
    if not port:
        return ()
    return (f"-p tcp {comment(f'{rules.port.name} health check node port')} -m tcp --dport {port} -j ACCEPT",)


def _own_chains(rules: PortRules, settings: RuleSettings, sparing: bool) -> Chains:
    chains: Chains = {}
    if not rules.has_endpoints:
        return chains
    name = rules.port.name
    ends = {endpoint: endpoint_chain(name, endpoint) for endpoint in rules.reachable}
    if rules.cluster:
        chains[service_chain("SVC", name)] = _pool(rules, settings, ends, sparing, Verdict.CLUSTER)
    if rules.local:
        chains[service_chain("SVL", name)] = _pool(rules, settings, ends, sparing, Verdict.LOCAL)
    if rules.port.externally_accessible:
        chains[service_chain("EXT", name)] = _external(rules, settings)
    if rules.firewalled:
        chains[service_chain("FW", name)] = _firewall(rules)
    for endpoint, chain in ends.items():
        chains[chain] = _endpoint(rules, endpoint, chain, sparing)
    return chains


def _pool(
    rules: PortRules, settings: RuleSettings, ends: dict[Endpoint, str], sparing: bool, verdict: Verdict
) -> tuple[str, ...]:
    port = rules.port
    pool = rules.local if verdict is Verdict.LOCAL else rules.cluster
    out: list[str] = []
    if rules.internal is verdict:
        to, match = _to(rules.fronts[0], port.protocol)
        told = comment(f"{port.name} cluster IP")
        if settings.masquerade_all:
            out.append(f"{to} {told} {match} -j KUBE-MARK-MASQ")
        else:
            outside = " ".join(f"! -s {host(cidr)}" for cidr in settings.cluster_cidrs[:1])
            if outside:
                out.append(f"{outside} {to} {told} {match} -j KUBE-MARK-MASQ")
    chains = [(ends[endpoint], "" if sparing else f"{comment(f'{port.name} -> {endpoint}')} ") for endpoint in pool]
    if port.affinity_timeout_s:
        out += [
            f"{told}-m recent --rcheck --seconds {port.affinity_timeout_s} --reap --name {chain}"
            f" --mask {_full_mask(pool[0])} --rsource -j {chain}"
            for chain, told in chains
        ]
    for position, (chain, told) in enumerate(chains):
        left = len(chains) - position
        chance = f"-m statistic --mode random --probability {probability(left)} " if left > 1 else ""
        out.append(f"{told}{chance}-j {chain}")
    return tuple(out)


def _full_mask(endpoint: Endpoint) -> str:
    return "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if ":" in endpoint.ip else "255.255.255.255"


def _endpoint(rules: PortRules, endpoint: Endpoint, chain: str, sparing: bool) -> tuple[str, ...]:
    protocol, told = rules.port.protocol, "" if sparing else f"{comment(str(rules.port.name))} "
    recent = ""
    if rules.port.affinity_timeout_s:
        recent = f"-m recent --set --name {chain} --mask {_full_mask(endpoint)} --rsource "
    return (
        f"-s {host(endpoint.ip)} {told}-j KUBE-MARK-MASQ",
        f"-p {protocol} {told}{recent}-m {protocol} -j DNAT --to-destination {endpoint}",
    )


def _external(rules: PortRules, settings: RuleSettings) -> tuple[str, ...]:
    name = rules.port.name
    out: list[str] = []
    if not rules.port.external_local:
        out.append(f"{comment(f'masquerade traffic for {name} external destinations')} -j KUBE-MARK-MASQ")
    elif rules.short_circuited:
        cluster = service_chain("SVC", name)
        pods = comment(f"pod traffic for {name} external destinations")
        out += [f"-s {host(cidr)} {pods} -j {cluster}" for cidr in settings.short_circuit_cidrs]
        local = "-m addrtype --src-type LOCAL"
        masquerade = comment(f"masquerade LOCAL traffic for {name} external destinations")
        route = comment(f"route LOCAL traffic for {name} external destinations")
        out += [f"{masquerade} {local} -j KUBE-MARK-MASQ", f"{route} {local} -j {cluster}"]
    if rules.external in (Verdict.CLUSTER, Verdict.LOCAL):
        out.append(f"-j {_pool_chain(rules, rules.external)}")
    return tuple(out)


def _firewall(rules: PortRules) -> tuple[str, ...]:
    name, chain = rules.port.name, service_chain("EXT", rules.port.name)
    told = comment(f"{name} loadbalancer IP")
    out = [f"-s {host(source)} {told} -j {chain}" for source in rules.allowed_sources]
    out.append(comment(f"other traffic to {name} will be dropped by KUBE-PROXY-FIREWALL"))
    return tuple(out)


def assemble(settings: RuleSettings, ports: Iterable[PortText]) -> Tables:
    """Join the ports' texts with the chains that all share."""
    texts = list(ports)
    mark = f"0x{1 << settings.masquerade_bit:x}"
    nat: Chains = {
        "KUBE-SERVICES": (
            *(rule for text in texts for rule in text.services),
            *_node_port_jumps(settings),
        ),
        "KUBE-NODEPORTS": tuple(rule for text in texts for rule in text.node_ports),
        "KUBE-POSTROUTING": (
            f"-m mark ! --mark {mark}/{mark} -j RETURN",
            f"-j MARK --set-xmark {mark}/0x0",
            f"{comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        ),
        "KUBE-MARK-MASQ": (f"-j MARK --set-xmark {mark}/{mark}",),
        CANARY: (),
    }
    for text in texts:
        nat.update(text.chains)
    invalid = () if settings.conntrack_be_liberal else ("-m conntrack --ctstate INVALID -j DROP",)
    forward = comment("kubernetes forwarding rules")
    tracked = comment("kubernetes forwarding conntrack rule")
    tables: Tables = {
        "nat": nat,
        "filter": {
            "KUBE-SERVICES": tuple(rule for text in texts for rule in text.filter_services),
            "KUBE-EXTERNAL-SERVICES": tuple(rule for text in texts for rule in text.filter_external),
            "KUBE-NODEPORTS": tuple(rule for text in texts for rule in text.filter_node_ports),
            "KUBE-PROXY-FIREWALL": tuple(rule for text in texts for rule in text.filter_firewall),
            "KUBE-FORWARD": (
                *invalid,
                f"{forward} -m mark --mark {mark}/{mark} -j ACCEPT",
                f"{tracked} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ),
            CANARY: (),
        },
        "mangle": {CANARY: ()},
    }
    return tables


def _node_port_jumps(settings: RuleSettings) -> tuple[str, ...]:
    told = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
    if settings.node_port_cidrs:
        return tuple(f"-d {host(address)} {told} -j KUBE-NODEPORTS" for address in settings.node_addresses)
    # Node ports on loopback would need route_localnet, which lets neighbours reach 127.0.0.1 (CVE-2020-8558).
    loopback = "::1/128" if settings.ip_version == 6 else "127.0.0.0/8"
    return (f"! -d {loopback} {told} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",)


def render(rules: RuleSet) -> Tables:
    """Render the rules of the whole node."""
    sparing = is_large(rules.ports)
    return assemble(rules.settings, [render_port(port, rules.settings, sparing) for port in rules.ports])


def is_large(ports: Iterable[PortRules]) -> bool:
    """Tell whether there are so many endpoints that a comment on each costs more than it tells.

    A comment takes 288 bytes of kernel memory, more than all else of a rule, and is copied at each change.
    """
    return sum(len(port.cluster) + len(port.local) for port in ports) > COMMENTED_ENDPOINTS_MAX


NEW = "-m conntrack --ctstate NEW"
_FIREWALL = f"{NEW} {comment('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL"
_PORTALS = comment("kubernetes service portals")
_EXTERNAL = f"{NEW} {comment('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES"
JUMPS: Jumps = {
    "nat": (
        Jump("PREROUTING", f"{_PORTALS} -j KUBE-SERVICES"),
        Jump("OUTPUT", f"{_PORTALS} -j KUBE-SERVICES"),
        Jump("POSTROUTING", f"{comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING"),
    ),
    "filter": (
        Jump("INPUT", _FIREWALL),
        Jump("INPUT", f"{comment('kubernetes health check service ports')} -j KUBE-NODEPORTS"),
        Jump("INPUT", _EXTERNAL),
        Jump("FORWARD", _FIREWALL),
        Jump("FORWARD", f"{comment('kubernetes forwarding rules')} -j KUBE-FORWARD"),
        Jump("FORWARD", f"{NEW} {_PORTALS} -j KUBE-SERVICES"),
        Jump("FORWARD", _EXTERNAL),
        Jump("OUTPUT", _FIREWALL),
        Jump("OUTPUT", f"{NEW} {_PORTALS} -j KUBE-SERVICES"),
        # Not upstream's: a node's own processes learn at once, too, that a load balancer has nobody behind it.
        Jump("OUTPUT", _EXTERNAL),
    ),
}
"""The rules that lead from the kernel's chains to ours: (chain, rule), each put first once."""
