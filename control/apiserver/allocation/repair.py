"""The repair loop: what crashed writes leaked is freed, and what Services hold is recorded again.

A write takes before it stores, so a value without a Service may belong to a write under way: it is freed only
when it was seen so in several rounds (ports), or is older than a minute (addresses).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from control.api.meta import Object, key, name, uid
from control.api.resources import IP_ADDRESSES, SERVICES, Resource
from control.api.status import ApiError
from control.apiserver.allocation import services
from control.apiserver.allocation.families import canonical
from control.apiserver.allocation.node_ports import NodePorts
from control.apiserver.allocation.ranges import PortBitmap
from control.client.client import Client, DeleteOptions, ListOptions

logger = logging.getLogger(__name__)

INTERVAL_S = 180.0
ROUNDS_BEFORE_FREEING = 3
ADDRESS_AGE_MIN_S = 60.0
_PAGE = ListOptions(limit=500)


@dataclass(frozen=True, slots=True)
class AddressRepairs:
    """IPAddress objects to create, and to delete."""

    missing: tuple[Object, ...]
    leaked: tuple[Object, ...]


def address_repairs(all_services: Iterable[Object], addresses: Iterable[Object], now: datetime) -> AddressRepairs:
    """Compare the Services' cluster IPs with the IPAddress objects."""
    holders = {canonical(ip): service for service in all_services for ip in services.cluster_ips(service)}
    known = {name(address): address for address in addresses}
    missing = [services.ip_address_object(ip, service) for ip, service in holders.items() if ip not in known]
    leaked = [
        address
        for ip, address in known.items()
        if address.get("spec", {}).get("parentRef", {}).get("resource") == "services"
        and (ip not in holders or not services.is_held_by(address, holders[ip]))
        and _age_s(address, now) > ADDRESS_AGE_MIN_S
    ]
    return AddressRepairs(tuple(missing), tuple(leaked))


def repair_ports(bitmap: PortBitmap, used: Iterable[int], suspects: Mapping[int, int]) -> dict[int, int]:
    """Correct the bitmap; return how often each port without a Service has been seen by now."""
    held = set(used)
    for port in held:
        bitmap.take(port)
    seen: dict[int, int] = {}
    for port in list(bitmap.taken()):
        if port in held:
            continue
        rounds = suspects.get(port, 0) + 1
        if rounds >= ROUNDS_BEFORE_FREEING:
            bitmap.free(port)
        else:
            seen[port] = rounds
    return seen


class Repair:
    """Runs the repairs of one API server; several of them do no harm to each other."""

    def __init__(self, client: Client, ports: NodePorts, interval_s: float = INTERVAL_S) -> None:
        self._client = client
        self._ports = ports
        self._interval_s = interval_s
        self._suspects: dict[int, int] = {}

    async def run(self) -> None:
        """Repair now and then until cancelled."""
        while True:
            try:
                await self.once(datetime.now(UTC))
            except ApiError as error:
                logger.warning("repair of service addresses and ports failed: %s", error)
            await asyncio.sleep(self._interval_s)

    async def once(self, now: datetime) -> None:
        """One round."""
        # Addresses first: one made in between belongs to a Service that the later list shows, or is young.
        addresses = await self._all(IP_ADDRESSES)
        all_services = await self._all(SERVICES)
        repairs = address_repairs(all_services, addresses, now)
        for address in repairs.missing:
            if await self._done_by_us(self._client.create(IP_ADDRESSES, address)):
                logger.warning("cluster IP was not recorded address=%s", name(address))
        for address in repairs.leaked:
            options = DeleteOptions(uid=uid(address))
            if await self._done_by_us(self._client.delete(IP_ADDRESSES, name(address), options=options)):
                logger.warning("cluster IP had no service address=%s", name(address))
        used = self._used_ports(all_services)
        self._suspects = await self._ports.change(lambda bitmap: repair_ports(bitmap, used, self._suspects))

    def _used_ports(self, all_services: Iterable[Object]) -> list[int]:
        used = []
        for service in all_services:
            for port in services.node_ports(service):
                if self._ports.range.first <= port <= self._ports.range.last:
                    used.append(port)
                else:
                    logger.warning("node port is outside of the range port=%d service=%s", port, key(service))
        return used

    async def _done_by_us(self, call: Awaitable[Object]) -> bool:
        """Await a repair; False when somebody else had done it already."""
        try:
            await call
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            return False
        return True

    async def _all(self, resource: Resource) -> list[Object]:
        found: list[Object] = []
        page = await self._client.list(resource, options=_PAGE)
        found.extend(page.items)
        while page.continue_token:
            page = await self._client.list(
                resource, options=ListOptions(limit=_PAGE.limit, continue_token=page.continue_token)
            )
            found.extend(page.items)
        return found


def _age_s(obj: Object, now: datetime) -> float:
    created = obj.get("metadata", {}).get("creationTimestamp")
    return (now - datetime.fromisoformat(created)).total_seconds() if created else 0.0
