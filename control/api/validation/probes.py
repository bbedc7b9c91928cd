"""Rules of probes and of the hooks of a container's life."""

from __future__ import annotations

from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def check_probes(container: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the probes of a container."""
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if probe is None:
            continue
        here = f"{path}.{field}"
        _check_handler(probe, here, faults, None)
        for number in _NUMBERS:
            faults.not_negative(f"{here}.{number}", probe.get(number))
        grace = probe.get("terminationGracePeriodSeconds")
        if grace is not None and grace <= 0:
            faults.invalid(f"{here}.terminationGracePeriodSeconds", grace, "must be greater than 0")
        if field == "readinessProbe":
            if grace is not None:
                text = "must not be set for readinessProbes"
                faults.invalid(f"{here}.terminationGracePeriodSeconds", grace, text)
        elif probe.get("successThreshold", 1) != 1:
            faults.invalid(f"{here}.successThreshold", probe["successThreshold"], "must be 1")


def check_lifecycle(lifecycle: dict[str, Any] | None, path: str, faults: Faults, grace_s: int | None) -> None:
    """Check the hooks of a container; a pause must end before its pod is killed."""
    for hook in ("postStart", "preStop"):
        handler = (lifecycle or {}).get(hook)
        if handler is not None:
            _check_handler(handler, f"{path}.{hook}", faults, grace_s)


def _check_handler(handler: dict[str, Any], path: str, faults: Faults, grace_s: int | None) -> None:
    given = [kind for kind in _HANDLERS if handler.get(kind) is not None]
    if not given:
        faults.required(path, "must specify a handler type")
        return
    _check_action(given[0], handler[given[0]], f"{path}.{given[0]}", faults, grace_s)
    for kind in given[1:]:
        faults.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")


def _check_action(kind: str, action: dict[str, Any], here: str, faults: Faults, grace_s: int | None) -> None:
    if kind == "exec":
        if not action.get("command"):
            faults.required(f"{here}.command")
    elif kind == "httpGet":
        _check_get(action, here, faults)
    elif kind == "tcpSocket":
        check_port_or_name(action.get("port"), f"{here}.port", faults)
    elif kind == "grpc":
        faults.invalid_all(f"{here}.port", action.get("port") or 0, names.port_number(action.get("port") or 0))
    elif grace_s is not None and not 0 <= (pause_s := int(action.get("seconds") or 0)) <= grace_s:
        text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
        faults.invalid(here, pause_s, text)


def _check_get(action: dict[str, Any], path: str, faults: Faults) -> None:
    if not action.get("path"):
        faults.required(f"{path}.path")
    check_port_or_name(action.get("port"), f"{path}.port", faults)
    if (scheme := action.get("scheme") or "") not in ("HTTP", "HTTPS"):
        faults.not_supported(f"{path}.scheme", scheme, ["HTTP", "HTTPS"])
    for header in action.get("httpHeaders") or []:
        name = header.get("name") or ""
        faults.invalid_all(f"{path}.httpHeaders", name, names.header_name(name))


def check_port_or_name(port: Any, path: str, faults: Faults) -> None:
    """Check a port that may be given by name."""
    if isinstance(port, str):
        faults.invalid_all(path, port, names.port_name(port))
    else:
        faults.invalid_all(path, port or 0, names.port_number(port or 0))
