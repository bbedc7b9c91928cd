"""Rules of what controllers tell of objects: counts that fit each other, addresses, conditions, nothing undone."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.amounts import check_amount
from control.api.validation.faults import Faults
from control.api.validation.forms import check_conditions, metadata_of
from control.api.validation.internal import internal

_MORE_THAN_ALL = "cannot be greater than status.replicas"
_FINAL = ("Failed", "Complete", "FailureTarget")


def _check_counts(status: dict[str, Any], fields: tuple[str, ...], faults: Faults) -> None:
    for field in fields:
        faults.not_negative(f"status.{field}", status.get(field))


def _check_collisions(new: Object, old: Object, faults: Faults) -> None:
    now, was = ((obj.get("status") or {}).get("collisionCount") for obj in (new, old))
    if was is not None and (now or 0) < was:
        faults.invalid("status.collisionCount", now or 0, "cannot be decremented")


def _check_replicas(status: dict[str, Any], fields: tuple[str, ...], ready: str, faults: Faults) -> None:
    """Check that no part is larger than the whole, and that all that is available is ready."""
    total = status.get("replicas") or 0
    for field in fields:
        if (count := status.get(field) or 0) > total:
            faults.invalid(f"status.{field}", count, _MORE_THAN_ALL)
    available = status.get("availableReplicas") or 0
    if available > (status.get("readyReplicas") or 0):
        faults.invalid("status.availableReplicas", available, f"cannot be greater than {ready}")


def check_deployment_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a Deployment."""
    status = new.get("status") or {}
    counts = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas",
              "unavailableReplicas", "collisionCount", "terminatingReplicas")  # fmt: skip
    _check_counts(status, counts, faults)
    _check_replicas(status, ("updatedReplicas", "readyReplicas", "availableReplicas"), "readyReplicas", faults)
    _check_collisions(new, old, faults)


def check_replica_set_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a ReplicaSet or a ReplicationController."""
    status = new.get("status") or {}
    parts = ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    _check_counts(status, ("replicas", *parts, "observedGeneration", "terminatingReplicas"), faults)
    _check_replicas(status, parts, "readyReplicas", faults)


def check_stateful_set_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a StatefulSet."""
    status = new.get("status") or {}
    parts = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
    _check_counts(status, ("replicas", *parts, "observedGeneration", "collisionCount"), faults)
    _check_replicas(status, parts, "status.readyReplicas", faults)
    _check_collisions(new, old, faults)


def check_daemon_set_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a DaemonSet."""
    counts = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady",
              "observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable",
              "collisionCount")  # fmt: skip
    _check_counts(new.get("status") or {}, counts, faults)
    _check_collisions(new, old, faults)


def check_budget_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a PodDisruptionBudget."""
    status = new.get("status") or {}
    check_conditions(status.get("conditions") or [], "status.conditions", faults)
    _check_counts(status, ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), faults)


def check_conditions_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the conditions of a kind whose status is little else."""
    check_conditions((new.get("status") or {}).get("conditions") or [], "status.conditions", faults)


def check_namespace_status(new: Object, old: Object, faults: Faults) -> None:
    """Check that a namespace's phase tells whether it ends."""
    phase = (new.get("status") or {}).get("phase") or ""
    if metadata_of(new).get("deletionTimestamp"):
        if phase != "Terminating":
            text = "may only be 'Terminating' if `deletionTimestamp` is not empty"
            faults.invalid("status.Phase", phase, text)
    elif phase != "Active":
        faults.invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty")


def check_node_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what a node has and where it is reached."""
    status = new.get("status") or {}
    for field in ("capacity", "allocatable"):
        for name, amount in (status.get(field) or {}).items():
            check_amount(name, amount, f"status.{field}.{name}", faults)
    addresses = status.get("addresses") or []
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            faults.duplicate(f"status.addresses[{index}]", internal("core.v1.NodeAddress", address))


def check_service_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the addresses that a load balancer gave a service."""
    status = (new.get("status") or {}).get("loadBalancer") or {}
    entries = status.get("ingress") or []
    path = "status.loadBalancer.ingress"
    if entries and (new.get("spec") or {}).get("type") != "LoadBalancer":
        faults.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, entry in enumerate(entries):
        here, mode = f"{path}[{index}]", entry.get("ipMode")
        _check_balancer_entry(entry, here, faults)
        if entry.get("ip"):
            if mode is None:
                faults.required(f"{here}.ipMode", "must be specified when `ip` is set")
            elif mode not in ("Proxy", "VIP"):
                faults.not_supported(f"{here}.ipMode", mode, ["Proxy", "VIP"])
        elif mode is not None:
            faults.forbidden(f"{here}.ipMode", "may not be specified when `ip` is not set")


def _check_balancer_entry(entry: dict[str, Any], path: str, faults: Faults) -> None:
    if address := entry.get("ip"):
        faults.invalid_all(f"{path}.ip", address, ip_forms.address(address))
    if host := entry.get("hostname"):
        faults.invalid_all(f"{path}.hostname", host, names.dns_subdomain(host))
        if ip_forms.parse_address(host) is not None:
            faults.invalid(f"{path}.hostname", host, "must be a DNS name, not an IP address")


def check_ingress_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the addresses that a load balancer gave an ingress."""
    status = (new.get("status") or {}).get("loadBalancer") or {}
    for index, entry in enumerate(status.get("ingress") or []):
        _check_balancer_entry(entry, f"status.loadBalancer.ingress[{index}]", faults)


def check_attachment_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what is told of a volume's attachment."""
    status = new.get("status") or {}
    size = sum(len(key) + len(value) for key, value in (status.get("attachmentMetadata") or {}).items())
    if size > 256 * 1024:
        faults.too_long("status.attachmentMetadata", 256 * 1024)
    for field in ("attachError", "detachError"):
        error = status.get(field) or {}
        if len(error.get("message") or "") > 1024:
            faults.too_long(f"status.{field}.message", 256 * 1024)  # the number that Kubernetes tells
        faults.within(f"status.{field}.errorCode", error.get("errorCode"), 0, 2147483647)


def check_flow_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the conditions of flow schemas and priority levels."""
    seen: set[str] = set()
    for index, condition in enumerate((new.get("status") or {}).get("conditions") or []):
        here, kind = f"status.conditions[{index}].type", condition.get("type") or ""
        if kind in seen:
            faults.duplicate(here, kind)
        seen.add(kind)
        if not kind:
            faults.required(here, "must not be empty")


def is_final(job: Object) -> bool:
    """Tell whether a job has ended."""
    return bool(true_conditions(job) & {"Complete", "Failed"})


def true_conditions(obj: Object) -> set[str]:
    """Return the types of conditions that stand at True."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return {str(entry.get("type")) for entry in conditions if entry.get("status") == "True"}


def check_terminal_conditions(new: Object, old: Object, faults: Faults) -> None:
    """Check that a job that ended does not begin again."""
    now, was = true_conditions(new), true_conditions(old)
    for kind in _FINAL:
        if kind in was and kind not in now:
            faults.wrong("status.conditions", f"cannot disable the terminal {kind}=True condition")
