"""The allocator of Services: takes what one write needs, and frees it when the write does not stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from control.api.meta import Object
from control.api.status import internal_error
from control.apiserver.allocation import services
from control.apiserver.allocation.addresses import Addresses
from control.apiserver.allocation.node_ports import NodePorts
from control.apiserver.allocation.ranges import AllocationError, PortBitmap
from control.apiserver.request import AdmissionRequest, Allocation


@dataclass(slots=True)
class ServiceAllocation:
    """What was taken for one write of a Service."""

    addresses: Addresses
    ports: NodePorts
    service: Object
    old: Object | None
    taken_address: str = ""
    taken_ports: set[int] = field(default_factory=set)

    async def commit(self, stored: Object) -> None:
        """Free what the old Service held and the stored one does not."""
        held = services.cluster_ip(self.old)
        if held and held != services.cluster_ip(stored):
            await self.addresses.free(held, stored)
        await self.ports.free(services.node_ports(self.old) - services.node_ports(stored))

    async def rollback(self) -> None:
        """Free what was taken."""
        if self.taken_address:
            await self.addresses.free(self.taken_address, self.service)
        await self.ports.free(self.taken_ports)


class ServiceAllocator:
    """Allocates cluster IPs and node ports; any number of API servers may do so at once."""

    def __init__(self, addresses: Addresses, ports: NodePorts, random: Random) -> None:
        self._addresses = addresses
        self._ports = ports
        self._random = random

    async def allocate(self, request: AdmissionRequest) -> Allocation | None:
        """Settle the Service in the request and take what it lacks."""
        if request.subresource or request.operation not in ("CREATE", "UPDATE") or request.object is None:
            return None
        new, old = request.object, request.old_object
        services.settle(new, old)
        if faults := services.faults(new, old):
            raise services.refusal(new, *faults)
        allocation = ServiceAllocation(self._addresses, self._ports, new, old)
        try:
            await self._take_address(allocation)
            await self._take_ports(allocation)
        except BaseException:
            await allocation.rollback()
            raise
        return allocation

    async def release(self, deleted: Object) -> None:
        """Free what a deleted Service held."""
        if address := services.cluster_ip(deleted):
            await self._addresses.free(address, deleted)
        await self._ports.free(services.node_ports(deleted))

    async def _take_address(self, allocation: ServiceAllocation) -> None:
        new = allocation.service
        if not services.needs_cluster_ip(new):
            return
        wanted, held = services.cluster_ip(new), services.cluster_ip(allocation.old)
        if wanted and wanted == held:
            return
        if wanted:
            try:
                if await self._addresses.take(wanted, new):
                    allocation.taken_address = wanted
            except AllocationError as error:
                raise services.refusal(new, services.address_cause(new["spec"]["clusterIPs"], str(error))) from error
        else:
            try:
                wanted = allocation.taken_address = await self._addresses.take_any(new)
            except AllocationError as error:
                raise internal_error(f"failed to allocate a serviceIP: {error}") from error
        new["spec"]["clusterIP"], new["spec"]["clusterIPs"] = wanted, [wanted]

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
