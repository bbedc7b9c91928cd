"""Writes of roles and bindings: nobody hands out rights that they do not hold themselves.

Upstream holds this in the storage of the RBAC resources; it judges the object and the user together, so it is
admission here. The verbs `escalate` and `bind` lift it, for a whole kind or for one role by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.meta import Object
from control.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES
from control.api.status import not_found
from control.apiserver.admission.plugin import Plugin, denied, object_name
from control.apiserver.authz.attributes import SUPERUSER_GROUP, Attributes
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.authz.escalation import escalation_error, rules_unchanged
from control.apiserver.authz.rbac import RBAC_GROUP, RoleReference
from control.apiserver.authz.rules import Rule, rules_from_object
from control.apiserver.request import AdmissionRequest
from control.client.client import Client

_ROLES = {ROLES.plural, CLUSTER_ROLES.plural}
_BINDINGS = {ROLE_BINDINGS.plural, CLUSTER_ROLE_BINDINGS.plural}
_EVERYTHING = (
    Rule(verbs=("*",), api_groups=("*",), resources=("*",)),
    Rule(verbs=("*",), non_resource_urls=("*",)),
)


class RbacEscalation(Plugin):
    """Compares what is granted with what the granter holds."""

    about = (ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS)

    def __init__(self, authorizer: ModeAuthorizer, client: Client) -> None:
        self._authorizer = authorizer
        self._client = client

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse a grant that exceeds the granter's own rights."""
        if (
            request.resource.group != RBAC_GROUP
            or request.operation not in ("CREATE", "UPDATE")
            or request.object is None
            or SUPERUSER_GROUP in request.user.groups
        ):
            return
        if request.resource.plural in _ROLES:
            self._check_role(request, request.object, request.old_object)
        elif request.resource.plural in _BINDINGS:
            await self._check_binding(request, request.object, request.old_object)

    def _check_role(self, request: AdmissionRequest, new: Object, old: Object | None) -> None:
        wanted = rules_from_object(new)
        held_before = rules_from_object(old) if old is not None else None
        same_aggregation = new.get("aggregationRule") == (old or {}).get("aggregationRule")
        if rules_unchanged(held_before, wanted) and same_aggregation:
            return
        if self._allowed(request, "escalate", request.resource.plural, object_name(request)):
            return
        held = self._authorizer.rules_for(request.user, request.namespace)
        if new.get("aggregationRule") and not same_aggregation and escalation_error(request.user, held, _EVERYTHING):
            raise denied(request, "must have cluster-admin privileges to use the aggregationRule")
        if error := escalation_error(request.user, held, wanted):
            raise denied(request, error)

    async def _check_binding(self, request: AdmissionRequest, new: Object, old: Object | None) -> None:
        if old is not None and old.get("roleRef") == new.get("roleRef") and old.get("subjects") == new.get("subjects"):
            return
        reference = _reference(new.get("roleRef") or {})
        plural = CLUSTER_ROLES.plural if reference.kind == "ClusterRole" else ROLES.plural
        if self._allowed(request, "bind", plural, reference.name):
            return
        wanted = await self._granted(request, reference)
        held = self._authorizer.rules_for(request.user, request.namespace)
        if error := escalation_error(request.user, held, wanted):
            raise denied(request, error)

    async def _granted(self, request: AdmissionRequest, reference: RoleReference) -> tuple[Rule, ...]:
        """The rules behind a binding, as the store has them now: a cached role may be an older, smaller one."""
        if reference.kind == "ClusterRole":
            return rules_from_object(await self._client.get(CLUSTER_ROLES, reference.name))
        if reference.kind == "Role" and request.namespace:
            return rules_from_object(await self._client.get(ROLES, reference.name, request.namespace))
        raise not_found(ROLES.plural, reference.name, RBAC_GROUP)

    def _allowed(self, request: AdmissionRequest, verb: str, resource: str, name: str) -> bool:
        return self._authorizer.allows(
            Attributes(
                user=request.user,
                verb=verb,
                group=RBAC_GROUP,
                version="*",
                resource=resource,
                namespace=request.namespace,
                name=name,
            )
        )


def _reference(value: Mapping[str, Any]) -> RoleReference:
    return RoleReference(str(value.get("kind", "")), str(value.get("name", "")))
