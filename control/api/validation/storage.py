"""Rules of the kinds that describe storage: its classes, its drivers, and which volume is attached where."""

from __future__ import annotations

from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.claims import check_volume_spec
from control.api.validation.faults import IMMUTABLE, NOT_NEGATIVE, Faults
from control.api.validation.forms import check_driver_name
from control.api.validation.internal import internal
from control.api.validation.metadata import check_selector
from control.api.validation.nodeselectors import check_topologies

_PARAMETERS_MAX = 512
_PARAMETER_BYTES_MAX = 256 * 1024
_NODE_ID_MAX = 256
_FS_GROUP_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")
_LIFECYCLES = ("Persistent", "Ephemeral")


def _check_provisioner(name: str, path: str, faults: Faults) -> None:
    if not name:
        faults.required(path)
    else:
        faults.invalid_all(path, name.lower(), names.qualified_name(name.lower()))


def _check_parameters(parameters: dict[str, str], faults: Faults) -> None:
    if len(parameters) > _PARAMETERS_MAX:
        faults.too_long("parameters", _PARAMETERS_MAX)
        return
    if "" in parameters:
        faults.invalid("parameters", "", "field can not be empty.")
    if sum(len(key) + len(value) for key, value in parameters.items()) > _PARAMETER_BYTES_MAX:
        faults.too_long("parameters", _PARAMETER_BYTES_MAX)


def check_storage_class(obj: Object, faults: Faults) -> None:
    """Check a StorageClass."""
    _check_provisioner(obj.get("provisioner") or "", "provisioner", faults)
    _check_parameters(obj.get("parameters") or {}, faults)
    policy = obj.get("reclaimPolicy")
    faults.one_of("reclaimPolicy", policy, ["Delete", "Retain"], required=False)
    if (mode := obj.get("volumeBindingMode")) is None:
        faults.required("volumeBindingMode")
    elif mode not in ("Immediate", "WaitForFirstConsumer"):
        faults.not_supported("volumeBindingMode", mode, ["Immediate", "WaitForFirstConsumer"])
    check_topologies(obj.get("allowedTopologies") or [], "allowedTopologies", faults)


def _check_kept(new: Object, old: Object, fields: tuple[str, ...], faults: Faults) -> None:
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            faults.forbidden(field, f"updates to {field} are forbidden.")


def check_storage_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class means what it meant."""
    _check_kept(new, old, ("parameters", "provisioner", "reclaimPolicy"), faults)
    faults.unchanged("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))


def check_attributes_class(obj: Object, faults: Faults) -> None:
    """Check a VolumeAttributesClass."""
    _check_provisioner(obj.get("driverName") or "", "driverName", faults)
    parameters = obj.get("parameters") or {}
    _check_parameters(parameters, faults)
    if not parameters:
        faults.required("parameters", "must contain at least one key/value pair")


def check_attributes_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class of attributes means what it meant."""
    _check_kept(new, old, ("driverName", "parameters"), faults)


def check_driver(obj: Object, faults: Faults) -> None:
    """Check a CSIDriver."""
    spec = obj.get("spec") or {}
    for field, shown_as in (
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ):
        if spec.get(field) is None:
            faults.required(f"spec.{shown_as}")
    policy = spec.get("fsGroupPolicy")
    if policy is not None and policy not in _FS_GROUP_POLICIES:
        faults.not_supported("spec.fsGroupPolicy", policy, _FS_GROUP_POLICIES)
    _check_token_requests(spec.get("tokenRequests") or [], "spec.tokenRequests", faults)
    for mode in spec.get("volumeLifecycleModes") or []:
        if mode not in _LIFECYCLES:
            faults.not_supported("spec.volumeLifecycleModes", mode, _LIFECYCLES)
    if spec.get("seLinuxMount") is None:
        faults.required("spec.seLinuxMount")
    period_s = spec.get("nodeAllocatableUpdatePeriodSeconds")
    if period_s is not None and period_s < 10:
        text = "must be greater than or equal to 10 seconds"
        faults.invalid("spec.nodeAllocatableUpdatePeriodSeconds", period_s, text)


def _check_token_requests(requests: list[dict[str, Any]], path: str, faults: Faults) -> None:
    seen: set[str] = set()
    for index, request in enumerate(requests):
        here, audience = f"{path}[{index}]", request.get("audience") or ""
        if audience in seen:
            faults.duplicate(f"{here}.audience", audience)
            continue
        seen.add(audience)
        if (seconds := request.get("expirationSeconds")) is None:
            continue
        if seconds < 600:
            faults.invalid(f"{here}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        if seconds > 1 << 32:
            text = "may not specify a duration larger than 2^32 seconds"
            faults.invalid(f"{here}.expirationSeconds", seconds, text)


def check_driver_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a driver attaches as it did."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    faults.unchanged("spec.attachedRequired", now.get("attachRequired"), was.get("attachRequired"))
    modes = [spec.get("volumeLifecycleModes") or [] for spec in (now, was)]
    faults.unchanged("spec.volumeLifecycleModes", modes[0], modes[1])


def check_driver_node(obj: Object, faults: Faults) -> None:
    """Check a CSINode."""
    seen: set[str] = set()
    for index, driver in enumerate((obj.get("spec") or {}).get("drivers") or []):
        here, name, node = f"spec.drivers[{index}]", driver.get("name") or "", driver.get("nodeID") or ""
        check_driver_name(name, f"{here}.name", faults)
        if not node:
            faults.required(f"{here}.nodeID")
        elif len(node) > _NODE_ID_MAX:
            faults.invalid(f"{here}.nodeID", node, f"must be {_NODE_ID_MAX} characters or less")
        faults.not_negative(f"{here}.allocatable.count", (driver.get("allocatable") or {}).get("count"))
        if name in seen:
            faults.duplicate(f"{here}.name", name)
        seen.add(name)
        keys = driver.get("topologyKeys") or []
        for position, key in enumerate(keys):
            if not key:
                faults.required(here)
            if key in keys[:position]:
                faults.duplicate(here, key)
            faults.invalid_all(here, key, names.qualified_name(key))


def check_driver_node_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a driver stays what it was on this node, but for how many volumes it takes."""
    before = {driver.get("name"): driver for driver in (old.get("spec") or {}).get("drivers") or []}
    for driver in (new.get("spec") or {}).get("drivers") or []:
        was = before.get(driver.get("name"))
        if was is not None and {**driver, "allocatable": None} != {**was, "allocatable": None}:
            shown = internal("storage.v1.CSINodeDriver", {**driver, "allocatable": None})
            faults.invalid("spec.drivers", shown, IMMUTABLE)


def check_capacity(obj: Object, faults: Faults) -> None:
    """Check a CSIStorageCapacity."""
    check_selector(obj.get("nodeTopology"), "nodeTopology", faults)
    name = obj.get("storageClassName") or ""
    faults.invalid_all("storageClassName", name, names.dns_subdomain(name))
    for field in ("capacity", "maximumVolumeSize"):
        amount = obj.get(field)
        if amount is not None and quantity.parse(amount) < 0:
            faults.invalid(field, str(amount), NOT_NEGATIVE)


def check_capacity_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a capacity is told of the same place and class."""
    for field in ("nodeTopology", "storageClassName"):
        faults.unchanged(field, new.get(field), old.get(field))


def check_attachment(obj: Object, faults: Faults) -> None:
    """Check a VolumeAttachment."""
    spec = obj.get("spec") or {}
    attacher, source, node = spec.get("attacher") or "", spec.get("source") or {}, spec.get("nodeName") or ""
    volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
    exactly_one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
    if volume is None and inline is None:
        faults.required("spec.source", exactly_one)
    elif volume is not None and inline is not None:
        faults.forbidden("spec.source", exactly_one)
    elif volume is not None:
        if not volume:
            faults.required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName")
    elif inline is not None:
        check_volume_spec(inline, "spec.source.inlineVolumeSpec", faults, "", inline=True)
    faults.invalid_all("spec.nodeName", node, names.dns_subdomain(node))
    check_driver_name(attacher, "spec.attacher", faults)
    if volume:
        faults.invalid_all("spec.source.persistentVolumeName", volume, names.dns_subdomain(volume))


def check_attachment_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an attachment is of the same volume and node."""
    if new.get("spec") != old.get("spec"):
        faults.invalid("spec", internal("storage.v1.VolumeAttachmentSpec", new.get("spec")), IMMUTABLE)
