"""NodePorts: two pods of one node cannot have the same host port."""

from __future__ import annotations

import numpy as np

from control.scheduler.framework import Candidate, Verdict
from control.scheduler.snapshot import Snapshot

ANY_ADDRESS = "0.0.0.0"


def ports_clash(left: tuple[str, str, int], right: tuple[str, str, int]) -> bool:
    """Tell whether two (address, protocol, port) cannot be held at once."""
    same_address = left[0] == right[0] or ANY_ADDRESS in (left[0], right[0])
    return same_address and left[1:] == right[1:]


class NodePorts:
    """Filters by the host ports that are taken."""

    name = "NodePorts"

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out nodes on which a wanted port is taken."""
        wanted = candidate.info.host_ports
        if not wanted:
            return None
        taken = np.zeros(snapshot.size, bool)
        for info, slot in snapshot.pods():
            if any(ports_clash(one, other) for one in wanted for other in info.host_ports):
                taken[slot] = True
        return Verdict(~taken, (("node(s) didn't have free ports for the requested pod ports", taken),))
