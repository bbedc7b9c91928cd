"""PURE: reads a pod object: its containers in order, policies, probes, grace and quality of service."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from control.api import quantity
from control.api.meta import Object

ContainerKind = Literal["init", "sidecar", "main", "ephemeral"]
RestartPolicy = Literal["Always", "OnFailure", "Never"]
QosClass = Literal["Guaranteed", "Burstable", "BestEffort"]

GRACE_DEFAULT_S = 30.0
GRACE_LEAST_S = 2.0  # a container always gets this much between SIGTERM and SIGKILL, except at grace 0
PHASES_TERMINAL = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container of a pod and the role it plays."""

    name: str
    kind: ContainerKind
    spec: dict[str, Any]

    @property
    def image(self) -> str:
        """The image as the user wrote it."""
        return str(self.spec.get("image", ""))


def containers(pod: Object) -> Iterator[ContainerSpec]:
    """Yield all containers in the order in which they start."""
    spec = pod.get("spec", {})
    for entry in spec.get("initContainers") or ():
        kind: ContainerKind = "sidecar" if entry.get("restartPolicy") == "Always" else "init"
        yield ContainerSpec(entry["name"], kind, entry)
    for entry in spec.get("containers") or ():
        yield ContainerSpec(entry["name"], "main", entry)
    for entry in spec.get("ephemeralContainers") or ():
        yield ContainerSpec(entry["name"], "ephemeral", entry)


def container(pod: Object, name: str) -> ContainerSpec | None:
    """Return the container of this name."""
    return next((found for found in containers(pod) if found.name == name), None)


def restart_policy(pod: Object, wanted: ContainerSpec) -> RestartPolicy:
    """Return what happens when this container ends."""
    if wanted.kind == "sidecar":
        return "Always"
    if wanted.kind == "ephemeral":
        return "Never"
    policy: RestartPolicy = wanted.spec.get("restartPolicy") or pod["spec"].get("restartPolicy") or "Always"
    if wanted.kind == "init" and policy == "Always":
        return "OnFailure"  # an init container that succeeded has done its work
    return policy


def rule_restarts(wanted: ContainerSpec, exit_code: int) -> bool:
    """Tell whether one of the container's own rules asks for a restart on this exit code."""
    for rule in wanted.spec.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        listed = exit_code in (codes.get("values") or ())
        if rule.get("action") == "Restart" and (listed if codes.get("operator") == "In" else not listed):
            return True
    return False


def spec_hash(wanted: ContainerSpec) -> str:
    """Return what must stay the same for a running container to be kept."""
    return f"{zlib.crc32(f'{wanted.name} {wanted.image}'.encode()):08x}"


def grace_period_s(pod: Object) -> float:
    """Return the grace of a pod that is being ended: the deletion's own, else the spec's."""
    metadata = pod.get("metadata", {})
    if metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") is not None:
        return float(metadata["deletionGracePeriodSeconds"])
    wanted = pod.get("spec", {}).get("terminationGracePeriodSeconds")
    return GRACE_DEFAULT_S if wanted is None else float(wanted)


def probe(wanted: ContainerSpec, kind: str) -> dict[str, Any] | None:
    """Return the container's startup, readiness or liveness probe."""
    found: dict[str, Any] | None = wanted.spec.get(f"{kind}Probe")
    return found


def hook(wanted: ContainerSpec, name: Literal["postStart", "preStop"]) -> dict[str, Any] | None:
    """Return the container's life cycle hook of this name."""
    found: dict[str, Any] | None = (wanted.spec.get("lifecycle") or {}).get(name)
    return found


def host_network(pod: Object) -> bool:
    """Tell whether the pod lives in the node's network."""
    return bool(pod.get("spec", {}).get("hostNetwork"))


def pull_policy(wanted: ContainerSpec) -> str:
    """Return Always, IfNotPresent or Never."""
    policy = wanted.spec.get("imagePullPolicy")
    if policy:
        return str(policy)
    tag = wanted.image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") and "@" not in wanted.image else "IfNotPresent"


def requests(wanted: ContainerSpec) -> dict[str, str]:
    """Return the container's requests, limits standing in where a request is missing."""
    resources = wanted.spec.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def limits(wanted: ContainerSpec) -> dict[str, str]:
    """Return the container's limits."""
    return dict((wanted.spec.get("resources") or {}).get("limits") or {})


def qos_class(pod: Object) -> QosClass:
    """Return the pod's quality of service: limits equal requests, some of them, or none."""
    guaranteed, something = True, False
    for entry in containers(pod):
        if entry.kind == "ephemeral":
            continue
        wanted, capped = requests(entry), limits(entry)
        for resource in ("cpu", "memory"):
            asked, limit = (quantity.parse(values.get(resource, "0")) for values in (wanted, capped))
            something = something or asked > 0 or limit > 0
            guaranteed = guaranteed and limit > 0 and asked == limit
    if not something:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def total(pod: Object, resource: str, of: Literal["requests", "limits"]) -> int | None:
    """Return the pod's sum in thousandths as its cgroup is sized; None where a container has no limit.

    Init containers run before the others, so the larger of the two counts; sidecars run beside both.
    """
    running, starting, sidecars = 0, 0, 0
    for entry in containers(pod):
        if entry.kind == "ephemeral":
            continue
        values = requests(entry) if of == "requests" else limits(entry)
        if of == "limits" and resource not in values:
            return None
        amount = quantity.milli(values.get(resource, "0"))
        if entry.kind == "main":
            running += amount
        elif entry.kind == "sidecar":
            sidecars += amount
            starting = max(starting, sidecars)
        else:
            starting = max(starting, sidecars + amount)
    return max(running + sidecars, starting)


def is_static_terminal(pod: Object) -> bool:
    """Tell whether the pod's stored phase is a last one."""
    return (pod.get("status") or {}).get("phase") in PHASES_TERMINAL
