"""Says in the status of a ValidatingAdmissionPolicy what its expressions ask of kinds that do not have it."""

from __future__ import annotations

from control.api.cel.types import Type
from control.api.meta import Object
from control.api.resources import CUSTOM_RESOURCE_DEFINITIONS, POLICIES, by_kind, by_plural
from control.api.status import ApiError
from control.client.actions import Update
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue

NAME = "validatingadmissionpolicy-status-controller"


class PolicyStatusController:
    """Checks each policy once for each change of its spec."""

    workers = 1

    def __init__(self, context: Context) -> None:
        self.name = NAME
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._policies = context.informer(POLICIES)
        self._policies.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Check one policy and say so in its status."""
        policy = self._policies.get(key)
        if policy is None:
            return None
        generation, status = policy["metadata"].get("generation") or 0, policy.get("status") or {}
        if generation <= (status.get("observedGeneration") or 0):
            return None
        # Most clusters have no policy: what checks them is imported with the first.
        from control.api.cel.typechecks import warnings

        found = warnings(policy, await self._kinds(policy), await self._params(policy))
        checking = {"expressionWarnings": found} if found else {}
        made = {**policy, "status": {**status, "observedGeneration": generation, "typeChecking": checking}}
        await self._context.write(Update(POLICIES, made, "status"))
        return None

    async def _kinds(self, policy: Object) -> list[tuple[tuple[str, str, str], Type]]:
        """Return the kinds that a policy is about, with their types; those of which nothing is known are left out."""
        from control.api.cel.typechecks import TYPES_MAX, resources_of

        found: dict[tuple[str, str, str], Type] = {}
        for rule in resources_of(policy):
            of_rule: dict[tuple[str, str, str], Type] = {}
            for group, version, plural in rule:
                if len(of_rule) == TYPES_MAX:
                    break
                known = await self._kind(group, version, plural)
                if known is not None:
                    of_rule[group, version, known[0]] = known[1]
            found.update(of_rule)
        return list(found.items())

    async def _kind(self, group: str, version: str, plural: str) -> tuple[str, Type] | None:
        from control.api.cel.objecttypes import custom_type, type_of

        if (served := by_plural(group, version, plural)) is not None:
            return served.resource.kind, type_of(served.definition)
        if not group:
            return None
        try:
            definition = await self._context.client.get(CUSTOM_RESOURCE_DEFINITIONS, f"{plural}.{group}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        for each in definition["spec"]["versions"]:
            if each["name"] == version:
                known = custom_type((each.get("schema") or {}).get("openAPIV3Schema") or {})
                return (definition["spec"]["names"]["kind"], known) if known is not None else None
        return None

    async def _params(self, policy: Object) -> Type | None:
        from control.api.cel.objecttypes import type_of

        kind = (policy.get("spec") or {}).get("paramKind")
        if not kind:
            return None
        group, _, version = (kind.get("apiVersion") or "").rpartition("/")
        served = by_kind(group, version, kind.get("kind") or "")
        return type_of(served.definition) if served is not None else None
