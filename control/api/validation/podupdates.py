"""What may change of a pod, through which door: its object, its status, ephemeral containers, new sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation import ip_forms, names
from control.api.validation.differences import difference, internal_pod_spec
from control.api.validation.faults import Faults
from control.api.validation.forms import is_dual_stack, metadata_of
from control.api.validation.internal import internal
from control.api.validation.nodeselectors import check_tolerations
from control.api.validation.podannotations import APP_ARMOR, MIRROR, check_pod_annotations
from control.api.validation.pods import check_pod_metadata_and_spec
from control.api.validation.security import ID_MAX

_SYSTEM_CONDITIONS = ("PodScheduled", "Ready", "Initialized")
_UPDATE_FORBIDDEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_REQUIRED_TERMS = "requiredDuringSchedulingIgnoredDuringExecution"
_NOT_NEGATIVE = "must be a non-negative integer"
_CONTAINER_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_HEALTH = ("Healthy", "Unhealthy", "Unknown")
_OF_REQUEST = "must match one of the container's resource requests"
_OF_CLAIM = (
    "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or "
    "'claim:<claimName>' if request is empty"
)


def check_pod_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a pod's spec changes only where it may."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    check_whole_anew(new, old, faults)
    _check_annotation_update(new, old, faults)
    for kind in ("containers", "initContainers"):
        if len(now.get(kind) or []) != len(was.get(kind) or []):
            faults.forbidden(f"spec.{kind}", "pod updates may not add or remove containers")
            return
        for index, container in enumerate(now.get(kind) or []):
            image, here = container.get("image") or "", f"spec.{kind}[{index}].image"
            if not image:
                faults.required(here)
            elif image != image.strip():
                faults.invalid(here, image, "must not have leading or trailing whitespace")
    if not _check_deadline_update(now, was, faults):
        return
    if now.get("tolerations") != was.get("tolerations"):
        _check_tolerations_update(now, was, faults)
    _check_gates_update(now, was, faults)
    if now == was:
        return
    permitted = _with_permitted_changes(now, was, faults)
    if permitted != was:
        lines = difference(internal_pod_spec(was), internal_pod_spec(permitted))
        faults.forbidden("spec", f"{_UPDATE_FORBIDDEN}\n{lines}")


def check_whole_anew(new: Object, old: Object, faults: Faults) -> None:
    """Check all that holds for any pod; what it held before the change may stay."""
    if new.get("spec") == old.get("spec") and metadata_of(new).get("annotations") == metadata_of(old).get(
        "annotations"
    ):
        return
    found = Faults()
    check_pod_metadata_and_spec(new, found)
    if found:
        before = Faults()
        check_pod_metadata_and_spec(old, before)
        faults.causes.extend(cause for cause in found.causes if cause not in before.causes)


def _check_annotation_update(new: Object, old: Object, faults: Faults) -> None:
    now, was = (metadata_of(obj).get("annotations") or {} for obj in (new, old))
    if now == was:
        return
    for key in {**was, **now}:
        if key != MIRROR and not key.startswith(APP_ARMOR):
            continue
        word = "mirror pod annotation" if key == MIRROR else "AppArmor annotations"
        if key not in was:
            faults.forbidden(f"metadata.annotations[{key}]", f"may not add {word}")
        elif now.get(key) != was[key]:
            faults.forbidden(f"metadata.annotations[{key}]", f"may not remove or update {word}")
    check_pod_annotations(now, new.get("spec") or {}, "metadata.annotations", faults)


def _check_deadline_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> bool:
    """Check the deadline, which may only come nearer; tell whether it is right."""
    new, old = now.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds")
    path = "spec.activeDeadlineSeconds"
    if new is None:
        if old is not None:
            faults.invalid(path, None, "must not update from a positive integer to nil value")
        return True
    before = len(faults.causes)
    faults.within(path, new, 0, 2147483647)
    if len(faults.causes) == before and old is not None and old < new:
        faults.invalid(path, new, "must be less than or equal to previous value")
    return len(faults.causes) == before


def _check_tolerations_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    def without_seconds(toleration: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    new = [without_seconds(toleration) for toleration in now.get("tolerations") or []]
    for toleration in was.get("tolerations") or []:
        if without_seconds(toleration) not in new:
            faults.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
            return
    check_tolerations(now.get("tolerations") or [], "spec.tolerations", faults)


def _check_gates_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    old = {gate.get("name") for gate in was.get("schedulingGates") or ()}
    for index, gate in enumerate(now.get("schedulingGates") or ()):
        if gate.get("name") not in old:
            text = f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'"
            faults.forbidden(f"spec.schedulingGates[{index}].name", text)


def _with_permitted_changes(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> dict[str, Any]:
    """Return the new spec with the old values where a change is allowed."""
    result: dict[str, Any] = copy_json(now)
    for kind in ("containers", "initContainers"):
        for new, old in zip(result.get(kind) or [], was.get(kind) or [], strict=True):
            new["image"] = old.get("image")
    for field in ("activeDeadlineSeconds", "tolerations", "schedulingGates", "ephemeralContainers"):
        _restore(result, was, field)
    if was.get("terminationGracePeriodSeconds", 0) < 0 and now.get("terminationGracePeriodSeconds") == 1:
        _restore(result, was, "terminationGracePeriodSeconds")
    if was.get("schedulingGates"):
        # Pods that are held back may be steered to fewer nodes.
        selector, before = now.get("nodeSelector") or {}, was.get("nodeSelector") or {}
        if any(selector.get(key) != value for key, value in before.items()):
            text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
            faults.invalid("spec.nodeSelector", selector, text)
        _restore(result, was, "nodeSelector")
        _check_node_affinity_update(now.get("affinity") or {}, was.get("affinity") or {}, faults)
        _restore_node_affinity(result, was)
    return result


def _restore(result: dict[str, Any], was: dict[str, Any], field: str) -> None:
    if field in was:
        result[field] = was[field]
    else:
        result.pop(field, None)


def _restore_node_affinity(result: dict[str, Any], was: dict[str, Any]) -> None:
    affinity = dict(result.get("affinity") or {})
    _restore(affinity, was.get("affinity") or {}, "nodeAffinity")
    if affinity or was.get("affinity") is not None:
        result["affinity"] = affinity
    else:
        result.pop("affinity", None)


def _check_node_affinity_update(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    terms = [
        ((affinity.get("nodeAffinity") or {}).get(_REQUIRED_TERMS) or {}).get("nodeSelectorTerms") or []
        for affinity in (now, was)
    ]
    new, old = terms
    path = f"spec.affinity.nodeAffinity.{_REQUIRED_TERMS}.nodeSelectorTerms"
    if not old:
        return
    if len(old) != len(new):
        faults.invalid(
            path,
            internal("[]core.v1.NodeSelectorTerm", new),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        )
        return
    for index, (term, before) in enumerate(zip(new, old, strict=True)):
        fields = ("matchExpressions", "matchFields")
        was_empty = not any(before.get(field) for field in fields)
        kept = all((term.get(f) or [])[: len(before.get(f) or [])] == (before.get(f) or []) for f in fields)
        if not kept or (was_empty and any(term.get(field) for field in fields)):
            faults.invalid(
                f"{path}[{index}]",
                internal("core.v1.NodeSelectorTerm", term),
                "only additions are allowed (no mutations or deletions)",
            )


def check_ephemeral_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that ephemeral containers are only added, and are right."""
    if MIRROR in (metadata_of(old).get("annotations") or {}):
        faults.forbidden("", "static pods do not support ephemeral containers")
        return
    check_whole_anew(new, old, faults)
    _check_annotation_update(new, old, faults)
    now, was = (
        {container.get("name"): container for container in (obj.get("spec") or {}).get("ephemeralContainers") or []}
        for obj in (new, old)
    )
    path = "spec.ephemeralContainers"
    for name, container in was.items():
        if name not in now:
            faults.forbidden(path, f'existing ephemeral containers "{name}" may not be removed\n')
        elif now[name] != container:
            before, after = (internal("core.v1.EphemeralContainer", one) for one in (container, now[name]))
            text = f'existing ephemeral containers "{name}" may not be changed\n{difference(before, after)}'
            faults.forbidden(path, text)


def check_pod_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what is told of a pod: nothing that ended may begin again, and its place and class stand."""
    now, was = new.get("status") or {}, old.get("status") or {}
    spec = new.get("spec") or {}
    for index, condition in enumerate(now.get("conditions") or ()):
        here = f"status.conditions[{index}]"
        if (generation := condition.get("observedGeneration") or 0) < 0:
            faults.invalid(f"{here}.observedGeneration", generation, _NOT_NEGATIVE)
        if (kind := condition.get("type") or "") not in _SYSTEM_CONDITIONS:
            faults.invalid_all(f"{here}.Type", kind, names.qualified_name(kind))
    node = now.get("nominatedNodeName")
    if node and node != was.get("nominatedNodeName"):
        faults.invalid_all("status.nominatedNodeName", node, names.dns_subdomain(node))
        if (old.get("spec") or {}).get("nodeName"):
            text = "may not be set on pods that are already bound to a node"
            faults.forbidden("status.nominatedNodeName", text)
    if (generation := now.get("observedGeneration") or 0) < 0:
        faults.invalid("status.observedGeneration", generation, _NOT_NEGATIVE)
    if was.get("qosClass"):
        faults.unchanged("status.qosClass", now.get("qosClass"), was["qosClass"])
    everything = "RestartAllContainers" in {
        rule.get("action")
        for kind in ("containers", "initContainers")
        for container in spec.get(kind) or ()
        for rule in container.get("restartPolicyRules") or ()
    }
    sidecars = {c.get("name") for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    restarting = {
        container.get("name")
        for kind in ("containers", "initContainers")
        for container in spec.get(kind) or ()
        if container.get("restartPolicy") is not None or container.get("restartPolicyRules")
    }
    policy = "Always" if everything else spec.get("restartPolicy")
    for field, restarts, exempt in (
        ("containerStatuses", policy, restarting),
        ("initContainerStatuses", policy, sidecars | restarting),
        ("ephemeralContainerStatuses", "Never", set()),
    ):
        _check_transitions(now.get(field) or [], was.get(field) or [], restarts or "", exempt, field, faults)
    _check_claim_statuses(now, spec, faults)
    _check_addresses(now, "podIPs", faults)
    hosts = now.get("hostIPs") or []
    if hosts and now.get("hostIP") != hosts[0].get("ip"):
        faults.invalid("status.hostIPs[0].ip", hosts[0].get("ip"), "must be equal to `hostIP`")
    _check_addresses(now, "hostIPs", faults)
    for field in _CONTAINER_STATUSES:
        _check_users(now.get(field) or (), f"status.{field}", (spec.get("os") or {}).get("name") or "linux", faults)
    for field, kind in (("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")):
        _check_device_health(now.get(field) or (), spec.get(kind) or (), f"status.{field}", faults)
    for index, status in enumerate(now.get("ephemeralContainerStatuses") or ()):
        if status.get("allocatedResourcesStatus"):
            here = f"status.ephemeralContainerStatuses[{index}].allocatedResourcesStatus"
            faults.forbidden(here, "must not be specified in container status")


def _check_claim_statuses(now: dict[str, Any], spec: dict[str, Any], faults: Faults) -> None:
    known = {claim.get("name") for claim in spec.get("resourceClaims") or ()}
    taken: set[str] = set()
    for index, claim in enumerate(now.get("resourceClaimStatuses") or ()):
        here, name = f"status.resourceClaimStatuses[{index}]", claim.get("name") or ""
        if name not in known:
            faults.invalid(f"{here}.name", name, "must match the name of an entry in `spec.resourceClaims`")
        if name in taken:
            faults.duplicate(f"{here}.name", name)
        taken.add(name)
        if (made := claim.get("resourceClaimName")) is not None:
            faults.invalid_all(f"{here}.resourceClaimName", made, names.dns_subdomain(made))


def _check_users(statuses: Iterable[dict[str, Any]], path: str, system: str, faults: Faults) -> None:
    for index, status in enumerate(statuses):
        user, here = (status.get("user") or {}).get("linux"), f"{path}[{index}].user.linux"
        if user is None:
            continue
        if system == "windows":
            faults.forbidden(here, "cannot be set for a windows pod")
            continue
        for field in ("uid", "gid"):
            faults.within(f"{here}.{field}", user.get(field), 0, ID_MAX)
        for position, group in enumerate(user.get("supplementalGroups") or ()):
            faults.within(f"{here}.supplementalGroups[{position}]", group, 0, ID_MAX)


def _check_device_health(
    statuses: Iterable[dict[str, Any]], containers: Iterable[dict[str, Any]], path: str, faults: Faults
) -> None:
    by_name = {container.get("name"): container.get("resources") or {} for container in containers}
    for index, status in enumerate(statuses):
        wanted = by_name.get(status.get("name"))
        for position, entry in enumerate(status.get("allocatedResourcesStatus") or ()):
            here, name = f"{path}[{index}].allocatedResourcesStatus[{position}]", entry.get("name") or ""
            if wanted is not None and not _is_wanted(name, wanted):
                faults.invalid(f"{here}.name", name, _OF_CLAIM if name.startswith("claim:") else _OF_REQUEST)
            taken: set[str] = set()
            for place, device in enumerate(entry.get("resources") or ()):
                if (health := device.get("health") or "") not in _HEALTH:
                    faults.not_supported(f"{here}.resources[{place}].health", health, _HEALTH)
                if (identity := device.get("resourceID") or "") in taken:
                    faults.duplicate(f"{here}.resources[{place}].resourceID", identity)
                taken.add(identity)


def _is_wanted(name: str, resources: dict[str, Any]) -> bool:
    if not name.startswith("claim:"):
        return name in (resources.get("requests") or ())
    claims = ((claim.get("name"), claim.get("request")) for claim in resources.get("claims") or ())
    return name in {f"claim:{claim}/{request}" if request else f"claim:{claim}" for claim, request in claims}


def _check_transitions(
    now: list[dict[str, Any]], was: list[dict[str, Any]], restarts: str, exempt: set[Any], field: str, faults: Faults
) -> None:
    if restarts == "Always":
        return
    running = {status.get("name") for status in now if not (status.get("state") or {}).get("terminated")}
    for index, status in enumerate(was):
        ended, name = (status.get("state") or {}).get("terminated"), status.get("name")
        if ended is None or name in exempt or name not in running:
            continue
        if not (ended.get("exitCode") and restarts == "OnFailure"):
            text = "may not be transitioned to non-terminated state"
            faults.forbidden(f"status.{field}[{index}].state", text)


def _check_addresses(status: dict[str, Any], field: str, faults: Faults) -> None:
    entries = status.get(field) or []
    addresses = [entry.get("ip") or "" for entry in entries]
    for index, address in enumerate(addresses):
        faults.invalid_all(f"status.{field}[{index}]", address, ip_forms.address(address))
    if len(addresses) < 2:
        return
    if not is_dual_stack(addresses):
        shown_as = [{"IP": address} for address in addresses]
        faults.invalid(f"status.{field}", shown_as, "may specify no more than one IP for each IP family")
