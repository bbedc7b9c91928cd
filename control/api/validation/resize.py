"""What a resize may change of a pod that runs: processors and memory of its containers and sidecars, nothing else."""

from __future__ import annotations

from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.pod_resources import quality_of_service
from control.api.validation.amounts import check_resources
from control.api.validation.faults import Faults

MIRROR = "kubernetes.io/config.mirror"
_RESIZABLE = ("cpu", "memory")


def check_pod_resize(new: Object, old: Object, faults: Faults) -> None:
    """Check that a resize changes what it may."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if MIRROR in meta.annotations(old):
        faults.forbidden("", "static pods cannot be resized")
        return
    if (was.get("os") or {}).get("name") == "windows":
        faults.forbidden("", "windows pods cannot be resized")
        return
    for kind in ("containers", "initContainers"):
        if not _check_containers(kind, now.get(kind) or [], was.get(kind) or [], faults):
            return
    before = (old.get("status") or {}).get("qosClass") or quality_of_service(old)
    if (after := quality_of_service(new)) != before:
        faults.invalid("spec", after, "Pod QOS Class may not change as a result of resizing")
    if _without_resizable(now) != _without_resizable(was):
        faults.forbidden("spec", "only cpu and memory resources are mutable")


def _check_containers(kind: str, new: list[dict[str, Any]], old: list[dict[str, Any]], faults: Faults) -> bool:
    """Check one list of containers; tell whether they are the same ones."""
    path = f"spec.{kind}"
    if len(new) != len(old):
        faults.forbidden(path, f"{kind} may not be added or removed on resize")
        return False
    renamed = False
    for index, (now, was) in enumerate(zip(new, old, strict=True)):
        here = f"{path}[{index}]"
        if now.get("name") != was.get("name"):
            faults.forbidden(f"{here}.name", "containers may not be renamed or reordered on resize")
            renamed = True
            continue
        wanted, held = now.get("resources") or {}, was.get("resources") or {}
        if wanted == held:
            continue
        if kind == "initContainers" and was.get("restartPolicy") != "Always":
            faults.forbidden(f"{here}.resources", "resources for non-sidecar init containers are immutable")
            continue
        for part, word in (("limits", "limits"), ("requests", "requests")):
            lost = set(held.get(part) or {}) - set(wanted.get(part) or {})
            if lost & set(_RESIZABLE):
                faults.forbidden(f"{here}.resources.{part}", f"resource {word} cannot be removed")
        check_resources(wanted, f"{here}.resources", faults)
    return not renamed


def _without_resizable(spec: Object) -> dict[str, Any]:
    """Return a pod's spec without the amounts that a resize may change."""
    result: dict[str, Any] = copy_json(spec)
    holders = [*(result.get("containers") or ()), *(result.get("initContainers") or ()), result]
    for holder in holders:
        resources = holder.get("resources") or {}
        for part in ("limits", "requests"):
            kept = {name: text for name, text in (resources.get(part) or {}).items() if name not in _RESIZABLE}
            resources.pop(part, None)
            if kept:
                resources[part] = kept
        if not resources:
            holder.pop("resources", None)
    return result
