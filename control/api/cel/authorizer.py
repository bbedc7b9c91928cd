"""CEL's ``authorizer``: expressions ask whether somebody may do something.

A question is a map that each call completes; ``check`` hands it to the judge that stands in ``JUDGE`` while the
expression runs, since functions of the library know no caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from control.api.cel.function import WHAT, Function

Judge = Callable[[Mapping[str, Any]], tuple[bool, str]]
"""Answers a question with whether it is allowed, and why or why not; raises ValueError where it cannot."""
JUDGE: ContextVar[Judge | None] = ContextVar("judge", default=None)
AUTHORIZER, PATH, GROUP, RESOURCE, DECISION = "authorizer", "path check", "group check", "resource check", "decision"


def authorizer(request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the value of the variable; ``request`` holds the parts of the resource that is being asked for."""
    made: dict[str, Any] = {WHAT: AUTHORIZER}
    if request is not None:
        made["requestResource"] = {WHAT: RESOURCE, **request}
    return made


def _expect(value: Any, kind: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get(WHAT) != kind:
        raise ValueError("no such overload")
    return value


def _service_account(value: Any, namespace: str, name: str) -> dict[str, Any]:
    return {**_expect(value, AUTHORIZER), "user": f"system:serviceaccount:{namespace}:{name}"}


def _path(value: Any, path: str) -> dict[str, Any]:
    if not path:
        raise ValueError("path must not be empty")
    return {**_expect(value, AUTHORIZER), WHAT: PATH, "path": path}


def _group(value: Any, group: str) -> dict[str, Any]:
    return {**_expect(value, AUTHORIZER), WHAT: GROUP, "group": group}


def _resource(value: Any, resource: str) -> dict[str, Any]:
    if not resource:
        raise ValueError("resource must not be empty")
    return {**_expect(value, GROUP), WHAT: RESOURCE, "resource": resource}


def _part(field: str) -> Callable[[Any, str], dict[str, Any]]:
    return lambda value, text: {**_expect(value, RESOURCE), field: text}


def _check(value: Any, verb: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get(WHAT) not in (PATH, RESOURCE):
        raise ValueError("no such overload")
    judge = JUDGE.get()
    if judge is None:
        raise ValueError("authorizer is not available here")
    try:
        allowed, reason = judge({**value, "verb": verb})
    except ValueError as error:
        return {WHAT: DECISION, "allowed": False, "reason": "", "error": str(error)}
    return {WHAT: DECISION, "allowed": allowed, "reason": reason, "error": ""}


_DYN, _STRING, _BOOL = "dyn", "string", "bool"
FUNCTIONS: tuple[Function, ...] = (
    Function("serviceAccount", (_DYN, _STRING, _STRING), _DYN, _service_account),
    Function("path", (_DYN, _STRING), _DYN, _path),
    Function("group", (_DYN, _STRING), _DYN, _group),
    Function("resource", (_DYN, _STRING), _DYN, _resource),
    Function("subresource", (_DYN, _STRING), _DYN, _part("subresource")),
    Function("namespace", (_DYN, _STRING), _DYN, _part("namespace")),
    Function("name", (_DYN, _STRING), _DYN, _part("name")),
    Function("fieldSelector", (_DYN, _STRING), _DYN, _part("fieldSelector")),
    Function("labelSelector", (_DYN, _STRING), _DYN, _part("labelSelector")),
    Function("check", (_DYN, _STRING), _DYN, _check),
    Function("allowed", (_DYN,), _BOOL, lambda value: _expect(value, DECISION)["allowed"]),
    Function("reason", (_DYN,), _STRING, lambda value: _expect(value, DECISION)["reason"]),
    Function("errored", (_DYN,), _BOOL, lambda value: bool(_expect(value, DECISION)["error"])),
    Function("error", (_DYN,), _STRING, lambda value: _expect(value, DECISION)["error"]),
)
