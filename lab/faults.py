"""What may be wrong with the way from one node to another, and how that is recorded: pure, but for its file.

n1 → n2   loss 2%, delay 80 ms, rate 10 Mbit/s        a fault of one pair, in one direction
n3 → *    cut                                         one of a node with everyone, the nodes to come included
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from lab.state import Cluster, LabError

FILE_NAME = "links.json"
STATE_VERSION = 1
EVERYONE = "*"
DELAY_MAX_S = 60.0
MTU_MIN, MTU_MAX = 68, 65535
_TIME = re.compile(r"^(\d+(?:\.\d+)?)(us|ms|s)?$")
_RATE = re.compile(r"^(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)$")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one direction of a link; zeros and False where nothing is."""

    loss_percent: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    rate_bits: int = 0
    """Bits a second."""
    cut: bool = False
    mtu: int = 0
    """Larger packets vanish without a word."""

    def __str__(self) -> str:
        """Say it in the words of the command line."""
        if self.cut:
            return "cut"
        parts = []
        if self.loss_percent:
            parts.append(f"loss {self.loss_percent:g}%")
        if self.delay_s:
            parts.append(f"delay {self.delay_s * 1000:g}ms")
        if self.jitter_s:
            parts.append(f"jitter {self.jitter_s * 1000:g}ms")
        if self.rate_bits:
            parts.append(f"rate {_rate_text(self.rate_bits)}")
        if self.mtu:
            parts.append(f"mtu {self.mtu}")
        return ", ".join(parts) or "nothing"

    @property
    def is_slow(self) -> bool:
        """Whether packets are held back for a time of their own."""
        return bool(self.delay_s or self.jitter_s)


Faults = dict[tuple[str, str], Fault]
"""Faults by (from, to); one of the two may be everyone."""


def _rate_text(bits: int) -> str:
    for unit in ("gbit", "mbit", "kbit"):
        if bits >= _BITS[unit]:
            return f"{bits / _BITS[unit]:g}{unit}"
    return f"{bits}bit"


def parse_percent(text: str) -> float:
    """Read "2%" or "2"; raises LabError."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 < number <= 100:
        raise LabError(f"--loss must be more than 0% and at most 100%, such as 2%, not {text!r}")
    return number


def parse_time(text: str, option: str) -> float:
    """Read "80ms", "0.5s" or "80" (milliseconds) as seconds; raises LabError."""
    found = _TIME.match(text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or "ms"] if found else 0.0
    if not 0 < seconds <= DELAY_MAX_S:
        raise LabError(f"{option} must be a time up to {DELAY_MAX_S:g}s, such as 80ms or 0.5s, not {text!r}")
    return seconds


def parse_rate(text: str) -> int:
    """Read "10mbit" as bits a second; raises LabError."""
    found = _RATE.match(text.strip().lower())
    bits = int(float(found[1]) * _BITS[found[2]]) if found else 0
    if not 8_000 <= bits <= 100_000_000_000:
        raise LabError(f"--rate must be from 8kbit to 100gbit, such as 10mbit or 500kbit, not {text!r}")
    return bits


def parse_mtu(number: int) -> int:
    """Check an MTU; raises LabError."""
    if not MTU_MIN <= number <= MTU_MAX:
        raise LabError(f"--mtu must be from {MTU_MIN} to {MTU_MAX}, not {number}")
    return number


def with_fault(faults: Faults, source: str, target: str, fault: Fault, one_way: bool) -> Faults:
    """Return the faults with one more, in place of what was there."""
    added: Faults = {(source, target): fault}
    if not one_way:
        added[target, source] = fault
    return {**faults, **added}


def without(faults: Faults, names: tuple[str, ...]) -> Faults:
    """Return the faults without those of a pair, of a node, or (no names) without any."""
    match names:
        case ():
            return {}
        case (name,):
            return {pair: fault for pair, fault in faults.items() if name not in pair}
        case _:
            return {pair: fault for pair, fault in faults.items() if set(pair) != set(names)}


def between(faults: Faults, names: Iterable[str]) -> Faults:
    """Return the faults of each pair of these nodes; a pair's own goes before one with everyone."""
    listed = sorted(names)
    found: Faults = {}
    for source in listed:
        for target in listed:
            if source == target:
                continue
            for pair in ((source, target), (source, EVERYONE), (EVERYONE, target)):
                if pair in faults:
                    found[source, target] = faults[pair]
                    break
    return found


def load(cluster: Cluster) -> Faults:
    """Return the recorded faults; none where there is no record."""
    path = cluster.directory / FILE_NAME
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise LabError(f"{path} is damaged ({error}); forget all faults with: rm {path}") from error
    if record.get("version") != STATE_VERSION:
        raise LabError(
            f"{path} has version {record.get('version')}, this raftsman reads {STATE_VERSION}; use the one that made it"
        )
    faults: Faults = {}
    for entry in record["faults"]:
        source, target = entry.pop("from"), entry.pop("to")
        faults[source, target] = Fault(**entry)
    return faults


def save(cluster: Cluster, faults: Faults) -> None:
    """Record the faults by rename into place."""
    listed = [{"from": source, "to": target, **asdict(fault)} for (source, target), fault in sorted(faults.items())]
    path = cluster.directory / FILE_NAME
    temporary = path.with_name(f"{FILE_NAME}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"version": STATE_VERSION, "faults": listed}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
