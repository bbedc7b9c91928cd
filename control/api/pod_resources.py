"""What a pod asks for as a whole: its containers, sidecars and init steps, its own resources and its overhead.

Containers and sidecars run together, an init step beside the sidecars before it; the pod needs what the largest
moment needs. While a running pod is being resized, it holds what it has and what it wants, whichever is more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from control.api import quantity
from control.api.amounts import Amounts, are_equal, highest, total
from control.api.meta import Object

POD_LEVEL = ("cpu", "memory")
"""Resources that a pod may ask for as a whole, beside huge pages."""
HUGE_PAGES = "hugepages-"
Ask = Callable[[dict[str, Any]], Amounts]
"""Returns what one container asks for."""


def requests(pod: Object) -> dict[str, str]:
    """Return the requests of a pod, its overhead included."""
    spec = pod.get("spec") or {}
    found = _held(pod, "requests")
    found.update(pod_level(spec, "requests"))
    return total((found, spec.get("overhead") or {}))


def limits(pod: Object) -> dict[str, str]:
    """Return the limits of a pod; overhead counts where there is a limit at all."""
    spec = pod.get("spec") or {}
    found = _held(pod, "limits")
    found.update(pod_level(spec, "limits"))
    overhead = spec.get("overhead") or {}
    return total((found, {name: text for name, text in overhead.items() if quantity.parse(found.get(name) or "0")}))


def pod_level(spec: Object, part: str) -> dict[str, str]:
    """Return what stands in the pod's own resources, beside those of its containers."""
    found: Amounts = (spec.get("resources") or {}).get(part) or {}
    return {name: text for name, text in found.items() if name in POD_LEVEL or name.startswith(HUGE_PAGES)}


def has_pod_level(spec: Object) -> bool:
    """Tell whether the pod names resources of its own."""
    return bool(pod_level(spec, "requests") or pod_level(spec, "limits"))


def _held(pod: Object, part: str) -> dict[str, str]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    wished = of_containers(spec, part)
    known = {
        entry.get("name"): entry
        for field in ("containerStatuses", "initContainerStatuses")
        for entry in status.get(field) or ()
        if entry.get("resources") or entry.get("allocatedResources")
    }
    if not known:
        return wished
    refused = is_resize_infeasible(pod)

    def actual(container: dict[str, Any]) -> Amounts:
        entry = known.get(container.get("name")) or {}
        found: Amounts | None = (entry.get("resources") or {}).get(part)
        if found is None and part == "requests":
            found = entry.get("allocatedResources")
        return found if found is not None else _wish(container, part, refused)

    def allocated(container: dict[str, Any]) -> Amounts:
        found: Amounts | None = (known.get(container.get("name")) or {}).get("allocatedResources")
        return found if found is not None else _wish(container, part, refused)

    held = _aggregate(spec, actual)
    if part == "requests":
        held = highest(held, _aggregate(spec, allocated))
    return held if refused else highest(wished, held)


def _wish(container: dict[str, Any], part: str, refused: bool) -> Amounts:
    return {} if refused else (container.get("resources") or {}).get(part) or {}


def is_resize_infeasible(pod: Object) -> bool:
    """Tell whether the node said that it can never give what the pod was resized to."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(entry.get("type") == "PodResizePending" and entry.get("reason") == "Infeasible" for entry in conditions)


def of_containers(spec: Object, part: str) -> dict[str, str]:
    """Return what the containers of a pod ask for together, its own resources and its overhead aside."""
    return _aggregate(spec, lambda container: (container.get("resources") or {}).get(part) or {})


def _aggregate(spec: Object, ask: Ask) -> dict[str, str]:
    running = [ask(container) for container in spec.get("containers") or ()]
    sidecars: dict[str, str] = {}
    peak: dict[str, str] = {}
    for container in spec.get("initContainers") or ():
        wanted = ask(container)
        if container.get("restartPolicy") == "Always":
            sidecars = total((sidecars, wanted))
            peak = highest(peak, sidecars)
        else:
            peak = highest(peak, total((sidecars, wanted)))
    return highest(total((*running, sidecars)), peak)


def quality_of_service(pod: Object) -> str:
    """Return the QoS class of a pod: Guaranteed, Burstable or BestEffort."""
    spec = pod.get("spec") or {}
    asking = (
        [spec.get("resources") or {}]
        if has_pod_level(spec)
        else [
            container.get("resources") or {}
            for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        ]
    )
    return _quality_of(orjson.dumps(asking))


@lru_cache(maxsize=1024)
def _quality_of(resources_json: bytes) -> str:
    """Return the class of pods whose parts ask for this; most pods ask as others of their workload do."""
    asking: list[Object] = orjson.loads(resources_json)
    sums = {part: total(_counted(resources, part) for resources in asking) for part in ("requests", "limits")}
    if not sums["requests"] and not sums["limits"]:
        return "BestEffort"
    complete = all(len(_counted(resources, "limits")) == len(POD_LEVEL) for resources in asking)
    if complete and are_equal(sums["requests"], sums["limits"]):
        return "Guaranteed"
    return "Burstable"


def _counted(resources: Object, part: str) -> dict[str, str]:
    """Return the amounts that the QoS class is judged by: those of processors and memory that are not zero."""
    found: Amounts = resources.get(part) or {}
    return {name: found[name] for name in POD_LEVEL if quantity.parse(found.get(name) or "0") > 0}
