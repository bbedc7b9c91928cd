"""All plugins, in the order in which they run."""

from __future__ import annotations

from control.scheduler.framework import Filter, Scorer
from control.scheduler.plugins.balanced_allocation import BalancedAllocation
from control.scheduler.plugins.node_affinity import NodeAffinity, NodeName
from control.scheduler.plugins.node_ports import NodePorts
from control.scheduler.plugins.node_resources_fit import NodeResourcesFit
from control.scheduler.plugins.pod_topology_spread import PodTopologySpread
from control.scheduler.plugins.taint_toleration import NodeUnschedulable, TaintToleration


def default_filters() -> list[Filter]:
    """Return the filters, upstream's order."""
    return [
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(),
        PodTopologySpread(),
    ]


def default_scorers() -> list[Scorer]:
    """Return the scorers with upstream's weights."""
    return [TaintToleration(), NodeAffinity(), NodeResourcesFit(), PodTopologySpread(), BalancedAllocation()]
