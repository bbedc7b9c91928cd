"""Say what the kernel told of one packet in the words of an explanation: pure.

matches(explanation, …)          which packets each node shall trace, as nftables or iptables match them
lines(explanation, node, heard)  the kernel's events, each with the step of the explanation that it belongs to
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from net.explain.steps import Explanation, Step
from net.nftables.traces import Packet, Traced

TABLE_PREFIX = "raftsman-trace-"
PRIORITY = -350
"""Before connection tracking and everybody's rules."""
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter")
_HANDLE = re.compile(r"^\t\t(?P<rule>.*?) # handle (?P<handle>\d+)$")
_COUNTS = re.compile(r"counter packets \d+ bytes \d+")
_CHAIN = re.compile(r"^\tchain (?P<chain>\S+) \{")
_LOGGED = re.compile(
    r"TRACE: (?P<table>\w+):(?P<chain>[^:]+):(?P<kind>rule|return|policy):(?P<number>\d+) (?P<fields>.*)"
)


@dataclass(frozen=True, slots=True)
class Flow:
    """Say which packets are traced on one node; the first of a connection alone."""

    protocol: str
    sources: tuple[str, ...]
    """The source's address first, then those that masquerading may give it."""
    destinations: tuple[tuple[str, int], ...]

    @property
    def ip_version(self) -> int:
        """The IP version of all of them."""
        return ipaddress.ip_address(self.destinations[0][0]).version

    def has(self, packet: Packet, port: int) -> bool:
        """Tell whether a packet is the one that was sent from a port; masquerading may have changed the port."""
        is_end = (packet.destination, packet.destination_port) in self.destinations
        is_original = packet.source == self.sources[0]
        return is_end and packet.source in self.sources and (not is_original or packet.source_port == port)


@dataclass(frozen=True, slots=True)
class Line:
    """Hold one event of the kernel in words."""

    node: str
    chain: str
    """Family, table and chain."""
    rule: str
    verdict: str
    step: str = ""
    """The words of the explanation's step that names this chain."""
    packet: str = ""
    """The packet where it is told anew: at the begin of each hook."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Hold what became of the packet, and what each kernel told of it."""

    outcome: str
    answered: bool
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def flows(explanation: Explanation, source: str, masquerade: Iterable[str]) -> dict[str, Flow]:
    """Return what to trace on each node of an explanation: the packet as it comes there."""
    found: dict[str, set[tuple[str, int]]] = {}
    first = next((step.place.node for step in explanation.every_step()), "")
    # Until some node translates it, the packet is on its way to what was asked for.
    for step in explanation.steps:
        found.setdefault(step.place.node, set()).add(explanation.destination)
    for branch in explanation.branches:
        address, _, port = branch.label.rpartition(":")
        end = (address.strip("[]"), int(port))
        for step in branch.steps:
            if step.place.node != first:
                found.setdefault(step.place.node, set()).add(end)
    version = ipaddress.ip_address(source).version
    changed = [address for address in masquerade if ipaddress.ip_address(address).version == version]
    sources = tuple(dict.fromkeys((source, *changed)))
    return {
        node: Flow(explanation.protocol, sources[:1] if node == first else sources, tuple(sorted(ends)))
        for node, ends in found.items()
        if node
    }


def nft_table(name: str, flow: Flow) -> str:
    """Return a table of our own that marks the flow's packets for tracing, and does nothing else."""
    keyword = "ip6" if flow.ip_version == 6 else "ip"
    protocol = flow.protocol.lower()
    start = "tcp flags & (syn | ack) == syn " if protocol == "tcp" else ""
    sources = f"{keyword} saddr {{ {', '.join(flow.sources)} }} "
    ends = ", ".join(f"{address} . {port}" for address, port in flow.destinations)
    match = f"{sources}{start}{keyword} daddr . {protocol} dport {{ {ends} }} meta nftrace set 1"
    chains = "\n".join(
        f"chain {hook} {{\n type filter hook {hook} priority {PRIORITY}; policy accept;\n {match}\n}}"
        for hook in ("prerouting", "output")
    )
    return f"table inet {name} {{\n{chains}\n}}\n"


def iptables_rules(flow: Flow) -> list[tuple[str, str]]:
    """Return the rules of table raw that mark the flow's packets for tracing: (chain, rule)."""
    protocol = flow.protocol.lower()
    start = " --tcp-flags SYN,ACK SYN" if protocol == "tcp" else ""
    rules = []
    for address, port in flow.destinations:
        for source in flow.sources:
            match = f"-s {source} -d {address} -p {protocol} -m {protocol} --dport {port}{start}"
            rules += [(chain, f"{match} -j TRACE") for chain in ("PREROUTING", "OUTPUT")]
    return rules


def rule_texts(listed: str) -> dict[tuple[str, int], str]:
    """Read `nft -a list table`: the text of each rule by (chain, handle)."""
    found: dict[tuple[str, int], str] = {}
    chain = ""
    for line in listed.splitlines():
        if head := _CHAIN.match(line):
            chain = head["chain"]
        elif rule := _HANDLE.match(line):
            found[(chain, int(rule["handle"]))] = " ".join(_COUNTS.sub("", rule["rule"]).split())
    return found


def _steps_by_chain(explanation: Explanation, node: str, end: Packet | None) -> Mapping[str, Step]:
    """Return the steps that name each chain; of the branches, those of the endpoint that the packet went to."""
    label = _end(end.destination, end.destination_port) if end is not None else ""
    taken = [branch for branch in explanation.branches if branch.label == label] or list(explanation.branches)
    found: dict[str, Step] = {}
    for step in (*explanation.steps, *(step for branch in taken for step in branch.steps)):
        if step.place.node == node and not step.place.pod:
            for thing in step.things:
                if thing.traced_as:
                    found.setdefault(thing.traced_as, step)
    return found


def _end(address: str, port: int) -> str:
    return (f"[{address}]" if ":" in address else address) + (f":{port}" if port else "")


def _words(packet: Packet) -> str:
    source, destination = _end(packet.source, packet.source_port), _end(packet.destination, packet.destination_port)
    return f"{packet.protocol} {source} → {destination}"


def lines(
    explanation: Explanation,
    node: str,
    heard: Sequence[Traced],
    texts: Mapping[tuple[str, str, str, int], str],
    is_ours: Callable[[Packet], bool],
) -> list[Line]:
    """Return what nftables told of the first packet; `texts` has the rules by (family, table, chain, handle)."""
    first = next((event.identifier for event in heard if event.packet is not None and is_ours(event.packet)), None)
    ends = [event.packet for event in heard if event.identifier == first and event.packet is not None]
    steps = _steps_by_chain(explanation, node, ends[-1] if ends else None)
    told: list[Line] = []
    packet = shown = ""
    for event in heard:
        if event.identifier != first or (event.kind == "rule" and not event.handle):
            continue
        if event.packet is not None:
            packet = _words(event.packet)
        if event.table.startswith(TABLE_PREFIX):
            continue
        rule = texts.get((event.family, event.table, event.chain, event.handle), "") if event.handle else event.kind
        prefix = "ip6/" if event.family == "ip6" and event.table in IPTABLES_TABLES else ""
        step = steps.get(f"{prefix}{event.table} {event.chain}")
        where = f"{event.family} {event.table} {event.chain}"
        told.append(
            Line(
                node,
                where,
                rule,
                event.verdict,
                step.words if step is not None else "",
                packet if packet != shown else "",
            )
        )
        shown = packet
    return told


def logged(
    explanation: Explanation,
    node: str,
    log: Iterable[str],
    chains: Mapping[tuple[str, str], Sequence[str]],
    is_ours: Callable[[Packet], bool],
) -> list[Line]:
    """Return what the kernel's log tells of the first packet that iptables' TRACE marked."""
    told: list[Line] = []
    found = [(match, _logged_packet(match)) for text in log if (match := _LOGGED.search(text)) is not None]
    first = next((identifier for _, (identifier, packet) in found if is_ours(packet)), None)
    ours = [(match, packet) for match, (identifier, packet) in found if identifier == first and match["table"] != "raw"]
    steps = _steps_by_chain(explanation, node, ours[-1][1] if ours else None)
    before = ""
    for match, packet in ours:
        number, chain = int(match["number"]), (match["table"], match["chain"])
        rules = chains.get(chain, ())
        rule = rules[number - 1] if match["kind"] == "rule" and 0 < number <= len(rules) else match["kind"]
        step, words = steps.get(" ".join(chain)), _words(packet)
        shown = words if words != before else ""
        told.append(Line(node, " ".join(chain), rule, "", step.words if step is not None else "", shown))
        before = words
    return told


def _logged_packet(match: re.Match[str]) -> tuple[str, Packet]:
    """Return what tells a packet from others, and the packet."""
    fields = dict(word.partition("=")[::2] for word in match["fields"].split() if "=" in word)
    source_port, destination_port = int(fields.get("SPT", 0)), int(fields.get("DPT", 0))
    packet = Packet(
        fields.get("PROTO", ""), fields.get("SRC", ""), fields.get("DST", ""), source_port, destination_port
    )  # fmt: skip
    return f"{fields.get('ID', '')}/{source_port}", packet
