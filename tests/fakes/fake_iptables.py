"""iptables in memory: interprets restore input as the programs do, prints saves, and traces packets.

It knows the matches and targets that kube-proxy's rules use and refuses every other word, so that a
typing error in a rule is an error here as it is in the kernel. A trace follows every branch that
chance might take and returns the set of all ends.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from net.xtables import XtablesError

BUILT_IN = {
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
MATCH_MODULES = {"comment", "tcp", "udp", "sctp", "mark", "conntrack", "addrtype", "statistic", "recent"}
VALUE_OPTIONS = {
    *("-s", "-d", "-p", "-i", "-o", "-m", "-j", "--comment", "--dport", "--mark", "--ctstate"),
    *("--dst-type", "--src-type", "--mode", "--probability", "--seconds", "--name", "--mask"),
    *("--set-xmark", "--to-destination", "--reject-with"),
}
FLAG_OPTIONS = {"--rcheck", "--reap", "--rsource", "--set", "--random-fully"}
TARGETS = {"ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "MARK", "MASQUERADE"}


@dataclass(frozen=True)
class Packet:
    """Hold the first packet of a connection and where it comes from."""

    source: str
    target: str
    port: int
    protocol: str = "tcp"
    from_node: bool = False
    """Whether a process of the node itself sent it."""
    state: str = "NEW"
    mark: int = 0
    sticky: frozenset[str] = frozenset()
    """Names of the recent lists in which the source stands."""


@dataclass(frozen=True, order=True)
class End:
    """Hold where a packet ends."""

    verdict: str
    """ACCEPT, DROP or REJECT."""
    to: str = ""
    """address:port at the end."""
    masqueraded: bool = False


@dataclass
class Rule:
    """Hold one rule: options in order, each with whether it is negated."""

    text: str
    options: list[tuple[str, str, bool]] = field(default_factory=list)

    @property
    def target(self) -> str:
        return next((value for name, value, _ in self.options if name == "-j"), "")

    def value(self, wanted: str) -> str:
        return next((value for name, value, _ in self.options if name == wanted), "")


class FakeIptables:
    """The tables of one network namespace; stands where `Xtables` is wanted."""

    def __init__(self, local_addresses: tuple[str, ...] = ("192.168.77.11", "127.0.0.1")) -> None:
        self.tables: dict[str, dict[str, list[Rule]]] = {
            table: {chain: [] for chain in chains} for table, chains in BUILT_IN.items()
        }
        self.local_addresses = local_addresses
        self.policies = dict.fromkeys(BUILT_IN["filter"], "ACCEPT")
        """What the filter table's chains do with what no rule decides."""
        self.writes: list[str] = []
        self.poison = ""
        """A text whose lines the kernel refuses."""
        self.fail_next: XtablesError | None = None

    # The door.

    async def save(self, table: str, *, counters: bool = False) -> str:
        assert not counters, "this fake counts nothing"
        lines = [f"*{table}"]
        chains = self.tables[table]
        lines += [f":{name} {'ACCEPT' if name in BUILT_IN[table] else '-'} [0:0]" for name in chains]
        lines += [f"-A {name} {rule.text}" for name, rules in chains.items() for rule in rules]
        return "\n".join([*lines, "COMMIT", ""])

    async def restore(self, text: str) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self.writes.append(text)
        self.apply(text)

    async def chain_stands(self, table: str, chain: str) -> bool:
        return chain in self.tables[table]

    # The interpreter.

    def apply(self, text: str) -> None:
        """Interpret restore --noflush input; a table changes at its COMMIT or not at all."""
        table, chains = "", {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.startswith("*"):
                    table = line[1:]
                    chains = {name: list(rules) for name, rules in self.tables[table].items()}
                elif line == "COMMIT":
                    self._check(chains)
                    self.tables[table] = chains
                elif line:
                    if self.poison and self.poison in line:
                        raise ValueError("poisoned")
                    self._line(line, table, chains)
            except (ValueError, KeyError) as error:
                raise XtablesError(f"line {number} failed: {error} [{line}]", 2) from error

    def _line(self, line: str, table: str, chains: dict[str, list[Rule]]) -> None:
        if line.startswith(":"):
            name = line[1:].split()[0]
            if len(name) > 28:
                raise ValueError(f"chain name {name!r} is too long")
            chains[name] = []
            return
        command, chain, *_ = line.split(" ")
        rest = line.split(" ", 2)[2] if line.count(" ") > 1 else ""
        if chain not in chains:
            raise ValueError(f"no chain {chain}")
        match command:
            case "-A":
                chains[chain].append(parse_rule(rest))
            case "-I":
                position, _, rule = rest.partition(" ")
                chains[chain].insert(int(position) - 1, parse_rule(rule))
            case "-D":
                wanted = shlex.split(rest)
                found = next((rule for rule in chains[chain] if shlex.split(rule.text) == wanted), None)
                if found is None:
                    raise ValueError("no such rule")
                chains[chain].remove(found)
            case "-X":
                if chain in BUILT_IN[table] or chains[chain]:
                    raise ValueError(f"chain {chain} is not empty or not ours")
                del chains[chain]
            case _:
                raise ValueError(f"unknown command {command}")

    def _check(self, chains: dict[str, list[Rule]]) -> None:
        for name, rules in chains.items():
            for rule in rules:
                if rule.target and rule.target not in TARGETS and rule.target not in chains:
                    raise ValueError(f"{name} jumps to {rule.target}, which does not exist")

    # The tracer.

    def trace(self, packet: Packet) -> set[End]:
        """Return every end that a packet may come to."""
        ends: set[End] = set()
        hook = "OUTPUT" if packet.from_node else "PREROUTING"
        for verdict, after in self._walk("nat", hook, packet):
            if verdict != "ACCEPT":
                ends.add(End(verdict))
                continue
            if packet.from_node:
                hooks = ["OUTPUT"]
            elif after.target in self.local_addresses:
                hooks = ["INPUT"]
            else:
                hooks = ["FORWARD"]
            for judged, passed in self._walk("filter", hooks[0], after):
                if judged != "ACCEPT":
                    ends.add(End(judged))
                    continue
                for last, _ in self._walk("nat", "POSTROUTING", passed):
                    ends.add(End("ACCEPT", f"{passed.target}:{passed.port}", last == "MASQUERADE"))
        return ends

    def _walk(self, table: str, chain: str, packet: Packet) -> Iterator[tuple[str, Packet]]:
        """Yield (verdict, packet) for each way through a kernel chain."""
        for verdict, after in self._chain(table, chain, packet, 0):
            policy = self.policies[chain] if table == "filter" else "ACCEPT"
            yield (policy if verdict in ("", "RETURN") else verdict), after

    def _chain(self, table: str, name: str, packet: Packet, first: int) -> Iterator[tuple[str, Packet]]:
        rules = self.tables[table][name]
        for position in range(first, len(rules)):
            rule = rules[position]
            certain = self._matches(rule, packet)
            if certain is False:
                continue
            if certain is None:  # chance: follow the way past this rule as well
                yield from self._chain(table, name, packet, position + 1)
            yield from self._target(table, name, rule, packet, position)
            return
        yield "", packet

    def _target(self, table: str, name: str, rule: Rule, packet: Packet, position: int) -> Iterator[tuple[str, Packet]]:
        target = rule.target
        if target == "MARK":
            value, _, mask = rule.value("--set-xmark").partition("/")
            mark = packet.mark & ~int(mask, 16) ^ int(value, 16)
            yield from self._chain(table, name, replace(packet, mark=mark), position + 1)
        elif target == "DNAT":
            address, _, port = rule.value("--to-destination").rpartition(":")
            yield "ACCEPT", replace(packet, target=address, port=int(port))
        elif target in TARGETS:
            yield target, packet
        elif not target:
            yield from self._chain(table, name, packet, position + 1)
        else:
            for verdict, after in self._chain(table, target, packet, 0):
                if verdict in ("", "RETURN"):
                    yield from self._chain(table, name, after, position + 1)
                else:
                    yield verdict, after

    def _matches(self, rule: Rule, packet: Packet) -> bool | None:
        """Tell whether a rule matches; None where chance decides."""
        chance = False
        for option, value, negated in rule.options:
            answer = self._option(option, value, rule, packet)
            if answer is None:
                chance = True
            elif answer is negated:
                return False
        return None if chance else True

    def _option(self, option: str, value: str, rule: Rule, packet: Packet) -> bool | None:
        match option:
            case "-s" | "-d":
                address = packet.source if option == "-s" else packet.target
                return ipaddress.ip_address(address) in ipaddress.ip_network(value)
            case "-p":
                return packet.protocol == value
            case "--dport":
                return packet.port == int(value)
            case "--mark":
                wanted, _, mask = value.partition("/")
                return packet.mark & int(mask, 16) == int(wanted, 16)
            case "--ctstate":
                return packet.state in value.split(",")
            case "--dst-type" | "--src-type":
                address = packet.target if option == "--dst-type" else packet.source
                return address in self.local_addresses
            case "--probability":
                return None
            case "--rcheck":
                return rule.value("--name") in packet.sticky
        return not _negated(option, rule)


def _negated(option: str, rule: Rule) -> bool:
    return next((negated for name, _, negated in rule.options if name == option), False)


def parse_rule(text: str) -> Rule:
    """Read a rule; every unknown word is an error."""
    rule = Rule(text)
    words = iter(shlex.split(text))
    negated = False
    for word in words:
        if word == "!":
            negated = True
            continue
        if word in FLAG_OPTIONS:
            rule.options.append((word, "", negated))
        elif word in VALUE_OPTIONS:
            value = next(words, None)
            if value is None:
                raise ValueError(f"{word} has no value")
            if word == "-m" and value not in MATCH_MODULES:
                raise ValueError(f"unknown match {value}")
            rule.options.append((word, value, negated))
        else:
            raise ValueError(f"unknown word {word}")
        negated = False
    _check_rule(rule)
    return rule


def _check_rule(rule: Rule) -> None:
    needs = {"--dport": "-p", "--to-destination": "-p", "--probability": "--mode"}
    for option, needed in needs.items():
        if rule.value(option) and not rule.value(needed):
            raise ValueError(f"{option} needs {needed}")
    if rule.value("--reject-with") == "tcp-reset" and rule.value("-p") != "tcp":
        raise ValueError("tcp-reset needs -p tcp")
    for option in ("-s", "-d"):
        if rule.value(option):
            ipaddress.ip_network(rule.value(option))
