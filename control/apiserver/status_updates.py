"""What an update of a status changes: the status, and as much of the metadata as each kind allows its writers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from control.api.meta import Object
from control.api.times import format_time

Name = tuple[str, str]
"""(group, plural)."""

_KEPT: dict[Name, tuple[str, ...]] = {
    ("apps", "deployments"): ("labels",),
    ("", "pods"): ("ownerReferences",),
    **dict.fromkeys(
        [
            ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
            ("apiregistration.k8s.io", "apiservices"),
            ("flowcontrol.apiserver.k8s.io", "flowschemas"),
            ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"), ("networking.k8s.io", "servicecidrs"),
            ("resource.k8s.io", "resourceclaims"), ("storage.k8s.io", "volumeattachments"),
        ],
        ("labels", "annotations", "finalizers", "ownerReferences"),
    ),
}  # fmt: skip
"""The metadata that an update of a status leaves alone; of other kinds it may be written with it."""
_REQUESTS: Name = ("certificates.k8s.io", "certificatesigningrequests")
_CLAIMS: Name = ("resource.k8s.io", "resourceclaims")


def this_second() -> str:
    """Return the time as objects hold it."""
    return format_time(datetime.now(UTC))


def take(made: dict[str, Any], source: dict[str, Any], field: str) -> None:
    """Set a field to what it is in another mapping, or leave it out where it is not there."""
    if field in source:
        made[field] = source[field]
    else:
        made.pop(field, None)


def with_status(name: Name, obj: Object, old: Object) -> Object:
    """Return the stored object with the status that was sent, and the metadata that may come with it."""
    made = {**old, "metadata": {**obj["metadata"]}}
    take(made, obj, "status")
    for field in _KEPT.get(name, ()):
        take(made["metadata"], old["metadata"], field)
    if name == ("", "pods"):
        _keep_quality(made, old)
    elif name == _CLAIMS:
        _drop_released_devices(made, old)
    elif name == _REQUESTS:
        stamp_conditions(made, old)
    return made


def with_custom_status(obj: Object, old: Object) -> Object:
    """Return the stored custom object with the status that was sent, and the owners of its fields."""
    made = {**old, "metadata": {**old["metadata"]}}
    take(made, obj, "status")
    for field in ("managedFields", "resourceVersion"):
        take(made["metadata"], obj["metadata"], field)
    return made


def _keep_quality(obj: Object, old: Object) -> None:
    """Keep a pod's class where its status is written without."""
    was, status = (old.get("status") or {}).get("qosClass"), obj.get("status")
    if was and isinstance(status, dict) and not status.get("qosClass"):
        obj["status"] = {**status, "qosClass": was}


def _devices(status: Object) -> Iterable[Object]:
    return ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()


def _identity(device: Object) -> tuple[Any, Any, Any]:
    return device.get("driver"), device.get("pool"), device.get("device")


def _drop_released_devices(obj: Object, old: Object) -> None:
    """Forget what was told of devices that the claim no longer holds."""
    status, was = obj.get("status") or {}, old.get("status") or {}
    gone = {_identity(device) for device in _devices(was)} - {_identity(device) for device in _devices(status)}
    told = status.get("devices") or ()
    if not gone or not told:
        return
    kept = [device for device in told if _identity(device) not in gone]
    obj["status"] = {**status, "devices": kept}
    if not kept:
        del obj["status"]["devices"]


def stamp_conditions(obj: Object, old: Object) -> None:
    """Write into the conditions of a certificate request when they were set, where their writer did not."""
    conditions = (obj.get("status") or {}).get("conditions")
    if not conditions:
        return
    before = (old.get("status") or {}).get("conditions") or ()
    now = this_second()
    obj["status"] = {**obj["status"], "conditions": [_stamped(entry, before, now) for entry in conditions]}


def _stamped(condition: Object, before: Iterable[Object], now: str) -> Object:
    made = dict(condition)
    if not made.get("lastUpdateTime"):
        made["lastUpdateTime"] = now
    if not made.get("lastTransitionTime"):
        same = (
            entry.get("lastTransitionTime")
            for entry in before
            if entry.get("type") == made.get("type") and entry.get("status") == made.get("status")
        )
        made["lastTransitionTime"] = next(same, None) or now
    return made
