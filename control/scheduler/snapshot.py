"""The cluster in columns: one numpy array a property, one position a node.

A pod is judged against all nodes at once, so what plugins read are vectors: ``allocatable["cpu"]`` holds every node's
millicores. Positions are reused when nodes leave; ``present`` says which are in use. Pods that were given a node but
are not yet seen bound (*assumed*) count like bound ones, so that the next decision knows of them.

Worked example: two nodes of 1000 m, one pod of 300 m on the second:

    names      = ["n1", "n2"]
    allocatable["cpu"] = [1000, 1000]
    requested["cpu"]   = [   0,  300]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control.api import meta, quantity
from control.api.meta import Object

Mask = NDArray[np.bool_]
Column = NDArray[np.float64]

DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY = 200 * 1024 * 1024
"""What scoring assumes of a container that asks for nothing (upstream's non-zero requests)."""
FIRST_CAPACITY = 16


def amount(resource: str, text: str | float) -> int:
    """Return a quantity in the column's unit: millicores for cpu, whole units else."""
    return quantity.milli(text) if resource == "cpu" else quantity.whole(text)


@dataclass(frozen=True)
class PodInfo:
    """What the columns keep of a pod."""

    key: str
    namespace: str
    labels: dict[str, str]
    requests: dict[str, int]
    nonzero_cpu: int
    nonzero_memory: int
    host_ports: frozenset[tuple[str, str, int]]
    """(host address, protocol, port)"""
    terminating: bool = False


def _container_requests(container: dict[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    wanted = dict(resources.get("limits") or {}) | dict(resources.get("requests") or {})
    return {name: amount(name, value) for name, value in wanted.items()}


def _add(total: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {name: total.get(name, 0) + more.get(name, 0) for name in total | more}


def _highest(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {name: max(left.get(name, 0), right.get(name, 0)) for name in left | right}


def pod_requests(spec: dict[str, Any]) -> dict[str, int]:
    """Return what a pod asks for in all: containers and sidecars together, or its largest init step, plus overhead."""
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        total = _add(total, _container_requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        wanted = _container_requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars = _add(sidecars, wanted)
            peak = _highest(peak, sidecars)
        else:
            peak = _highest(peak, _add(sidecars, wanted))
    overhead = {name: amount(name, value) for name, value in (spec.get("overhead") or {}).items()}
    return _add(_highest(_add(total, sidecars), peak), overhead)


def _host_ports(spec: dict[str, Any]) -> Iterable[tuple[str, str, int]]:
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(port["hostPort"])


def pod_info(pod: Object) -> PodInfo:
    """Read a pod."""
    spec = pod["spec"]
    containers = spec.get("containers") or ()
    asks = [_container_requests(container) for container in containers]
    return PodInfo(
        key=meta.key(pod),
        namespace=meta.namespace(pod),
        labels=meta.labels(pod),
        requests=pod_requests(spec),
        nonzero_cpu=sum(ask.get("cpu", DEFAULT_MILLI_CPU) for ask in asks),
        nonzero_memory=sum(ask.get("memory", DEFAULT_MEMORY) for ask in asks),
        host_ports=frozenset(_host_ports(spec)),
        terminating=meta.is_being_deleted(pod),
    )


@dataclass
class Snapshot:
    """All nodes and the pods on them."""

    names: list[str] = field(default_factory=list)
    objects: list[Object | None] = field(default_factory=list)
    allocatable: dict[str, Column] = field(default_factory=dict)
    requested: dict[str, Column] = field(default_factory=dict)
    present: Mask = field(default_factory=lambda: np.zeros(0, bool))
    _slots: dict[str, int] = field(default_factory=dict)
    _pods: dict[str, tuple[PodInfo, int]] = field(default_factory=dict)
    _waiting: dict[str, dict[str, PodInfo]] = field(default_factory=dict)
    """Pods by the name of a node that is not here (yet)."""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def size(self) -> int:
        """The length of every column."""
        return len(self.names)

    @staticmethod
    def slots(mask: Mask) -> list[int]:
        """Return the positions that a mask marks."""
        marked: list[int] = np.flatnonzero(mask).tolist()
        return marked

    def slot(self, name: str) -> int | None:
        """Return a node's position."""
        return self._slots.get(name)

    def column(self, table: dict[str, Column], resource: str) -> Column:
        """Return a resource's column, zeros where no node ever named it."""
        found = table.get(resource)
        if found is None:
            found = table[resource] = np.zeros(self.size)
        return found

    def _take_slot(self, name: str) -> int:
        free = np.flatnonzero(~self.present)
        if not len(free):
            grown = max(FIRST_CAPACITY, 2 * self.size)
            extra = grown - self.size
            self.names += [""] * extra
            self.objects += [None] * extra
            self.present = np.concatenate([self.present, np.zeros(extra, bool)])
            for table in (self.allocatable, self.requested):
                for resource, column in table.items():
                    table[resource] = np.concatenate([column, np.zeros(extra)])
            free = np.flatnonzero(~self.present)
        slot = int(free[0])
        self._slots[name], self.names[slot], self.present[slot] = slot, name, True
        return slot

    def put_node(self, node: Object) -> None:
        """Add a node or take over its changes."""
        name = meta.name(node)
        known = self._slots.get(name)
        slot = self._take_slot(name) if known is None else known
        self.objects[slot] = node
        for column in self.allocatable.values():
            column[slot] = 0
        status = node.get("status") or {}
        for resource, value in (status.get("allocatable") or status.get("capacity") or {}).items():
            self.column(self.allocatable, resource)[slot] = amount(resource, value)
        if known is None:
            for info in self._waiting.pop(name, {}).values():
                self._place(info, slot)

    def remove_node(self, name: str) -> None:
        """Forget a node; its pods wait, in case it returns before they go."""
        slot = self._slots.pop(name, None)
        if slot is None:
            return
        own = [info for info, place in self._pods.values() if place == slot]
        for info in own:
            self._displace(info, slot)
        if own:
            self._waiting[name] = {info.key: info for info in own}
        self.names[slot], self.objects[slot], self.present[slot] = "", None, False
        for table in (self.allocatable, self.requested):
            for column in table.values():
                column[slot] = 0

    def put_pod(self, info: PodInfo, node_name: str) -> None:
        """Count a pod on a node, assumed or seen; a pod counts once."""
        self.remove_pod(info.key)
        slot = self._slots.get(node_name)
        if slot is None:
            self._waiting.setdefault(node_name, {})[info.key] = info
        else:
            self._place(info, slot)

    def remove_pod(self, key: str) -> None:
        """Count a pod no more."""
        placed = self._pods.get(key)
        if placed is not None:
            self._displace(*placed)
        for name, waiting in list(self._waiting.items()):
            if waiting.pop(key, None) is not None and not waiting:
                del self._waiting[name]

    def _place(self, info: PodInfo, slot: int) -> None:
        self._pods[info.key] = (info, slot)
        self._count(info, slot, 1)

    def _displace(self, info: PodInfo, slot: int) -> None:
        del self._pods[info.key]
        self._count(info, slot, -1)

    def _count(self, info: PodInfo, slot: int, sign: int) -> None:
        for resource, value in info.requests.items():
            self.column(self.requested, resource)[slot] += sign * value
        self.column(self.requested, "pods")[slot] += sign
        self.column(self.requested, "nonzero-cpu")[slot] += sign * info.nonzero_cpu
        self.column(self.requested, "nonzero-memory")[slot] += sign * info.nonzero_memory

    def pods(self) -> Iterable[tuple[PodInfo, int]]:
        """Yield every counted pod with its node's position."""
        return self._pods.values()
