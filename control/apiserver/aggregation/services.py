"""APIServices, parsed, and what their status says: pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control.api.meta import Object

AVAILABLE = "Available"


@dataclass(frozen=True, slots=True)
class Route:
    """One group version that another server answers for."""

    name: str
    group: str
    version: str
    service: str
    namespace: str
    port: int
    bundle: bytes
    """The authorities of the server's certificate in PEM, empty for the system's."""
    insecure: bool
    available: bool
    group_priority: int
    version_priority: int

    @property
    def path(self) -> str:
        """Where the group version is served."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have."""
        return f"{self.service}.{self.namespace}.svc"

    @property
    def backend(self) -> tuple[str, str, int, bytes, bool]:
        """What names the server itself: several group versions may be served by one."""
        return (self.namespace, self.service, self.port, self.bundle, self.insecure)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an APIService is available, and why not."""

    status: str
    reason: str
    message: str


LOCAL = Verdict("True", "Local", "Local APIServices are always available")
PASSED = Verdict("True", "Passed", "all checks passed")


def route_of(obj: Object) -> Route | None:
    """Return the route that an APIService stands for, None where this server answers itself."""
    spec = obj.get("spec") or {}
    service = spec.get("service")
    if not service:
        return None
    try:
        bundle = base64.b64decode(spec.get("caBundle") or "", validate=True)
    except (binascii.Error, ValueError):
        bundle = b"unreadable"
    return Route(
        obj["metadata"]["name"],
        spec.get("group") or "",
        spec.get("version") or "",
        service.get("name") or "",
        service.get("namespace") or "",
        int(service.get("port") or 443),
        bundle,
        bool(spec.get("insecureSkipTLSVerify")),
        (available(obj) or {}).get("status") == "True",
        int(spec.get("groupPriorityMinimum") or 0),
        int(spec.get("versionPriority") or 0),
    )


def available(obj: Object) -> Mapping[str, Any] | None:
    """Return an APIService's condition Available."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry.get("type") == AVAILABLE), None)


def with_verdict(obj: Object, verdict: Verdict, now: str) -> Object | None:
    """Return an APIService whose status says so, None where it does already."""
    was = available(obj) or {}
    wanted = {"type": AVAILABLE, "status": verdict.status, "reason": verdict.reason, "message": verdict.message}
    if all(was.get(field) == value for field, value in wanted.items()):
        return None
    since = was.get("lastTransitionTime") if was.get("status") == verdict.status else None
    found = (obj.get("status") or {}).get("conditions") or ()
    others = [entry for entry in found if entry.get("type") != AVAILABLE]
    conditions = [*others, {"lastTransitionTime": since or now, **wanted}]
    return {**obj, "status": {**(obj.get("status") or {}), "conditions": conditions}}


def judge_service(route: Route, service: Object | None, slices: Iterable[Object]) -> Verdict | None:
    """Return why a route's Service cannot be asked, None where it can be."""
    about = f'service/{route.service} in "{route.namespace}"'
    if service is None:
        return Verdict("False", "ServiceNotFound", f"{about} is not present")
    spec = service.get("spec") or {}
    if (spec.get("type") or "ClusterIP") != "ClusterIP":
        return None
    port = next((entry for entry in spec.get("ports") or () if entry.get("port") == route.port), None)
    if port is None:
        return Verdict("False", "ServicePortError", f"{about} is not listening on port {route.port}")
    found = list(slices)
    if not found:
        return Verdict("False", "EndpointsNotFound", f"cannot find endpointslices for {about}")
    name = port.get("name") or ""
    if not any(_offers(entry, name) for entry in found):
        text = f'endpointslices for {about} have no addresses with port name "{name}"'
        return Verdict("False", "MissingEndpoints", text)
    return None


def _offers(entry: Object, port_name: str) -> bool:
    ready = any((each.get("conditions") or {}).get("ready") is not False for each in entry.get("endpoints") or ())
    return ready and any(
        (port.get("name") or "") == port_name and port.get("port") for port in entry.get("ports") or ()
    )
