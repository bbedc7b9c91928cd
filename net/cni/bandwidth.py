"""Limit how fast a pod sends and receives (kubernetes.io/ingress-bandwidth, egress-bandwidth): pure.

A token bucket (TBF) stands at the sending end of each direction: what the pod receives waits at the node's
end of its cable, what it sends waits at its own. Both go with the cable. A pod that may configure its
network (NET_ADMIN) can lift its own limit; the one of what it receives it cannot.

A runtime asks for bursts of half a gigabyte (containerd always says 2^32 - 1 bits), which would make a limit
felt after minutes; a burst is cut to what the rate gives in a tenth of a second.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from net.cni import spec
from net.cni.spec import CniError
from net.messages import NLM_F_CREATE, NLM_F_REPLACE, Message, attribute

RTM_NEWQDISC = 36
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TC_H_ROOT = 0xFFFFFFFF
TC_LINKLAYER_ETHERNET = 1
HANDLE = 1 << 16
BURST_S = 0.1
BURST_BYTES_MIN = 32_768
QUEUE_S = 0.05
"""How long a packet may wait before the next one is dropped."""
QUEUE_BYTES_MIN = 65_536
RATE_BITS_MIN, RATE_BITS_MAX = 1_000, 10**15
"""Kubernetes' own bounds: 1k and 1P."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Hold one direction's limit."""

    rate_bits: int
    """Bits a second."""
    burst_bits: int = 0
    """What may come at once; chosen by the rate where 0."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Hold a pod's limits, as seen by the pod; None is no limit."""

    ingress: Limit | None = None
    egress: Limit | None = None


UNLIMITED = Bandwidth()


def parse(asked: Any) -> Bandwidth:
    """Read a runtime's bandwidth, keys in lower case; CniError where it makes no sense."""
    if not isinstance(asked or {}, dict):
        raise CniError(spec.INVALID_CONFIGURATION, "bandwidth makes no sense", "it is not a JSON object")
    return Bandwidth(_limit(asked or {}, "ingress"), _limit(asked or {}, "egress"))


def _limit(asked: dict[str, Any], direction: str) -> Limit | None:
    rate, burst = asked.get(f"{direction}rate") or 0, asked.get(f"{direction}burst") or 0
    if not isinstance(rate, int) or not isinstance(burst, int) or burst < 0:
        raise CniError(spec.INVALID_CONFIGURATION, f"{direction}Rate and {direction}Burst must be numbers of bits")
    if not rate:
        return None
    if not RATE_BITS_MIN <= rate <= RATE_BITS_MAX:
        told = f"{direction}Rate {rate} is not between {RATE_BITS_MIN} and {RATE_BITS_MAX} bits a second"
        raise CniError(spec.INVALID_CONFIGURATION, told)
    return Limit(rate, burst)


def limit_link(index: int, limit: Limit) -> Message:
    """Return the request that limits what leaves by a link."""
    rate = limit.rate_bits // 8
    burst = max(int(rate * BURST_S), BURST_BYTES_MIN)
    if limit.burst_bits:
        burst = max(min(burst, limit.burst_bits // 8), BURST_BYTES_MIN)
    queue = max(int(rate * QUEUE_S), QUEUE_BYTES_MIN) + burst
    ratespec = struct.pack("=BBHhHI", 0, TC_LINKLAYER_ETHERNET, 0, -1, 0, min(rate, 0xFFFFFFFF))
    parameters = ratespec + bytes(12) + struct.pack("=III", min(queue, 0xFFFFFFFF), 0, 0)
    options = attribute(TCA_TBF_PARMS, parameters) + attribute(TCA_TBF_BURST, struct.pack("=I", burst))
    if rate > 0xFFFFFFFF:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = struct.pack("=BBHiIII", 0, 0, 0, index, HANDLE, TC_H_ROOT, 0)
    body += attribute(TCA_KIND, b"tbf\0") + attribute(TCA_OPTIONS, options)
    about = f"limit link {index} to {limit.rate_bits} bits a second"
    return Message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body, about)
