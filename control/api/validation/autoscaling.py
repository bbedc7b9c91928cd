"""Rules of HorizontalPodAutoscalers."""

from __future__ import annotations

from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.amounts import check_container_resource_name
from control.api.validation.faults import Faults
from control.api.validation.forms import check_object_reference

_SOURCES = {
    "Object": "object",
    "External": "external",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}
_WINDOW_S_MAX, _PERIOD_S_MAX = 3600, 1800
_TARGETS = ("Utilization", "Value", "AverageValue")
_RAW_OR_SHARE = "must set either a target raw value or a target utilization"


def check_autoscaler(obj: Object, faults: Faults) -> None:
    """Check a HorizontalPodAutoscaler of either version."""
    spec = obj.get("spec") or {}
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 1:
        faults.invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        faults.invalid("spec.maxReplicas", most, "must be greater than 0")
    if least is not None and most < least:
        faults.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    check_object_reference(spec.get("scaleTargetRef") or {}, "spec.scaleTargetRef", faults)
    share = spec.get("targetCPUUtilizationPercentage")
    if share is not None and share < 1:
        faults.invalid("spec.metrics[0].resource.target.averageUtilization", share, "must be greater than 0")
    for index, metric in enumerate(spec.get("metrics") or []):
        _check_metric(metric, f"spec.metrics[{index}]", faults)
    if least == 0 and not {metric.get("type") for metric in spec.get("metrics") or []} & {"Object", "External"}:
        text = "must specify at least one Object or External metric to support scaling to zero replicas"
        faults.forbidden("spec.metrics", text)
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction)
        if rules is not None:
            _check_scaling(rules, f"spec.behavior.{direction}", faults)


def _check_scaling(rules: dict[str, Any], path: str, faults: Faults) -> None:
    if (window_s := rules.get("stabilizationWindowSeconds")) is not None:
        here = f"{path}.stabilizationWindowSeconds"
        if window_s < 0:
            faults.invalid(here, window_s, "must be greater than or equal to zero")
        elif window_s > _WINDOW_S_MAX:
            faults.invalid(here, window_s, f"must be less than or equal to {_WINDOW_S_MAX}")
    policy = rules.get("selectPolicy")
    if policy is not None and policy not in ("Disabled", "Max", "Min"):
        faults.not_supported(f"{path}.selectPolicy", policy, ["Disabled", "Max", "Min"])
    policies = rules.get("policies") or []
    if not policies:
        faults.required(f"{path}.policies", "must specify at least one Policy")
    for index, entry in enumerate(policies):
        here = f"{path}.policies[{index}]"
        if (kind := entry.get("type") or "") not in ("Percent", "Pods"):
            faults.not_supported(f"{here}.type", kind, ["Percent", "Pods"])
        for field in ("value", "periodSeconds"):
            if (number := entry.get(field) or 0) <= 0:
                faults.invalid(f"{here}.{field}", number, "must be greater than zero")
        if (period_s := entry.get("periodSeconds") or 0) > _PERIOD_S_MAX:
            faults.invalid(f"{here}.periodSeconds", period_s, f"must be less than or equal to {_PERIOD_S_MAX}")
    if (tolerance := rules.get("tolerance")) is not None and quantity.parse(tolerance) < 0:
        faults.invalid(f"{path}.tolerance", tolerance, "must be greater than or equal to 0")


def _check_metric(metric: dict[str, Any], path: str, faults: Faults) -> None:
    kind = metric.get("type") or ""
    if not kind:
        faults.required(f"{path}.type", "must specify a metric source type")
    if kind not in _SOURCES:
        faults.not_supported(f"{path}.type", kind, sorted(_SOURCES))
    given = [source for source in _SOURCES.values() if metric.get(source) is not None]
    if given:
        _check_source(given[0], metric[given[0]], f"{path}.{given[0]}", faults)
    wanted = _SOURCES.get(kind, "")
    if not wanted:
        faults.not_supported(f"{path}.type", kind, sorted(_SOURCES))
    elif wanted not in given:
        faults.required(f"{path}.{wanted}", "must populate information for the given metric source")
    if len(given) != 1:
        for source in given:
            if source != wanted:
                faults.forbidden(f"{path}.{source}", "must populate the given metric source only")


def _check_source(kind: str, source: dict[str, Any], path: str, faults: Faults) -> None:
    if kind == "object":
        check_object_reference(source.get("describedObject") or {}, f"{path}.describedObject", faults)
    if kind in ("object", "external", "pods"):
        name = (source.get("metric") or {}).get("name") or ""
        if not name:
            faults.required(f"{path}.metric.name", "must specify a metric name")
        else:
            faults.invalid_all(f"{path}.metric.name", name, names.path_segment(name))
    else:
        name = source.get("name") or ""
        if not name:
            faults.required(f"{path}.name", "must specify a resource name")
        elif kind == "containerResource":
            check_container_resource_name(name, f"{path}.name", faults)
    if kind == "containerResource":
        container = source.get("container") or ""
        if not container:
            faults.required(f"{path}.container", "must specify a container")
        else:
            faults.invalid_all(f"{path}.container", container, names.dns_label(container))
    _check_target(kind, source.get("target") or {}, f"{path}.target", faults)


def _check_target(kind: str, target: dict[str, Any], path: str, faults: Faults) -> None:
    given = target.get("type") or ""
    if not given:
        faults.required(f"{path}.type", "must specify a metric target type")
    if given not in _TARGETS:
        faults.invalid(f"{path}.type", given, "must be either Utilization, Value, or AverageValue")
    value, average, share = (target.get(field) for field in ("value", "averageValue", "averageUtilization"))
    for field, amount in (("value", value), ("averageValue", average)):
        if amount is not None and quantity.parse(amount) <= 0:
            faults.invalid(f"{path}.{field}", amount, "must be positive")
    if share is not None and share < 1:
        faults.invalid(f"{path}.averageUtilization", share, "must be greater than 0")
    if kind in ("resource", "containerResource"):
        if share is None and average is None:
            faults.required(f"{path}.averageUtilization", _RAW_OR_SHARE)
        if share is not None and average is not None:
            text = "may not set both a target raw value and a target utilization"
            faults.forbidden(f"{path}.averageValue", text)
    elif kind == "pods":
        if average is None:
            faults.required(f"{path}.averageValue", "must specify a positive target averageValue")
    elif value is None and average is None:
        words = "or averageValue" if kind == "object" else "for metric or a per-pod target"
        faults.required(f"{path}.averageValue", f"must set either a target value {words}")
    elif kind == "external" and value is not None and average is not None:
        faults.forbidden(f"{path}.value", "may not set both a target value for metric and a per-pod target")


def check_autoscaler_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what is told of an autoscaler."""
    status = new.get("status") or {}
    for field in ("currentReplicas", "desiredReplicas"):
        faults.not_negative(f"status.{field}", status.get(field))
