"""HorizontalPodAutoscalers in autoscaling/v1, which says in annotations what it has no fields for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import orjson

from control.api.decode import DecodeError, clean
from control.api.meta import Object

_PREFIX = "autoscaling.alpha.kubernetes.io/"
METRICS, CURRENT_METRICS = _PREFIX + "metrics", _PREFIX + "current-metrics"
BEHAVIOR, CONDITIONS = _PREFIX + "behavior", _PREFIX + "conditions"
_ANNOTATIONS = frozenset({
    METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS, _PREFIX + "scale-down-tolerance", _PREFIX + "scale-up-tolerance",
})  # fmt: skip
CPU_PERCENTAGE = 80
"""What an autoscaler without metrics aims at."""

_Names: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Fields of a metric in v1, and the way to each in v2."""

_NAME, _SELECTOR = ("metricName", ("metric", "name")), ("selector", ("metric", "selector"))
_TARGETS: dict[str, _Names] = {
    "object": (
        ("target", ("describedObject",)), _NAME, ("targetValue", ("target", "value")), _SELECTOR,
        ("averageValue", ("target", "averageValue")),
    ),
    "pods": (_NAME, ("targetAverageValue", ("target", "averageValue")), _SELECTOR),
    "resource": (
        ("name", ("name",)), ("targetAverageUtilization", ("target", "averageUtilization")),
        ("targetAverageValue", ("target", "averageValue")),
    ),
    "containerResource": (
        ("name", ("name",)), ("targetAverageUtilization", ("target", "averageUtilization")),
        ("targetAverageValue", ("target", "averageValue")), ("container", ("container",)),
    ),
    "external": (
        _NAME, ("metricSelector", ("metric", "selector")), ("targetValue", ("target", "value")),
        ("targetAverageValue", ("target", "averageValue")),
    ),
}  # fmt: skip


def _currents() -> dict[str, _Names]:
    def name(old: str, path: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        if path[0] != "target":
            return old, path
        return old.replace("target", "current"), ("current", *path[1:])

    return {source: tuple(name(*each) for each in names) for source, names in _TARGETS.items()}


_CURRENTS = _currents()


def to_v1(obj: Object) -> Object:
    """Return an autoscaler of autoscaling/v2 as autoscaling/v1 has it."""
    spec, found = dict(obj.get("spec") or {}), obj.get("status") or {}
    said: dict[str, Any] = {}
    others = []
    for metric in spec.pop("metrics", None) or ():
        share = ((metric.get("resource") or {}).get("target") or {}).get("averageUtilization")
        if not _is_cpu(metric) or share is None:
            others.append(_renamed(metric, _TARGETS))
        else:
            spec.setdefault("targetCPUUtilizationPercentage", share)
    if others:
        said[METRICS] = others
    kept = ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")
    made = {name: found[name] for name in kept if name in found}
    if currents := found.get("currentMetrics"):
        said[CURRENT_METRICS] = [_renamed(metric, _CURRENTS) for metric in currents]
    for metric in currents or ():
        share = ((metric.get("resource") or {}).get("current") or {}).get("averageUtilization")
        if _is_cpu(metric) and share is not None:
            made["currentCPUUtilizationPercentage"] = share
    if (behavior := spec.pop("behavior", None)) is not None:
        said[BEHAVIOR] = _capitalized(behavior)
    if conditions := found.get("conditions"):
        said[CONDITIONS] = conditions
    made.setdefault("currentReplicas", 0)
    made.setdefault("desiredReplicas", 0)
    texts = {name: orjson.dumps(value).decode() for name, value in said.items()}
    return {**_annotated(obj, texts), "spec": spec, "status": made}


def to_v2(obj: Object) -> Object:
    """Return an autoscaler of autoscaling/v1 as autoscaling/v2 has it: what cannot be read in annotations is lost."""
    spec, found = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    said = (obj.get("metadata") or {}).get("annotations") or {}
    metrics = _metrics(said, METRICS, _TARGETS, "autoscaling.v2.MetricSpec") or []
    if (percentage := spec.pop("targetCPUUtilizationPercentage", None)) is not None:
        metrics = [*metrics, _cpu("target", {"type": "Utilization", "averageUtilization": percentage})]
    target = {"type": "Utilization", "averageUtilization": CPU_PERCENTAGE}
    spec["metrics"] = metrics or [_cpu("target", target)]
    behavior = _read(_uncapitalized(_parsed(said, BEHAVIOR)), "autoscaling.v2.HorizontalPodAutoscalerBehavior")
    if behavior:
        spec["behavior"] = behavior
    if (percentage := found.pop("currentCPUUtilizationPercentage", None)) is not None:
        found["currentMetrics"] = [_cpu("current", {"averageUtilization": percentage})]
    currents = _metrics(said, CURRENT_METRICS, _CURRENTS, "autoscaling.v2.MetricStatus")
    if currents is not None:
        found["currentMetrics"] = currents
    conditions = _parsed(said, CONDITIONS)
    if isinstance(conditions, list):
        read = [_read(each, "autoscaling.v2.HorizontalPodAutoscalerCondition") for each in conditions]
        if None not in read:
            found["conditions"] = read
    return {**_annotated(obj, {}), "spec": spec, "status": found}


def _is_cpu(metric: Mapping[str, Any]) -> bool:
    return metric.get("type") == "Resource" and (metric.get("resource") or {}).get("name") == "cpu"


def _cpu(part: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": "cpu", part: value}}


def _annotated(obj: Object, texts: Mapping[str, str]) -> Object:
    """Return the object with these of the annotations that are ours, and no others of them."""
    metadata = dict(obj.get("metadata") or {})
    found = metadata.pop("annotations", None) or {}
    made = {**{name: text for name, text in found.items() if name not in _ANNOTATIONS}, **texts}
    if made:
        metadata["annotations"] = made
    return {**obj, "metadata": metadata}


def _renamed(metric: Mapping[str, Any], sources: Mapping[str, _Names]) -> dict[str, Any]:
    made = {"type": metric.get("type", "")}
    for source, names in sources.items():
        if (found := metric.get(source)) is None:
            continue
        inner = {}
        for old, path in names:
            value: Any = found
            for part in path:
                value = value.get(part) if value else None
            if value is not None:
                inner[old] = value
        made[source] = inner
    return made


def _metrics(
    said: Mapping[str, str], annotation: str, sources: Mapping[str, _Names], definition: str
) -> list[Object] | None:
    found = _parsed(said, annotation)
    if not isinstance(found, list):
        return None
    made = [_read(_named_back(each, sources), definition) for each in found]
    return None if None in made else [each for each in made if each is not None]


def _named_back(metric: Any, sources: Mapping[str, _Names]) -> Any:
    if not isinstance(metric, dict):
        return None
    made: dict[str, Any] = {"type": metric.get("type", "")}
    for source, names in sources.items():
        if (found := metric.get(source)) is None:
            continue
        if not isinstance(found, dict):
            return None
        inner: dict[str, Any] = {}
        made[source] = inner
        for old, path in names:
            if (value := found.get(old)) is not None:
                (inner.setdefault(path[0], {}) if len(path) > 1 else inner)[path[-1]] = value
        if sources is _TARGETS:
            target = inner.setdefault("target", {})
            # v1 has no way to leave this one out: nothing is as much as zero there.
            if source == "object" and "averageValue" in target and target.get("value") == "0":
                del target["value"]
            target["type"] = _target_type(source, target)
    return made


def _target_type(source: str, target: Mapping[str, Any]) -> str:
    if "averageUtilization" in target:
        return "Utilization"
    if source == "external":
        return "Value" if "value" in target else "AverageValue"
    return "Value" if source == "object" and "averageValue" not in target else "AverageValue"


def _parsed(said: Mapping[str, str], annotation: str) -> Any:
    try:
        return orjson.loads(said.get(annotation, "null"))
    except orjson.JSONDecodeError:
        return None


def _read(value: Any, definition: str) -> Object | None:
    """Return a structure as its definition has it; None if it is not of that form."""
    if not isinstance(value, dict):
        return None
    try:
        return clean(value, definition)[0]
    except DecodeError:
        return None


def _capitalized(value: Any) -> Any:
    """Return a behavior with the names that its fields have in Go: the original keeps them in this annotation."""
    if isinstance(value, dict):
        return {name[:1].upper() + name[1:]: _capitalized(each) for name, each in value.items()}
    return [_capitalized(each) for each in value] if isinstance(value, list) else value


_BEHAVIOR_NAMES = {
    name.lower(): name
    for name in (
        "scaleUp", "scaleDown", "stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance", "type",
        "value", "periodSeconds",
    )
}  # fmt: skip


def _uncapitalized(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(_lowered(value.items()))
    return [_uncapitalized(each) for each in value] if isinstance(value, list) else value


def _lowered(fields: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    for name, value in fields:
        if value is not None:
            yield _BEHAVIOR_NAMES.get(name.lower(), name), _uncapitalized(value)
