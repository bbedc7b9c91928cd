"""Rules of claims to volumes, and of the volumes themselves."""

from __future__ import annotations

from typing import Any

from control.api import quantity, schema
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation import names
from control.api.validation.amounts import check_amount, is_native
from control.api.validation.differences import difference
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_selector, check_template_metadata
from control.api.validation.nodeselectors import check_node_selector
from control.api.validation.volume_sources import INSIDE, check_common_source

_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODES = ("Block", "Filesystem")
_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
_INLINE = "may not be specified in the context of inline volumes"
_CLAIM_UPDATE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)
_SOURCES = (
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte", "cephfs",
    "iscsi", "cinder", "fc", "flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume",
    "azureDisk", "scaleIO", "local", "storageos", "csi",
)  # fmt: skip
"""Where a volume may be, in the order in which Kubernetes looks."""
_RESIZING = ("ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible",
             "NodeResizePending")  # fmt: skip
_GA_LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
}


def check_claim(obj: Object, faults: Faults) -> None:
    """Check a PersistentVolumeClaim."""
    check_claim_spec(obj.get("spec") or {}, "spec", faults)


def check_claim_template(template: dict[str, Any] | None, path: str, faults: Faults) -> None:
    """Check the template of a claim that is made with a pod."""
    if template is None:
        faults.required(path)
        return
    check_template_metadata(metadata_of(template), f"{path}.metadata", faults)
    check_claim_spec(template.get("spec") or {}, f"{path}.spec", faults)


def check_claim_spec(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check what a claim asks for."""
    modes = spec.get("accessModes") or []
    if not modes:
        faults.required(f"{path}.accessModes", "at least 1 access mode is required")
    check_selector(spec.get("selector"), f"{path}.selector", faults)
    _check_access_modes(modes, f"{path}.accessModes", faults)
    wanted = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    here = f"{path}.resources[storage]"
    if wanted is None:
        faults.required(here)
    elif quantity.parse(wanted) <= 0:
        faults.invalid(here, str(wanted), "must be greater than zero")
    if name := spec.get("storageClassName"):
        faults.invalid_all(f"{path}.storageClassName", name, names.dns_subdomain(name))
    if (mode := spec.get("volumeMode")) is not None and mode not in _VOLUME_MODES:
        faults.not_supported(f"{path}.volumeMode", mode, _VOLUME_MODES)
    _check_data_sources(spec, path, faults)
    if name := spec.get("volumeAttributesClassName"):
        faults.invalid_all(f"{path}.volumeAttributesClassName", name, names.dns_subdomain(name))


def _check_data_sources(spec: dict[str, Any], path: str, faults: Faults) -> None:
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, found in (("dataSource", source), ("dataSourceRef", reference)):
        if found is not None:
            _check_data_source(found, f"{path}.{field}", faults)
    if source is None or reference is None:
        return
    if reference.get("namespace"):
        text = "may not be specified when dataSourceRef.namespace is specified"
        faults.invalid(path, {}, text)  # it would show a path, which has no form in JSON
    elif any(source.get(field) != reference.get(field) for field in ("apiGroup", "kind", "name")):
        faults.invalid(path, {}, "must match dataSourceRef")


def _check_data_source(source: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("name", "kind"):
        if not source.get(field):
            faults.required(f"{path}.{field}")
    group, kind = source.get("apiGroup") or "", source.get("kind") or ""
    if not group and kind != "PersistentVolumeClaim":
        faults.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
    if group:
        faults.invalid_all(f"{path}.apiGroup", group, names.dns_subdomain(group))
    if space := source.get("namespace"):
        faults.invalid_all(f"{path}.namespace", space, names.dns_label(space))


def _check_access_modes(modes: list[str], path: str, faults: Faults) -> None:
    for mode in modes:
        if mode not in _ACCESS_MODES:
            faults.not_supported(path, mode, _ACCESS_MODES)
    if "ReadWriteOncePod" in modes and any(mode in _ACCESS_MODES[:3] for mode in modes):
        faults.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def _size(obj: Object, *path: str) -> str:
    found: Any = obj
    for step in path:
        found = (found or {}).get(step)
    return str((found or {}).get("storage", "0"))


def check_claim_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a claim changes only in size and attributes, and only where a volume stands behind it."""
    now: dict[str, Any] = copy_json(new.get("spec") or {})
    was: dict[str, Any] = copy_json(old.get("spec") or {})
    beta = [(metadata_of(obj).get("annotations") or {}).get(_BETA_CLASS) for obj in (new, old)]
    if not was.get("volumeName"):
        was["volumeName"] = now.get("volumeName")
    wanted = now.get("storageClassName")
    moved_from_annotation = beta[1] is not None and wanted == beta[1] and beta[0] in (None, beta[1])
    if was.get("storageClassName") is None and wanted is not None and (beta[1] is None or wanted == beta[1]):
        was["storageClassName"] = wanted
    if not moved_from_annotation and beta[0] != beta[1]:
        faults.invalid(f"metadata.annotations.{_BETA_CLASS}", beta[0] or "", "field is immutable")
    if (new.get("status") or {}).get("phase") == "Bound":
        requests = (now.get("resources") or {}).get("requests")
        if requests is not None:
            requests["storage"] = _size(old, "spec", "resources", "requests")
        now["volumeAttributesClassName"] = was.get("volumeAttributesClassName")
    if _given(now) != _given(was):
        lines = difference(*(internal("core.v1.PersistentVolumeClaimSpec", spec) for spec in (was, now)))
        faults.forbidden("spec", f"{_CLAIM_UPDATE}\n{lines}")
    sizes = [quantity.parse(_size(obj, "spec", "resources", "requests")) for obj in (new, old)]
    if sizes[0] < sizes[1] and sizes[0] <= quantity.parse(_size(old, "status", "capacity")):
        faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
    modes = [(obj.get("spec") or {}).get("volumeMode") for obj in (new, old)]
    faults.unchanged("volumeMode", modes[0], modes[1])
    _check_claim_attributes(new, old, faults)


def _given(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if value is not None}


def _check_claim_attributes(new: Object, old: Object, faults: Faults) -> None:
    """Check that a claim whose volume has a class of attributes keeps one."""
    now, was = ((obj.get("spec") or {}).get("volumeAttributesClassName") for obj in (new, old))
    if now == was or now or (old.get("status") or {}).get("currentVolumeAttributesClassName") is None:
        return
    word = "nil" if now is None else "empty string"
    text = f"update to {word} is forbidden when status.currentVolumeAttributesClassName is not nil"
    faults.forbidden("spec.volumeAttributesClassName", text)


def _check_attributes_class(new: Object, old: Object, faults: Faults) -> None:
    now, was = ((obj.get("spec") or {}).get("volumeAttributesClassName") for obj in (new, old))
    path = "spec.volumeAttributesClassName"
    if was is None or now == was:
        return
    if now is None:
        faults.forbidden(path, "update from non-nil value to nil is forbidden")


def check_claim_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what is told of a claim: amounts, and how far a change of size is."""
    if not (new.get("spec") or {}).get("accessModes"):
        faults.required("Spec.accessModes")
    status = new.get("status") or {}
    for name, amount in (status.get("capacity") or {}).items():
        _check_basic(amount, f"status.capacity[{name}]", faults)
    for name, state in (status.get("allocatedResourceStatuses") or {}).items():
        _check_resource_key(name, "status.allocatedResourceStatuses", faults)
        if state not in _RESIZING:
            faults.not_supported("status.allocatedResourceStatuses", name, sorted(_RESIZING))
    for name, amount in (status.get("allocatedResources") or {}).items():
        here = f"status.allocatedResources[{name}]"
        if _check_resource_key(name, "status.allocatedResources", faults) and _check_basic(amount, here, faults):
            check_amount("storage", amount, here, faults)


def _check_basic(amount: Any, path: str, faults: Faults) -> bool:
    if (value := quantity.whole(amount)) >= 0:
        return True
    faults.invalid(path, value, "must be a valid resource quantity")
    return False


def _check_resource_key(name: str, path: str, faults: Faults) -> bool:
    if found := names.qualified_name(name):
        faults.invalid_all(path, name, found)
        return False
    if is_native(name) and name != "storage":
        faults.not_supported(path, name, ["storage"])
        return False
    return True


def check_volume(obj: Object, faults: Faults) -> None:
    """Check a PersistentVolume."""
    check_volume_spec(obj.get("spec") or {}, "spec", faults, metadata_of(obj).get("name") or "")


def check_volume_spec(spec: dict[str, Any], path: str, faults: Faults, name: str, *, inline: bool = False) -> None:
    """Check a volume's spec, also of one that is no object but part of an attachment."""
    if inline:
        _check_inline(spec, path, faults)
    if not spec.get("accessModes"):
        faults.required(f"{path}.accessModes")
    _check_access_modes(spec.get("accessModes") or [], f"{path}.accessModes", faults)
    if not inline:
        _check_capacity(spec.get("capacity") or {}, f"{path}.capacity", faults)
        policy = spec.get("persistentVolumeReclaimPolicy")
        known = ["Delete", "Recycle", "Retain"]
        faults.one_of(f"{path}.persistentVolumeReclaimPolicy", policy, known, required=False)
        if (affinity := spec.get("nodeAffinity")) is not None:
            if affinity.get("required") is None:
                faults.required(f"{path}.nodeAffinity.required", "must specify required node constraints")
            else:
                check_node_selector(affinity["required"], f"{path}.nodeAffinity.required", faults)
    _check_volume_source(spec, path, faults, name)
    if not inline:
        if class_name := spec.get("storageClassName"):
            faults.invalid_all(f"{path}.storageClassName", class_name, names.dns_subdomain(class_name))
        if (mode := spec.get("volumeMode")) is not None and mode not in _VOLUME_MODES:
            faults.not_supported(f"{path}.volumeMode", mode, _VOLUME_MODES)
    if (attributes := spec.get("volumeAttributesClassName")) is not None and not inline:
        here = f"{path}.volumeAttributesClassName"
        if not attributes:
            faults.required(here, "an empty string is disallowed")
        else:
            faults.invalid_all(here, attributes, names.dns_subdomain(attributes))
        if spec.get("csi") is None:
            faults.required(f"{path}.csi", "has to be specified when using volumeAttributesClassName")


def _check_inline(spec: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("claimRef", "capacity", "nodeAffinity", "storageClassName"):
        if spec.get(field):
            faults.forbidden(f"{path}.{field}", _INLINE)
    if spec.get("csi") is None:
        faults.required(f"{path}.csi", "has to be specified in the context of inline volumes")
    if spec.get("persistentVolumeReclaimPolicy", "Retain") != "Retain":
        text = "may only be Retain in the context of inline volumes"
        faults.forbidden(f"{path}.persistentVolumeReclaimPolicy", text)
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        text = "may not specify volumeMode other than Filesystem in the context of inline volumes"
        faults.forbidden(f"{path}.volumeMode", text)


def _check_capacity(capacity: dict[str, Any], path: str, faults: Faults) -> None:
    if not capacity:
        faults.required(path)
    if set(capacity) != {"storage"}:
        faults.not_supported(path, capacity, ["storage"])
    for name, amount in capacity.items():
        _check_basic(amount, f"{path}[{name}]", faults)
        if quantity.parse(amount) <= 0:
            faults.invalid(f"{path}[{name}]", str(amount), "must be greater than zero")


def _check_volume_source(spec: dict[str, Any], path: str, faults: Faults, name: str) -> None:
    sources = [key for key in _SOURCES if spec.get(key) is not None]
    if not sources:
        faults.required(path, "must specify a volume type")
        return
    kind, source = sources[0], spec[sources[0]]
    check_common_source(kind, source, f"{path}.{INSIDE.get(kind, kind)}", faults, persistent=True)
    for extra in sources[1:]:
        if extra == "flexVolume":
            continue  # Kubernetes lets it stand beside others
        told = "cephFS" if extra == "cephfs" else extra
        faults.forbidden(f"{path}.{told}", "may not specify more than 1 volume type")
    if kind == "local" and spec.get("nodeAffinity") is None:
        faults.required(f"{path}.nodeAffinity", "Local volume requires node affinity")
    if kind == "iscsi" and source.get("initiatorName") is not None:
        portal = source.get("targetPortal") or ""
        if len(f"{name}:{portal}") > 64:
            text = (
                "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName "
                "is specified."
            )
            faults.invalid(f"{path}.iscsi.targetportal", portal, text)
    root = kind == "hostPath" and "/" + (source.get("path") or ".").strip("/") == "/"
    if root and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        text = "may not be 'recycle' for a hostPath mount of '/'"
        faults.forbidden(f"{path}.persistentVolumeReclaimPolicy", text)


def check_volume_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a volume keeps its source, its mode and the nodes that reach it."""
    now, was = dict(new.get("spec") or {}), old.get("spec") or {}
    before = was.get("csi")
    if now.get("csi") is not None and before is not None and before.get("controllerExpandSecretRef") is None:
        now["csi"] = {key: value for key, value in now["csi"].items() if key != "controllerExpandSecretRef"}
    sources = schema.definition("core.v1.PersistentVolumeSource").fields
    if any(now.get(key) != was.get(key) for key in sources):
        held = ({key: spec[key] for key in sources if key in spec} for spec in (was, now))
        lines = difference(*(internal("core.v1.PersistentVolumeSource", source) for source in held))
        text = f"spec.persistentvolumesource is immutable after creation\n{lines}"
        faults.forbidden("spec.persistentvolumesource", text)
    faults.unchanged("volumeMode", now.get("volumeMode"), was.get("volumeMode"))
    if was.get("nodeAffinity") is not None and not _is_same_affinity(now.get("nodeAffinity"), was["nodeAffinity"]):
        text = "field is immutable, except for updating from beta label to GA"
        faults.invalid("nodeAffinity", internal("core.v1.VolumeNodeAffinity", now.get("nodeAffinity")), text)
    _check_attributes_class(new, old, faults)


def _is_same_affinity(new: Any, old: Any) -> bool:
    """Compare two affinities; a label's beta name may have become the name that it has today."""
    if isinstance(new, dict) and isinstance(old, dict):
        if old.get("key") in _GA_LABELS and new.get("key") == _GA_LABELS[old["key"]]:
            old = {**old, "key": new["key"]}
        return new.keys() == old.keys() and all(_is_same_affinity(new[key], old[key]) for key in new)
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(_is_same_affinity(*pair) for pair in zip(new, old, strict=True))
    return bool(new == old)
