"""Rules of slices: the devices that a driver offers, where they are and what they have."""

from __future__ import annotations

import re
from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.devices import (
    check_binding_conditions,
    check_list,
    check_pool_name,
    check_qualified,
    check_set,
    check_taint,
    key_path,
)
from control.api.validation.faults import Faults
from control.api.validation.forms import check_driver_name
from control.api.validation.internal import internal
from control.api.validation.nodeselectors import check_node_selector

_DEVICES_MAX, _ELABORATE_DEVICES_MAX, _PROPERTIES_MAX, _TAINTS_MAX = 128, 64, 32, 16
_COUNTER_SETS_MAX, _COUNTERS_MAX, _CONSUMPTIONS_MAX, _OPTIONS_MAX = 8, 32, 2, 10
_VALUE_LETTERS_MAX, _LABEL_LETTERS_MAX, _NAME_LETTERS_MAX = 64, 63, 63 + 1 + 32
_VALUES = ("bool", "int", "string", "version")
_SEMANTIC = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)
_UNSET_OR_TRUE = "must be either unset or set to true"
_ONE_PLACE = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
_ONE_DEVICE_PLACE = (
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true "
    "in the ResourceSlice spec"
)
_NO_DEVICE_PLACE = (
    "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the "
    "ResourceSlice spec"
)


def check_device_slice(obj: Object, faults: Faults) -> None:
    """Check a ResourceSlice."""
    spec = obj.get("spec") or {}
    check_driver_name(spec.get("driver") or "", "spec.driver", faults)
    pool = spec.get("pool") or {}
    check_pool_name(pool.get("name") or "", "spec.pool.name", faults)
    if (count := pool.get("resourceSliceCount") or 0) <= 0:
        faults.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero")
    if (generation := pool.get("generation") or 0) < 0:
        faults.invalid("spec.pool.generation", generation, "must be greater than or equal to zero")
    _check_place(spec, faults)
    if spec.get("sharedCounters") is not None and spec.get("devices") is not None:
        faults.invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed")
    devices = spec.get("devices") or []
    elaborate = any(device.get("taints") or device.get("consumesCounters") for device in devices)
    most = _ELABORATE_DEVICES_MAX if elaborate else _DEVICES_MAX

    def check_device(device: dict[str, Any], path: str, faults: Faults) -> None:
        _check_device(device, bool(spec.get("perDeviceNodeSelection")), path, faults)

    check_set(devices, most, check_device, "name", "spec.devices", faults)
    counters = spec.get("sharedCounters")
    check_set(counters, _COUNTER_SETS_MAX, _check_counter_set, "name", "spec.sharedCounters", faults)


def check_device_slice_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a slice stays with its pool, driver and node."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    names_of_pools = ((spec.get("pool") or {}).get("name") for spec in (now, was))
    faults.unchanged("spec.pool.name", next(names_of_pools), next(names_of_pools))
    for field in ("driver", "nodeName"):
        faults.unchanged(f"spec.{field}", now.get(field), was.get(field))


def _check_node_name(holder: dict[str, Any], path: str, empty: str, faults: Faults) -> bool:
    name = holder.get("nodeName")
    if name is None:
        return False
    if not name:
        faults.invalid(f"{path}.nodeName", name, empty)
        return False
    faults.invalid_all(f"{path}.nodeName", name, names.dns_subdomain(name))
    return True


def _is_true(holder: dict[str, Any], field: str, path: str, faults: Faults) -> bool:
    if holder.get(field) is False:
        faults.invalid(f"{path}.{field}", False, _UNSET_OR_TRUE)
    return bool(holder.get(field))


def _check_place(spec: dict[str, Any], faults: Faults) -> None:
    given = []
    if _check_node_name(spec, "spec", "must be either unset or set to a non-empty string", faults):
        given.append("`nodeName`")
    if (selector := spec.get("nodeSelector")) is not None:
        given.append("`nodeSelector`")
        check_node_selector(selector, "spec.nodeSelector", faults)
        terms = selector.get("nodeSelectorTerms") or []
        if len(terms) != 1:
            text = "must have exactly one node selector term"
            shown = internal("[]core.v1.NodeSelectorTerm", terms)
            faults.invalid("spec.nodeSelector.nodeSelectorTerms", shown, text)
    given.extend(
        f"`{field}`" for field in ("allNodes", "perDeviceNodeSelection") if _is_true(spec, field, "spec", faults)
    )
    if not given:
        faults.required("spec", _ONE_PLACE)
    elif len(given) > 1:
        faults.invalid("spec", f"{{{', '.join(given)}}}", f"{_ONE_PLACE}, but multiple fields are set")


def _check_device(device: dict[str, Any], placed: bool, path: str, faults: Faults) -> None:
    faults.invalid_all(f"{path}.name", device.get("name") or "", names.dns_label(device.get("name") or ""))
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if (total := len(attributes) + len(capacity)) > _PROPERTIES_MAX:
        text = f"the total number of attributes and capacities must not exceed {_PROPERTIES_MAX}"
        faults.invalid(path, total, text)
    for name, attribute in sorted(attributes.items()):
        here = key_path(f"{path}.attributes", name, _NAME_LETTERS_MAX)
        check_qualified(name, here, faults)
        _check_attribute(attribute, here, faults)
    for name, amount in sorted(capacity.items()):
        here = key_path(f"{path}.capacity", name, _NAME_LETTERS_MAX)
        check_qualified(name, here, faults)
        if (policy := amount.get("requestPolicy")) is None:
            continue
        if device.get("allowMultipleAllocations"):
            _check_policy(policy, amount.get("value") or "0", f"{here}.requestPolicy", faults)
        else:
            faults.forbidden(f"{here}.requestPolicy", "allowMultipleAllocations must be true")
    check_list(device.get("taints"), _TAINTS_MAX, check_taint, f"{path}.taints", faults)
    consumed, here = device.get("consumesCounters"), f"{path}.consumesCounters"
    check_set(consumed, _CONSUMPTIONS_MAX, _check_consumption, "counterSet", here, faults)
    _check_device_place(device, placed, path, faults)
    check_binding_conditions(device, path, faults)


def _check_device_place(device: dict[str, Any], placed: bool, path: str, faults: Faults) -> None:
    if not placed:
        if any(device.get(field) is not None for field in ("nodeName", "nodeSelector", "allNodes")):
            faults.invalid(path, None, _NO_DEVICE_PLACE)
        return
    given = ["`nodeName`"] if _check_node_name(device, path, "must not be empty", faults) else []
    if (selector := device.get("nodeSelector")) is not None:
        given.append("`nodeSelector`")
        check_node_selector(selector, f"{path}.nodeSelector", faults)
    if _is_true(device, "allNodes", path, faults):
        given.append("`allNodes`")
    if not given:
        faults.required(path, _ONE_DEVICE_PLACE)
    elif len(given) > 1:
        faults.invalid(path, f"{{{', '.join(given)}}}", _ONE_DEVICE_PLACE)


def _check_attribute(attribute: dict[str, Any], path: str, faults: Faults) -> None:
    given = [kind for kind in _VALUES if attribute.get(kind) is not None]
    version = attribute.get("version")
    if version is not None and _SEMANTIC.fullmatch(version) is None:
        faults.invalid(f"{path}.version", version, "must be a string compatible with semver.org spec 2.0.0")
    for kind in ("string", "version"):
        if len(attribute.get(kind) or "") > _VALUE_LETTERS_MAX:
            faults.too_long(f"{path}.{kind}", _VALUE_LETTERS_MAX)
    if len(given) != 1:
        shown = internal("resource.v1.DeviceAttribute", attribute) if given else ""
        faults.invalid(path, shown, "exactly one value must be specified")


def _check_counter_set(entry: dict[str, Any], path: str, faults: Faults) -> None:
    _check_counters(entry, "name", path, faults)


def _check_consumption(entry: dict[str, Any], path: str, faults: Faults) -> None:
    _check_counters(entry, "counterSet", path, faults)


def _check_counters(entry: dict[str, Any], field: str, path: str, faults: Faults) -> None:
    name, counters = entry.get(field) or "", entry.get("counters") or {}
    if name:
        faults.invalid_all(f"{path}.{field}", name, names.dns_label(name))
    else:
        faults.required(f"{path}.{field}")
    if not counters:
        faults.required(f"{path}.counters")
    elif len(counters) > _COUNTERS_MAX:
        faults.too_many(f"{path}.counters", len(counters), _COUNTERS_MAX)
    else:
        for counter in sorted(counters):
            here = key_path(f"{path}.counters", counter, _LABEL_LETTERS_MAX)
            faults.invalid_all(here, counter, names.dns_label(counter))


def _check_policy(policy: dict[str, Any], capacity: Any, path: str, faults: Faults) -> None:
    values, span = policy.get("validValues") or [], policy.get("validRange")
    if values and span is not None:
        text = 'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
        faults.forbidden(path, text)
        return
    default = policy.get("default")
    for field, given in (("validValues", bool(values)), ("validRange", span is not None)):
        if given and default is None:
            faults.required(f"{path}.default", f"required when {field} is defined")
    if default is None:
        return
    if values:
        _check_options(values, default, capacity, f"{path}.validValues", faults)
    elif span is not None:
        _check_range(span, default, capacity, f"{path}.validRange", faults)


def _check_options(values: list[Any], default: Any, capacity: Any, path: str, faults: Faults) -> None:
    amounts = [quantity.parse(value) for value in values]
    for index in range(1, len(amounts)):
        if amounts[index - 1] > amounts[index]:
            faults.invalid(f"{path}[{index}]", str(values[index]), "values must be sorted in ascending order")
    if len(values) > _OPTIONS_MAX:
        faults.too_many(path, len(values), _OPTIONS_MAX)
        return
    for index, amount in enumerate(amounts):
        if amount > quantity.parse(capacity):
            text = f"option is larger than capacity value: {capacity}"
            faults.invalid(f"{path}[{index}]", str(values[index]), text)
    wholes = [str(quantity.whole(value)) for value in values]
    for index, text in enumerate(wholes):
        if text in wholes[:index]:
            faults.duplicate(f"{path}[{index}]", text)
    if quantity.parse(default) not in amounts:
        faults.invalid(path, str(default), "default value is not valid according to the requestPolicy")


def _check_range(span: dict[str, Any], default: Any, capacity: Any, path: str, faults: Faults) -> None:
    least, most, step = (span.get(field) for field in ("min", "max", "step"))
    if least is None:
        faults.required(f"{path}.min", "required when validRange is defined")
        return
    low, wanted, top = quantity.parse(least), quantity.parse(default), quantity.parse(capacity)
    if low > top:
        faults.invalid(f"{path}.min", str(least), f"min is larger than capacity value: {capacity}")
    if wanted < low:
        faults.invalid(f"{path}.min", str(default), f"default is less than min: {least}")
    if most is not None:
        if low > quantity.parse(most):
            faults.invalid(f"{path}.max", str(least), f"min is larger than max: {most}")
        if quantity.parse(most) > top:
            faults.invalid(f"{path}.max", str(most), f"max is larger than capacity value: {capacity}")
        if wanted > quantity.parse(most):
            faults.invalid(f"{path}.max", str(default), f"default is more than max: {most}")
    if step is not None:
        _check_steps(span, default, capacity, path, faults)


def _check_steps(span: dict[str, Any], default: Any, capacity: Any, path: str, faults: Faults) -> None:
    here, least = f"{path}.step", span["min"]
    low, stride = quantity.parse(least), quantity.parse(span["step"])
    if stride <= 0:
        faults.invalid(here, str(span["step"]), "must be greater than zero")
        return
    if low + stride > quantity.parse(capacity):
        text = f"one step {quantity.canonical(f'{low + stride:f}')} is larger than capacity value: {capacity}"
        faults.invalid(here, str(span["step"]), text)
    for value in (default, span.get("max")):
        if value is not None and (quantity.parse(value) - low) % stride:
            text = f"value is not a multiple of a given step ({span['step']}) from ({least})"
            faults.invalid(here, str(value), text)
