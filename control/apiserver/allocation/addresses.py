"""Takes and frees cluster IPs: an address is a Service's own when its IPAddress object was created."""

from __future__ import annotations

import logging
from random import Random

from control.api.meta import Object, name, uid
from control.api.resources import IP_ADDRESSES
from control.api.status import ApiError
from control.apiserver.allocation.families import canonical
from control.apiserver.allocation.ranges import AddressRange, AllocationError
from control.apiserver.allocation.services import ip_address_object, is_held_by
from control.client.client import Client, DeleteOptions

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 512
"""Taken addresses that are met before the range counts as full; each costs one request."""


class Addresses:
    """The cluster IPs of one range."""

    def __init__(self, client: Client, addresses: AddressRange, random: Random) -> None:
        self._client = client
        self._range = addresses
        self._random = random

    async def take(self, address: str, service: Object) -> bool:
        """Take a named address; False when this Service held it before. AllocationError when it cannot be had."""
        self._range.check(address)
        try:
            await self._client.create(IP_ADDRESSES, ip_address_object(address, service))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            if await self._is_held_by(address, service):
                return False
            raise AllocationError("provided IP is already allocated") from error
        return True

    async def take_any(self, service: Object) -> str:
        """Take some free address."""
        for attempt, address in enumerate(self._range.candidates(self._random)):
            if attempt >= ATTEMPTS_MAX:
                break
            try:
                await self._client.create(IP_ADDRESSES, ip_address_object(address, service))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
                continue
            return address
        raise AllocationError("range is full")

    async def free(self, address: str, service: Object) -> None:
        """Free an address if it is this Service's; the repair loop finds what fails here."""
        try:
            found = await self._client.get(IP_ADDRESSES, canonical(address))
            if is_held_by(found, service):
                await self._client.delete(IP_ADDRESSES, name(found), options=DeleteOptions(uid=uid(found)))
        except ApiError as error:
            if error.code != 404:
                logger.warning("cluster IP not freed address=%s: %s", address, error)

    async def _is_held_by(self, address: str, service: Object) -> bool:
        try:
            return is_held_by(await self._client.get(IP_ADDRESSES, canonical(address)), service)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
