"""What a resize may change of a pod that runs: processors and memory of itself and its containers, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.pod_resources import quality_of_service
from control.api.validation.faults import Faults
from control.api.validation.podannotations import MIRROR
from control.api.validation.podupdates import check_whole_anew

_RESIZABLE = ("cpu", "memory")
_PARTS = ("requests", "limits")
_ONLY = "only cpu and memory resources are mutable"


def check_pod_resize(new: Object, old: Object, faults: Faults) -> None:
    """Check that a resize changes what it may."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if MIRROR in meta.annotations(old):
        faults.forbidden("", "static pods cannot be resized")
        return
    if (was.get("os") or {}).get("name") == "windows":
        faults.forbidden("", "windows pods cannot be resized")
        return
    check_whole_anew(new, old, faults)
    _check_class_and_node(new, old, faults)
    result: dict[str, Any] = copy_json(now)
    if any(_has_amounts(spec.get("resources")) for spec in (now, was)):
        _check_pod_level(result, was, faults)
    if (old.get("status") or {}).get("nodeAllocatableResourceClaimStatuses"):
        faults.forbidden("spec", "pods with node allocatable resource claims cannot be resized")
    if not _are_same_containers(now, was, faults):
        return
    for kind in ("initContainers", "containers"):
        for index, (held, before) in enumerate(zip(now.get(kind) or (), was.get(kind) or (), strict=True)):
            path = f"spec.{kind}[{index}].resources"
            for part in _PARTS:
                if _is_less(held.get("resources"), before.get("resources"), part):
                    faults.forbidden(f"{path}.{part}", f"resource {part} cannot be removed")
    _check_containers(result, was, faults)
    _check_init_containers(result, was, faults)
    if not faults and result != was:
        faults.forbidden("spec", _ONLY)


def _check_class_and_node(new: Object, old: Object, faults: Faults) -> None:
    before = (old.get("status") or {}).get("qosClass") or quality_of_service(old)
    if quality_of_service(new) != before:
        shown = (new.get("status") or {}).get("qosClass") or ""
        faults.invalid("spec", shown, "Pod QOS Class may not change as a result of resizing")
    for status in (old.get("status") or {}).get("containerStatuses") or ():
        if (status.get("state") or {}).get("running") is not None:
            if status.get("resources") is None:
                faults.forbidden("spec", "Pod running on node without support for resize")
            return


def _has_amounts(resources: Mapping[str, Any] | None) -> bool:
    return bool(resources) and any((resources or {}).get(part) for part in _PARTS)


def _is_less(now: Mapping[str, Any] | None, was: Mapping[str, Any] | None, part: str) -> bool:
    return bool(set((was or {}).get(part) or ()) - set((now or {}).get(part) or ()))


def _check_pod_level(result: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    """Check the pod's own resources, and put the old amounts where a change is allowed."""
    before = was.get("resources")
    if before is not None and result.get("resources") is None:
        faults.forbidden("spec.resources", "pod-level resources cannot be removed")
        return
    for part in _PARTS:
        if _is_less(result.get("resources"), before, part):
            faults.forbidden(f"spec.resources.{part}", f"pod-level resource {part} cannot be removed")
    _put_back(result, was)
    if _comparable(result.get("resources")) != _comparable(before):
        faults.forbidden("spec", f"{_ONLY} at pod-level")
    else:
        _restore(result, was, "resources")


def _comparable(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    return {field: value for field, value in (resources or {}).items() if value}


def _put_back(holder: dict[str, Any], was: Mapping[str, Any]) -> None:
    """Give a pod or a container the old amounts of what may be resized, in place."""
    resources = dict(holder.get("resources") or {})
    for part in _PARTS:
        amounts = {name: text for name, text in (resources.get(part) or {}).items() if name not in _RESIZABLE}
        old = (was.get("resources") or {}).get(part) or {}
        resources[part] = amounts | {name: text for name, text in old.items() if name in _RESIZABLE}
    holder["resources"] = resources


def _restore(holder: dict[str, Any], was: Mapping[str, Any], field: str) -> None:
    if field in was:
        holder[field] = was[field]
    else:
        holder.pop(field, None)


def _are_same_containers(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> bool:
    before = len(faults.causes)
    for kind in ("containers", "initContainers"):
        new, old = now.get(kind) or (), was.get(kind) or ()
        if len(new) != len(old):
            faults.forbidden(f"spec.{kind}", f"{kind} may not be added or removed on resize")
            continue
        for index, (container, held) in enumerate(zip(new, old, strict=True)):
            if container.get("name") != held.get("name"):
                text = f"{kind} may not be renamed or reordered on resize"
                faults.forbidden(f"spec.{kind}[{index}].name", text)
    return len(faults.causes) == before


def _is_changed_beside(container: dict[str, Any], was: dict[str, Any]) -> bool:
    """Tell whether more than what may be resized differs; the old resources stand in the container after it."""
    rest = {**container, "resources": None} != {**was, "resources": None}
    claims = (container.get("resources") or {}).get("claims")  # a resize says nothing of them
    _put_back(container, was)
    changed = {part: container["resources"][part] for part in _PARTS} != {
        part: (was.get("resources") or {}).get(part) or {} for part in _PARTS
    }
    changed = changed or claims != (was.get("resources") or {}).get("claims")
    _restore(container, was, "resources")
    return rest or changed


def _check_containers(result: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    for container, before in zip(result.get("containers") or (), was.get("containers") or (), strict=True):
        if _is_changed_beside(container, before):
            faults.forbidden("spec", _ONLY)


def _check_init_containers(result: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    pairs = zip(result.get("initContainers") or (), was.get("initContainers") or (), strict=True)
    for index, (container, before) in enumerate(pairs):
        here, is_changed = f"spec.initContainers[{index}]", container != before
        if _is_changed_beside(container, before):
            faults.forbidden(here, "only cpu and memory resources for init or sidecar containers are mutable")
        if is_changed and container.get("restartPolicy") != "Always":
            for policy in container.get("resizePolicy") or ():
                if policy.get("restartPolicy") == "RestartContainer":
                    text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
                    faults.forbidden(here, text)
