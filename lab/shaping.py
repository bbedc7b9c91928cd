"""Say how faults are brought about on the fabric, as input of nft, tc and the relay: pure.

A packet from n1 to n2 enters the bridge by its port n1 and leaves it by its port n2.

    cut, loss, MTU   the bridge's forward hook drops it (nft, by both ports), in the kernel
    rate             the port n2 has a class (htb) for packets from n1's MAC address, in the kernel
    delay, jitter    that class holds them back (netem); where the kernel has none, the port n2 leads them to the
                     relay (by a TAP), which paces them as well
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.faults import Fault, Faults

TABLE = "raftsman-links"
LOSS_STEPS = 100_000
TAP_PREFIX = "tap."
"""No node's name has a dot."""
UNLIMITED_BITS = 100_000_000_000
QUEUE_PACKETS_MAX = 5000
"""How many packets wait in one direction of a slow link at most."""
BACKLOG_S = 0.5
"""For how long the packets wait at most that a rate holds back."""
FRAME_BYTES_MIN = 2000


@dataclass(frozen=True, slots=True)
class Port:
    """One node on the fabric."""

    name: str
    index: int
    mac: str

    @property
    def tap(self) -> str:
        """The TAP that stands in for this port where the relay holds packets back."""
        return f"{TAP_PREFIX}{self.index}"


def needs_relay(faults: Faults, has_netem: bool) -> bool:
    """Tell whether some packets have to go through the relay."""
    return not has_netem and any(fault.is_slow and not fault.cut for fault in faults.values())


def means(fault: Fault, has_netem: bool) -> str:
    """Say what brings a fault about."""
    if fault.cut:
        return "nft"
    found = ["nft"] if fault.loss_percent or fault.mtu else []
    if fault.is_slow:
        found.append("netem" if has_netem else "relay")
    elif fault.rate_bits:
        found.append("htb")
    return " + ".join(found)


def drops(faults: Faults) -> str:
    """Return nft's input that puts our table in place of the one that stands."""
    rules = []
    for (source, target), fault in sorted(faults.items()):
        way = f'    iifname "{source}" oifname "{target}"'
        if fault.cut:
            rules.append(f"{way} drop")
            continue
        if fault.mtu:
            rules.append(f"{way} meta length > {fault.mtu} drop")
        if fault.loss_percent:
            steps = max(1, round(fault.loss_percent / 100 * LOSS_STEPS))
            rules.append(f"{way} numgen random mod {LOSS_STEPS} < {steps} drop")
    head = f"table bridge {TABLE}\ndelete table bridge {TABLE}\n"
    if not rules:
        return head
    chain = ["  chain forward {", "    type filter hook forward priority 0; policy accept;", *rules, "  }"]
    return head + "\n".join([f"table bridge {TABLE} {{", *chain, "}\n"])


def queues(ports: Mapping[str, Port], faults: Faults, has_netem: bool) -> list[str]:
    """Return tc's commands for ports that have no queues of ours."""
    lines: list[str] = []
    for target in sorted({target for _, target in faults}):
        here = {source: fault for (source, to), fault in faults.items() if to == target and not fault.cut}
        relayed = {s: f for s, f in here.items() if f.is_slow and not has_netem}
        queued = {s: f for s, f in here.items() if s not in relayed and (f.is_slow or f.rate_bits)}
        if relayed:
            lines.append(f"qdisc add dev {target} clsact")
            lines += [_redirect(ports[source].mac, target, ports[target].tap) for source in sorted(relayed)]
        if queued:
            lines.append(f"qdisc add dev {target} root handle 1: htb")
            for source, fault in sorted(queued.items()):
                lines += _class(ports[source], target, fault)
    return lines


def _redirect(mac: str, target: str, tap: str) -> str:
    matching = f"protocol all prio 1 u32 match ether src {mac}"
    return f"filter add dev {target} egress {matching} action mirred egress redirect dev {tap}"


def _class(source: Port, target: str, fault: Fault) -> list[str]:
    number = f"{source.index:x}"
    rate = fault.rate_bits or UNLIMITED_BITS
    lines = [f"class add dev {target} parent 1: classid 1:{number} htb rate {rate}bit quantum {FRAME_BYTES_MIN}"]
    if fault.is_slow:
        timing = f"delay {fault.delay_s * 1e6:.0f}us {fault.jitter_s * 1e6:.0f}us"
        lines.append(f"qdisc add dev {target} parent 1:{number} netem {timing} limit {QUEUE_PACKETS_MAX}")
    else:
        backlog = max(FRAME_BYTES_MIN * 10, int(rate * BACKLOG_S / 8))
        lines.append(f"qdisc add dev {target} parent 1:{number} bfifo limit {backlog}")
    matching = f"protocol all prio 1 u32 match ether src {source.mac}"
    return [*lines, f"filter add dev {target} parent 1: {matching} flowid 1:{number}"]


def relay_plan(ports: Mapping[str, Port], faults: Faults) -> list[dict[str, Any]]:
    """Return what the relay has to do: for each TAP the port it sends to, and the pace by the sender's MAC address."""
    plan = []
    for target in sorted({target for _, target in faults}):
        paces = {
            ports[source].mac: {"delay_s": fault.delay_s, "jitter_s": fault.jitter_s, "rate_bits": fault.rate_bits}
            for (source, to), fault in sorted(faults.items())
            if to == target and fault.is_slow and not fault.cut
        }
        if paces:
            plan.append({"tap": ports[target].tap, "port": target, "paces": paces})
    return plan
