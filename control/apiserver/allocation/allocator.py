"""The allocator of Services: takes what one write needs, and frees it when the write does not stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from control.api.meta import Object
from control.api.status import internal_error
from control.apiserver.allocation import services
from control.apiserver.allocation.addresses import Addresses
from control.apiserver.allocation.families import family_of
from control.apiserver.allocation.node_ports import NodePorts
from control.apiserver.allocation.ranges import AllocationError, PortBitmap
from control.apiserver.request import AdmissionRequest, Allocation


@dataclass(slots=True)
class ServiceAllocation:
    """What was taken for one write of a Service."""

    addresses: Mapping[str, Addresses]
    ports: NodePorts
    service: Object
    old: Object | None
    taken_addresses: list[str] = field(default_factory=list)
    taken_ports: set[int] = field(default_factory=set)

    async def commit(self, stored: Object) -> None:
        """Free what the old Service held and the stored one does not."""
        for held in set(services.cluster_ips(self.old)) - set(services.cluster_ips(stored)):
            await free(self.addresses, held, stored)
        await self.ports.free(services.node_ports(self.old) - services.node_ports(stored))

    async def rollback(self) -> None:
        """Free what was taken."""
        for taken in self.taken_addresses:
            await free(self.addresses, taken, self.service)
        await self.ports.free(self.taken_ports)


async def free(addresses: Mapping[str, Addresses], address: str, service: Object) -> None:
    """Free an address, unless the cluster has its family no more: then the repair loop finds it."""
    if found := addresses.get(family_of(address)):
        await found.free(address, service)


class ServiceAllocator:
    """Allocates cluster IPs and node ports; any number of API servers may do so at once.

    `addresses` are those of each IP family of the cluster, the default one first.
    """

    def __init__(self, addresses: Mapping[str, Addresses], ports: NodePorts, random: Random) -> None:
        self._addresses = addresses
        self._ports = ports
        self._random = random

    async def allocate(self, request: AdmissionRequest) -> Allocation | None:
        """Settle the Service in the request and take what it lacks."""
        if request.subresource or request.operation not in ("CREATE", "UPDATE") or request.object is None:
            return None
        new, old = request.object, request.old_object
        if faults := services.settle(new, old, tuple(self._addresses)):
            raise services.refusal(new, *faults)
        allocation = ServiceAllocation(self._addresses, self._ports, new, old)
        try:
            await self._take_addresses(allocation)
            await self._take_ports(allocation)
        except BaseException:
            await allocation.rollback()
            raise
        return allocation

    async def release(self, deleted: Object) -> None:
        """Free what a deleted Service held."""
        for address in services.cluster_ips(deleted):
            await free(self._addresses, address, deleted)
        await self._ports.free(services.node_ports(deleted))

    async def _take_addresses(self, allocation: ServiceAllocation) -> None:
        new = allocation.service
        if not services.needs_cluster_ip(new):
            return
        named, held = services.cluster_ips(new), services.cluster_ips(allocation.old)
        chosen: list[str] = []
        for index, family in enumerate(new["spec"]["ipFamilies"]):
            wanted = named[index] if index < len(named) else ""
            chosen.append(wanted if wanted and wanted in held else await self._take_address(allocation, family, wanted))
        new["spec"]["clusterIP"], new["spec"]["clusterIPs"] = chosen[0], chosen

    async def _take_address(self, allocation: ServiceAllocation, family: str, wanted: str) -> str:
        new, addresses = allocation.service, self._addresses[family]
        if wanted:
            try:
                if await addresses.take(wanted, new):
                    allocation.taken_addresses.append(wanted)
            except AllocationError as error:
                cause = services.address_cause(new["spec"]["clusterIPs"], wanted, str(error))
                raise services.refusal(new, cause) from error
            return wanted
        try:
            taken = await addresses.take_any(new)
        except AllocationError as error:
            raise internal_error(f"failed to allocate a serviceIP: {error}") from error
        allocation.taken_addresses.append(taken)
        return taken

    async def _take_ports(self, allocation: ServiceAllocation) -> None:
        new = allocation.service
        if not services.may_have_node_ports(new):
            return
        held = services.node_ports(allocation.old)
        named = [(where, port) for where, port in services.set_ports(new) if port not in held]
        unset = list(services.unset_ports(new))
        lacks_health_check = services.needs_health_check_port(new) and not new["spec"].get("healthCheckNodePort")
        if not named and not unset and not lacks_health_check:
            return

        def decide(bitmap: PortBitmap) -> tuple[list[int], set[int]]:
            taken: set[int] = set()
            for where, port in named:
                if port not in taken:
                    self._take_named(new, where, port, bitmap)
                    taken.add(port)
            try:
                chosen = [bitmap.choose(self._random) for _ in range(len(unset) + lacks_health_check)]
            except AllocationError as error:
                raise internal_error(f"failed to allocate a nodePort: {error}") from error
            return chosen, taken | set(chosen)

        chosen, allocation.taken_ports = await self._ports.change(decide)
        for entry, port in zip(unset, chosen, strict=False):
            entry["nodePort"] = port
        if lacks_health_check:
            new["spec"]["healthCheckNodePort"] = chosen[-1]

    def _take_named(self, service: Object, where: str, port: int, bitmap: PortBitmap) -> None:
        try:
            self._ports.range.check(port)
            if not bitmap.take(port):
                raise AllocationError("provided port is already allocated")
        except AllocationError as error:
            raise services.refusal(service, services.port_cause(where, port, str(error))) from error
