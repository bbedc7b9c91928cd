"""ResourceQuota: no write takes more of a namespace than its quotas leave.

A write is charged to the quotas' status before it is stored, by compare-and-swap, so that any number of API servers
may admit at once and never too much. What is charged and then not stored is given back; what gets lost on the way (a
server that dies) is found by the quota controller, which counts anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from random import Random

from control.api import status
from control.api.amounts import Amounts
from control.api.meta import Object, name, namespace, resource_version
from control.api.quota import charges, usage
from control.api.quota.ledger import Charge, Ledger
from control.api.resources import NAMESPACES, RESOURCE_QUOTAS
from control.api.status import ApiError
from control.apiserver.admission.limited_resources import Limited, uncovered
from control.apiserver.admission.plugin import Plugin, denied
from control.apiserver.group_commit import GroupCommit, Turn
from control.apiserver.request import AdmissionRequest, Lookup
from control.client.client import Client

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 24
PAUSE_S_MAX = 0.1
EVALUATION_S_MAX = 10.0
_CHANGED: dict[usage.Name, frozenset[tuple[str, str]]] = {
    usage.PODS: frozenset({("CREATE", ""), ("UPDATE", "resize")}),
    usage.SERVICES: frozenset({("CREATE", ""), ("UPDATE", "")}),
    usage.CLAIMS: frozenset({("CREATE", ""), ("UPDATE", ""), ("UPDATE", "status")}),
    usage.RESOURCE_CLAIMS: frozenset({("CREATE", ""), ("UPDATE", "")}),
}
"""Operations and subresources that may change what an object counts for; of all other kinds only creation does."""
_CREATION = frozenset({("CREATE", "")})


def utc_now() -> datetime:
    """Return the wall clock's time."""
    return datetime.now(UTC)


def write_of(request: AdmissionRequest) -> charges.Write | None:
    """Return the request as quotas see it; None where it changes nothing that is counted."""
    kind = (request.resource.group, request.resource.plural)
    if request.object is None or (request.operation, request.subresource) not in _CHANGED.get(kind, _CREATION):
        return None
    if kind in usage.IGNORED or kind == (NAMESPACES.group, NAMESPACES.plural):
        return None
    tells = request.subresource == "status"
    if tells and not usage.needs_recount(request.object, request.old_object or {}):
        return None
    return charges.write_of(kind, request.object, request.old_object, bounded=not tells)


class ResourceQuota(Plugin):
    """Charges writes to the quotas of their namespace."""

    def __init__(
        self,
        lookup: Lookup,
        client: Client,
        random: Random,
        now: Callable[[], datetime] = utc_now,
        limited: Sequence[Limited] = (),
    ) -> None:
        self._lookup = lookup
        self._limited = limited
        self._client = client
        self._random = random
        self._now = now
        self._quotas: dict[str, dict[str, Object]] = {}
        """By namespace and name; what we wrote ourselves stands here before the watch tells it."""
        self._lines: dict[str, GroupCommit[Charge]] = {}

    async def follow(self) -> None:
        """Keep the quotas at hand from now on."""
        self._lookup.subscribe(RESOURCE_QUOTAS, self._changed)
        await self._lookup.warm(RESOURCE_QUOTAS)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            self._learn(new)
        elif old is not None:
            space = namespace(old)
            held = self._quotas.get(space, {})
            held.pop(name(old), None)
            if not held:
                self._quotas.pop(space, None)
                self._lines.pop(space, None)

    def _learn(self, quota: Object) -> None:
        held = self._quotas.setdefault(namespace(quota), {})
        known = held.get(name(quota))
        if known is None or int(resource_version(known) or 0) <= int(resource_version(quota) or 0):
            held[name(quota)] = quota

    async def validate(self, request: AdmissionRequest) -> None:
        """Charge a write, or refuse it."""
        held = self._quotas.get(request.namespace)
        if not held and not self._limited:
            return
        write = write_of(request)
        if write is None or not request.namespace:
            return
        held = held or {}
        if self._limited and (why := uncovered(self._limited, write, held.values(), self._now())):
            raise denied(request, why)
        if not any(charges.counted_by(quota, write.kind) for quota in held.values()):
            return
        charge = Charge(write, request.dry_run)
        await self._do(request.namespace, charge)
        if charge.refusal:
            raise denied(request, charge.refusal)
        if charge.written:
            taken = Charge(None, wanted=dict(charge.written))
            request.reversals = [*(request.reversals or ()), partial(self._give_back, request.namespace, taken)]

    async def _do(self, space: str, charge: Charge) -> None:
        line = self._lines.get(space)
        if line is None:
            line = self._lines[space] = GroupCommit(partial(self._settle, space))
        try:
            async with asyncio.timeout(EVALUATION_S_MAX):
                await line.do(charge)
        except TimeoutError:
            raise status.internal_error("resource quota evaluation timed out") from None

    async def _give_back(self, space: str, taken: Charge) -> None:
        """Return what was charged for a write that does not stand."""
        try:
            await self._do(space, taken)
        except ApiError as error:
            logger.warning("quota not given back, the quota controller will namespace=%s error=%s", space, error)

    async def _settle(self, space: str, turns: Sequence[Turn[Charge]]) -> None:
        """Carry out charges together."""
        ledger = Ledger(self._quotas.get(space, {}), [turn.work for turn in turns], self._now())
        looked = False
        for attempt in range(ATTEMPTS_MAX):
            plan = ledger.plan()
            if ledger.refused and not looked:
                # The refusal may come from what this server has not heard of yet.
                looked = True
                found = await self._client.list(RESOURCE_QUOTAS, space)
                if ledger.look_again(found.items):
                    continue
            if not plan:
                for turn in turns:
                    turn.finish()
                return
            if attempt:
                await asyncio.sleep(self._random.random() * min(PAUSE_S_MAX, 0.002 * 2**attempt))
            for quota_name, used in plan.items():
                await self._store(space, ledger, quota_name, used)
        raise status.conflict(RESOURCE_QUOTAS.plural, ",".join(sorted(plan)))

    async def _store(self, space: str, ledger: Ledger, quota_name: str, used: Amounts) -> None:
        quota = ledger.quota(quota_name)
        wanted = {**quota, "status": {**(quota.get("status") or {}), "used": used}}
        try:
            stored = await self._client.update(RESOURCE_QUOTAS, wanted, subresource="status")
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            ledger.found(quota_name, await self._live(space, quota_name))
        else:
            self._learn(stored)
            ledger.wrote(stored)

    async def _live(self, space: str, quota_name: str) -> Object | None:
        try:
            return await self._client.get(RESOURCE_QUOTAS, quota_name, space)
        except ApiError as error:
            if error.code != 404:
                raise
            return None
