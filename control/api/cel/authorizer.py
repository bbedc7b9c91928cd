"""CEL's ``authorizer``: expressions ask whether somebody may do something.

A question is completed by each call; ``check`` hands it to the judge that stands in ``JUDGE`` while the expression
runs, since functions know no caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from control.api.cel.errors import CelError

Judge = Callable[[Mapping[str, Any]], tuple[bool, str]]
"""Answers a question with whether it is allowed, and why or why not; raises ValueError where it cannot."""
JUDGE: ContextVar[Judge | None] = ContextVar("judge", default=None)
REQUEST_RESOURCE = "authorizer.requestResource"
"""The variable that holds the resource which a request is about."""


class Authorizer(dict[str, Any]):
    """Whom a question is about; empty for the user of the request."""


class PathCheck(dict[str, Any]):
    """A question about a path."""


class GroupCheck(dict[str, Any]):
    """A question about an API group, yet without a resource."""


class ResourceCheck(dict[str, Any]):
    """A question about a resource."""


class Decision(dict[str, Any]):
    """The answer to a question."""


def authorizer(request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of the variables; ``request`` holds the parts of the resource that is being asked for."""
    made: dict[str, Any] = {"authorizer": Authorizer()}
    if request is not None:
        made[REQUEST_RESOURCE] = ResourceCheck(request)
    return made


def _service_account(value: Authorizer, namespace: str, name: str) -> Authorizer:
    return Authorizer(value, user=f"system:serviceaccount:{namespace}:{name}")


def _path(value: Authorizer, path: str) -> PathCheck:
    if not path:
        raise CelError("path must not be empty")
    return PathCheck(value, path=path)


def _resource(value: GroupCheck, resource: str) -> ResourceCheck:
    if not resource:
        raise CelError("resource must not be empty")
    return ResourceCheck(value, resource=resource)


def _part(field: str) -> Callable[[ResourceCheck, str], ResourceCheck]:
    return lambda value, text: ResourceCheck({**value, field: text})


def _check(value: Mapping[str, Any], verb: str) -> Decision:
    judge = JUDGE.get()
    if judge is None:
        raise CelError("authorizer is not available here")
    try:
        allowed, reason = judge({**value, "verb": verb})
    except ValueError as error:
        return Decision(allowed=False, reason="", error=str(error))
    return Decision(allowed=allowed, reason=reason, error="")


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "authorizer_serviceaccount": _service_account,
    "authorizer_path": _path,
    "authorizer_group": lambda value, group: GroupCheck(value, group=group),
    "groupcheck_resource": _resource,
    "resourcecheck_subresource": _part("subresource"),
    "resourcecheck_namespace": _part("namespace"),
    "resourcecheck_name": _part("name"),
    "authorizer_fieldselector": _part("fieldSelector"),
    "authorizer_labelselector": _part("labelSelector"),
    "pathcheck_check": _check,
    "resourcecheck_check": _check,
    "decision_allowed": lambda value: value["allowed"],
    "decision_reason": lambda value: value["reason"],
    "decision_errored": lambda value: bool(value["error"]),
    "decision_error": lambda value: value["error"],
}
CLASSES: dict[str, tuple[type, ...]] = {
    f"kubernetes.authorization.{kind.__name__}": (kind,)
    for kind in (Authorizer, PathCheck, GroupCheck, ResourceCheck, Decision)
}
"""The Python types of the values of a type."""
