"""Rules of claims to devices, their templates and the classes of devices that they name."""

from __future__ import annotations

from typing import Any

import orjson

from control.api.cel.errors import CelError
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.amounts import is_extended
from control.api.validation.devices import check_list, check_qualified, check_set, check_toleration
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.forms import check_driver_name, metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_template_metadata

REQUESTS_MAX = 32
CONFIGS_MAX = 32
_ALTERNATIVES_MAX, _SELECTORS_MAX, _CONSTRAINTS_MAX = 8, 32, 32
_EXPRESSION_BYTES_MAX = _PARAMETERS_BYTES_MAX = 10 * 1024
_REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
_ONE_REQUEST = "exactly one of `exactly` or `firstAvailable` is required"
_ONE_ATTRIBUTE = 'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set'
RequestNames = dict[str, frozenset[str]]


def check_device_claim(obj: Object, faults: Faults) -> None:
    """Check a ResourceClaim."""
    _check_spec(obj.get("spec") or {}, "spec", faults)


def check_device_claim_template(obj: Object, faults: Faults) -> None:
    """Check a ResourceClaimTemplate."""
    spec = obj.get("spec") or {}
    check_template_metadata(metadata_of(spec), "spec.metadata", faults)
    _check_spec(spec.get("spec") or {}, "spec.spec", faults)


def check_device_claim_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a claim stays what it was."""
    if new.get("spec") != old.get("spec"):
        faults.invalid("spec", internal("resource.v1.ResourceClaimSpec", new.get("spec")), IMMUTABLE)


def check_device_claim_template_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a template of claims stays what it was."""
    if new.get("spec") != old.get("spec"):
        faults.invalid("spec", internal("resource.v1.ResourceClaimTemplateSpec", new.get("spec")), IMMUTABLE)


def check_device_class(obj: Object, faults: Faults) -> None:
    """Check a DeviceClass."""
    spec = obj.get("spec") or {}
    check_list(spec.get("selectors"), _SELECTORS_MAX, _check_selector, "spec.selectors", faults)
    check_list(spec.get("config"), CONFIGS_MAX, check_configuration, "spec.config", faults)
    name = spec.get("extendedResourceName")
    if name is not None and not is_extended(name):
        faults.invalid("spec.extendedResourceName", name, "must be a valid extended resource name")


def request_names(devices: dict[str, Any]) -> RequestNames:
    """Return the requests of a claim, each with its alternatives."""
    return {
        request.get("name") or "": frozenset(entry.get("name") or "" for entry in request.get("firstAvailable") or ())
        for request in devices.get("requests") or ()
    }


def _check_spec(spec: dict[str, Any], path: str, faults: Faults) -> None:
    devices, here = spec.get("devices") or {}, f"{path}.devices"
    known = request_names(devices)

    def check_constraint(constraint: dict[str, Any], path: str, faults: Faults) -> None:
        check_request_references(constraint.get("requests"), known, f"{path}.requests", faults)
        given = [field for field in ("matchAttribute", "distinctAttribute") if constraint.get(field) is not None]
        if not given:
            faults.required(path, _ONE_ATTRIBUTE)
        for field in given[:1]:
            check_qualified(constraint[field], f"{path}.{field}", faults, fully=True)

    def check_config(config: dict[str, Any], path: str, faults: Faults) -> None:
        check_request_references(config.get("requests"), known, f"{path}.requests", faults)
        check_configuration(config, path, faults)

    check_set(devices.get("requests"), REQUESTS_MAX, _check_request, "name", f"{here}.requests", faults)
    check_list(devices.get("constraints"), _CONSTRAINTS_MAX, check_constraint, f"{here}.constraints", faults)
    check_list(devices.get("config"), CONFIGS_MAX, check_config, f"{here}.config", faults)


def _check_request(request: dict[str, Any], path: str, faults: Faults) -> None:
    faults.invalid_all(f"{path}.name", request.get("name") or "", names.dns_label(request.get("name") or ""))
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable")
    if exactly is None and not alternatives:
        faults.required(path, _ONE_REQUEST)
    elif exactly is not None and alternatives:
        faults.invalid(path, None, f"{_ONE_REQUEST}, but multiple fields are set")
    elif exactly is not None:
        _check_wanted(exactly, f"{path}.exactly", faults)
    else:
        here = f"{path}.firstAvailable"
        check_set(alternatives, _ALTERNATIVES_MAX, _check_alternative, "name", here, faults)


def _check_alternative(request: dict[str, Any], path: str, faults: Faults) -> None:
    faults.invalid_all(f"{path}.name", request.get("name") or "", names.dns_label(request.get("name") or ""))
    _check_wanted(request, path, faults)


def _check_wanted(request: dict[str, Any], path: str, faults: Faults) -> None:
    name, here = request.get("deviceClassName") or "", f"{path}.deviceClassName"
    if name:
        faults.invalid_all(here, name, names.dns_subdomain(name))
    else:
        faults.required(here)
    check_list(request.get("selectors"), _SELECTORS_MAX, _check_selector, f"{path}.selectors", faults)
    mode, count = request.get("allocationMode") or "", request.get("count") or 0
    if mode == "All":
        if count:
            faults.invalid(f"{path}.count", count, "must not be specified when allocationMode is 'All'")
    elif mode == "ExactCount":
        if count <= 0:
            faults.invalid(f"{path}.count", count, "must be greater than zero")
    else:
        faults.not_supported(f"{path}.allocationMode", mode, ["All", "ExactCount"])
    for index, toleration in enumerate(request.get("tolerations") or ()):
        check_toleration(toleration, f"{path}.tolerations[{index}]", faults)


def _check_selector(selector: dict[str, Any], path: str, faults: Faults) -> None:
    cel = selector.get("cel")
    if cel is None:
        faults.required(f"{path}.cel")
        return
    text, here = cel.get("expression") or "", f"{path}.cel.expression"
    if len(text.encode()) > _EXPRESSION_BYTES_MAX:
        faults.too_long(here, _EXPRESSION_BYTES_MAX)
        return
    from control.api.cel.environment import compile_expression

    try:
        compile_expression(text, ("device",))
    except CelError as error:
        faults.invalid(here, text, f"compilation failed: {error}")


def check_configuration(config: dict[str, Any], path: str, faults: Faults) -> None:
    """Check parameters that a driver alone understands."""
    opaque = config.get("opaque")
    if opaque is None:
        faults.required(f"{path}.opaque")
        return
    check_driver_name(opaque.get("driver") or "", f"{path}.opaque.driver", faults)
    check_raw(opaque.get("parameters"), f"{path}.opaque.parameters", faults, _PARAMETERS_BYTES_MAX)


def check_raw(value: Any, path: str, faults: Faults, bytes_max: int) -> None:
    """Check a value whose form is another's matter: an object, and not too long."""
    if value is None:
        faults.required(path)
    elif len(orjson.dumps(value)) > bytes_max:
        faults.too_long(path, bytes_max)
    elif not isinstance(value, dict):
        faults.invalid(path, "<value omitted>", "must be a valid JSON object")


def check_request_references(given: list[str] | None, known: RequestNames, path: str, faults: Faults) -> None:
    """Check names of requests, of which none stands twice."""
    if len(given or ()) > REQUESTS_MAX:
        faults.too_many(path, len(given or ()), REQUESTS_MAX)
        return
    seen: set[str] = set()
    for index, name in enumerate(given or ()):
        check_request_reference(name, known, f"{path}[{index}]", faults)
        if name in seen:
            faults.duplicate(f"{path}[{index}]", name)
        seen.add(name)


def check_request_reference(name: str, known: RequestNames, path: str, faults: Faults) -> None:
    """Check the name of a request, or of one of its alternatives."""
    request, *below = name.split("/")
    if len(below) < 2:
        for segment in (request, *below):
            faults.invalid_all(path, segment, names.dns_label(segment))
    if len(below) > 1 or request not in known or (below and below[0] not in known[request]):
        faults.invalid(path, name, _REFERENCE)
