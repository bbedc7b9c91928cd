"""Read what iptables has counted: in the table nat a rule sees the first packet of each connection. Pure."""

from __future__ import annotations

import re

from net.proxy.nftables import place

_RULE = re.compile(
    r"^\[(?P<packets>\d+):\d+\] -A KUBE-(?:SERVICES(?: -d (?P<address>[^/ ]+)/\d+)|NODEPORTS) "
    r"-p (?P<protocol>\w+) .*--dport (?P<port>\d+) -j KUBE-",
    re.MULTILINE,
)


def connections(saved: str) -> dict[bytes, int]:
    """Return the connections that each front has seen, by its key, from what `iptables-save -c -t nat` says.

    The kernel counts from the last writing of a chain: where Services come and go, the counts begin anew.
    """
    counts: dict[bytes, int] = {}
    for rule in _RULE.finditer(saved):
        if packets := int(rule["packets"]):
            key = place(rule["address"] or "", rule["protocol"].upper(), int(rule["port"]))
            counts[key] = counts.get(key, 0) + packets
    return counts
