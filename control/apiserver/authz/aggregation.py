"""Aggregated ClusterRoles: their rules follow the roles that their selectors choose.

Upstream runs this as a controller; here the API server does, since it holds all roles in memory already. Several API
servers write the same rules, so that whoever comes second finds nothing to do.
"""

from __future__ import annotations

import asyncio
import logging

from control.api.meta import Object, name
from control.api.resources import CLUSTER_ROLES
from control.api.status import ApiError
from control.apiserver.authz.bootstrap import aggregate
from control.apiserver.request import Lookup
from control.client.client import Client

logger = logging.getLogger(__name__)

RETRY_S = 0.5


class RoleAggregation:
    """Keeps the rules of aggregated roles."""

    def __init__(self, lookup: Lookup, client: Client) -> None:
        self._lookup = lookup
        self._client = client
        self._changed = asyncio.Event()
        self.following = False

    def follow(self) -> None:
        """Look at the roles again whenever one of them changes."""
        self.following = True
        self._lookup.subscribe(CLUSTER_ROLES, lambda _old, _new: self._changed.set())

    async def run(self) -> None:
        """Write what differs until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.once()
            except ApiError as error:
                logger.info("aggregated roles are tried again: %s", error)
                await asyncio.sleep(RETRY_S)
                self._changed.set()

    async def once(self) -> None:
        """Write the rules of every aggregated role whose sources have others."""
        roles = list(self._lookup.list(CLUSTER_ROLES))
        for role in roles:
            rules = aggregate(role, roles)
            if rules is not None and rules != (role.get("rules") or []):
                changed: Object = {**role, "rules": rules}
                await self._client.update(CLUSTER_ROLES, changed)
                logger.info("aggregated role written name=%s rules=%d", name(role), len(rules))
