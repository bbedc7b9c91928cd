"""What expressions of webhooks and policies may name, and of which types that is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from control.api.cel.authorizer import REQUEST_RESOURCE
from control.api.cel.environment import Environment, Program, compile_in
from control.api.cel.errors import CelError
from control.api.cel.initializers import Structures
from control.api.cel.types import (
    AUTHORIZER,
    BOOL,
    DYN,
    INT,
    RESOURCE_CHECK,
    STRING,
    TIMESTAMP,
    Type,
    list_of,
    map_of,
    object_of,
)
from control.api.cel.values import Timestamp

_TEXTS = list_of(STRING)
_KIND = object_of("kubernetes.GroupVersionKind", {"group": STRING, "version": STRING, "kind": STRING})
_RESOURCE = object_of("kubernetes.GroupVersionResource", {"group": STRING, "version": STRING, "resource": STRING})
_USER = object_of(
    "kubernetes.UserInfo", {"username": STRING, "uid": STRING, "groups": _TEXTS, "extra": map_of(STRING, _TEXTS)}
)
REQUEST = object_of(
    "kubernetes.AdmissionRequest",
    {
        "kind": _KIND, "resource": _RESOURCE, "subResource": STRING, "requestKind": _KIND, "requestResource": _RESOURCE,
        "requestSubResource": STRING, "name": STRING, "namespace": STRING, "operation": STRING, "userInfo": _USER,
        "dryRun": BOOL, "options": DYN,
    },
)  # fmt: skip
_CONDITION = object_of(
    "kubernetes.NamespaceCondition",
    {"status": STRING, "type": STRING, "lastTransitionTime": TIMESTAMP, "message": STRING, "reason": STRING},
)
_METADATA = object_of(
    "kubernetes.NamespaceMetadata",
    {
        "name": STRING, "generateName": STRING, "namespace": STRING, "labels": map_of(STRING, STRING),
        "annotations": map_of(STRING, STRING), "UID": STRING, "creationTimestamp": TIMESTAMP,
        "deletionGracePeriodSeconds": INT, "deletionTimestamp": TIMESTAMP, "generation": INT, "resourceVersion": STRING,
        "finalizers": _TEXTS,
    },
)  # fmt: skip
NAMESPACE = object_of(
    "kubernetes.Namespace",
    {
        "metadata": _METADATA,
        "spec": object_of("kubernetes.NamespaceSpec", {"finalizers": _TEXTS}),
        "status": object_of("kubernetes.NamespaceStatus", {"conditions": list_of(_CONDITION), "phase": STRING}),
    },
)


_TIMES = ("creationTimestamp", "deletionTimestamp")


def namespace_value(space: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a Namespace as expressions see it, None where there is none: its times are instants."""
    if not space:
        return None
    metadata = dict(space.get("metadata") or {})
    for name in _TIMES:
        if isinstance(text := metadata.get(name), str):
            metadata[name] = Timestamp.parse(text)
    if "uid" in metadata:
        metadata["UID"] = metadata["uid"]
    return {**space, "metadata": metadata}


class Expressions:
    """Compiles the expressions of one webhook or policy; a variable of a policy is known to those after it."""

    def __init__(
        self, *, params: bool = False, mutates: bool = False, of: Type = DYN, params_of: Type = DYN, named: bool = False
    ) -> None:
        self._variables: dict[str, Type] = {}
        self._has_variables = named
        self._known: dict[str, Type] = {
            "object": of, "oldObject": of, "request": REQUEST, "namespaceObject": NAMESPACE,
            "authorizer": AUTHORIZER, REQUEST_RESOURCE: RESOURCE_CHECK,
        }  # fmt: skip
        if params:
            self._known["params"] = params_of
        self._structures: Mapping[str, Type] = Structures() if mutates else {}
        self._mutates = mutates

    def compile(self, text: str, *wanted: str) -> Program:
        """Return an expression ready to be run; raises CelError, also where it yields none of the types wanted."""
        variables = dict(self._known)
        if self._has_variables:
            variables["variables"] = object_of("kubernetes.variables", dict(self._variables))
        try:
            program = compile_in(text, Environment(variables, self._structures, self._mutates))
        except CelError as error:
            raise CelError(f"compilation failed: {error}") from None
        if wanted and str(program.type) not in wanted:
            shown = wanted[0] if len(wanted) == 1 else f"one of [{' '.join(wanted)}]"
            raise CelError(f"must evaluate to {shown} but got {program.type}")
        return program

    def variable(self, name: str, text: str) -> Program:
        """Return the expression of a variable, which those after it may name; raises CelError."""
        program = self.compile(text)
        self._variables[name] = program.type
        return program

    def unknown(self, name: str) -> None:
        """Let a variable be named of which nothing is known."""
        self._variables[name] = DYN


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> Program:
    """Return a match condition of a webhook, ready to be run; raises CelError."""
    return Expressions().compile(text, "bool")
