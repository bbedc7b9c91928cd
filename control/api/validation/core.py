"""Rules of the core kinds that hold data: configuration, nodes, volumes, quotas, events, leases."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from control.api import quantity, schema
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.containers import check_amount
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_selector
from control.api.validation.pods import check_node_term

DATA_BYTES_MAX = 1024 * 1024
_IMMUTABLE = "field is immutable when `immutable` is set"
_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
_CLAIM_UPDATE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def check_config_map(obj: Object, faults: Faults) -> None:
    """Check a ConfigMap."""
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    total = 0
    for key, value in data.items():
        faults.invalid_all(f"data[{key}]", key, names.config_key(key))
        if key in binary:
            faults.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        total += len(value.encode())
    for key, value in binary.items():
        faults.invalid_all(f"binaryData[{key}]", key, names.config_key(key))
        total += len(value) * 3 // 4
    if total > DATA_BYTES_MAX:
        faults.too_long("", DATA_BYTES_MAX)


def check_config_map_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an immutable ConfigMap stays."""
    _check_immutable(new, old, ("data", "binaryData"), faults)


def _check_immutable(new: Object, old: Object, fields: tuple[str, ...], faults: Faults) -> None:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        faults.forbidden("immutable", _IMMUTABLE)
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            faults.forbidden(field, _IMMUTABLE)


def check_secret(obj: Object, faults: Faults) -> None:
    """Check a Secret."""
    data = obj.get("data") or {}
    for key in data:
        faults.invalid_all(f"data[{key}]", key, names.config_key(key))
    if sum(len(value) * 3 // 4 for value in data.values()) > DATA_BYTES_MAX:
        faults.too_long("data", DATA_BYTES_MAX)
    kind = obj.get("type") or ""
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            faults.required(f"data[{key}]")
        elif key.startswith(".docker"):
            _check_json(data[key], f"data[{key}]", faults)
    if kind == "kubernetes.io/service-account-token":
        annotations = (obj.get("metadata") or {}).get("annotations") or {}
        if not annotations.get("kubernetes.io/service-account.name"):
            faults.required("metadata.annotations[kubernetes.io/service-account.name]")
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        faults.required("data[username]")
        faults.required("data[password]")


def _check_json(encoded: str, path: str, faults: Faults) -> None:
    try:
        orjson.loads(base64.b64decode(encoded))
    except ValueError as error:
        faults.invalid(path, "<secret contents redacted>", str(error))


def check_secret_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Secret keeps its type, and an immutable one its data."""
    faults.unchanged("type", new.get("type"), old.get("type"))
    _check_immutable(new, old, ("data",), faults)


def check_node(obj: Object, faults: Faults) -> None:
    """Check a Node."""
    spec = obj.get("spec") or {}
    taken: set[tuple[Any, Any]] = set()
    for index, taint in enumerate(spec.get("taints") or []):
        here = f"spec.taints[{index}]"
        key, value, effect = taint.get("key") or "", taint.get("value") or "", taint.get("effect")
        faults.invalid_all(f"{here}.key", key, names.qualified_name(key))
        faults.invalid_all(f"{here}.value", value, names.label_value(value))
        if not effect:
            faults.required(f"{here}.effect")
        elif effect not in _TAINT_EFFECTS:
            faults.not_supported(f"{here}.effect", effect, _TAINT_EFFECTS)
        if (key, effect) in taken:
            faults.duplicate(here, taint)
        taken.add((key, effect))
    for index, cidr in enumerate(spec.get("podCIDRs") or []):
        faults.invalid_all(f"spec.podCIDRs[{index}]", cidr, names.cidr(cidr))


def check_node_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Node keeps the ranges and the identity that it was given."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if was.get("podCIDRs") and now.get("podCIDRs") != was["podCIDRs"]:
        faults.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
    if was.get("providerID") and now.get("providerID") != was["providerID"]:
        faults.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')


def check_claim(obj: Object, faults: Faults) -> None:
    """Check a PersistentVolumeClaim."""
    check_claim_spec(obj.get("spec") or {}, "spec", faults)


def check_claim_spec(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check what a claim asks for."""
    modes = spec.get("accessModes") or []
    if not modes:
        faults.required(f"{path}.accessModes", "at least 1 access mode is required")
    _check_access_modes(modes, f"{path}.accessModes", faults)
    check_selector(spec.get("selector"), f"{path}.selector", faults)
    wanted = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    here = f"{path}.resources[storage]"
    if wanted is None:
        faults.required(here)
    elif quantity.parse(wanted) <= 0:
        faults.invalid(here, str(wanted), "must be greater than zero")
    for field in ("storageClassName", "volumeAttributesClassName"):
        if value := spec.get(field):
            faults.invalid_all(f"{path}.{field}", value, names.dns_subdomain(value))


def _check_access_modes(modes: list[str], path: str, faults: Faults) -> None:
    for mode in modes:
        if mode not in _ACCESS_MODES:
            faults.not_supported(path, mode, _ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        faults.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def check_claim_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a claim changes only in size, and only grows."""
    now, was = dict(new.get("spec") or {}), dict(old.get("spec") or {})
    for spec in (now, was):
        spec.pop("volumeAttributesClassName", None)
    sizes = [((spec.get("resources") or {}).get("requests") or {}).get("storage", "0") for spec in (now, was)]
    capacity = ((old.get("status") or {}).get("capacity") or {}).get("storage")
    if not was.get("volumeName"):
        now["volumeName"] = was["volumeName"] = now.get("volumeName")
    if was.get("storageClassName") is None:
        was["storageClassName"] = now.get("storageClassName")
    bound = (old.get("status") or {}).get("phase") == "Bound"
    if bound:
        now["resources"] = was["resources"] = None
        if quantity.parse(sizes[0]) < quantity.parse(sizes[1]) and quantity.parse(sizes[0]) < quantity.parse(
            capacity or 0
        ):
            faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")
    if {key: value for key, value in now.items() if value is not None} != {
        key: value for key, value in was.items() if value is not None
    }:
        faults.forbidden("spec", _CLAIM_UPDATE)


def check_volume(obj: Object, faults: Faults) -> None:
    """Check a PersistentVolume."""
    spec = obj.get("spec") or {}
    if not spec.get("accessModes"):
        faults.required("spec.accessModes")
    _check_access_modes(spec.get("accessModes") or [], "spec.accessModes", faults)
    capacity = spec.get("capacity") or {}
    if not capacity:
        faults.required("spec.capacity")
    elif set(capacity) != {"storage"}:
        faults.not_supported("spec.capacity", capacity, ["storage"])
    for name, amount in capacity.items():
        here = f"spec.capacity[{name}]"
        check_amount(name, amount, here, faults)
        if quantity.parse(amount) == 0:
            faults.invalid(here, str(amount), "must be greater than zero")
    policy = spec.get("persistentVolumeReclaimPolicy")
    faults.one_of("spec.persistentVolumeReclaimPolicy", policy, ["Delete", "Recycle", "Retain"], required=False)
    sources = [key for key in schema.definition("core.v1.PersistentVolumeSource").fields if spec.get(key) is not None]
    if not sources:
        faults.required("spec", "must specify a volume type")
    for extra in sources[1:]:
        faults.forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
    if spec.get("local") is not None and spec.get("nodeAffinity") is None:
        faults.required("metadata.annotations", "Local volume requires node affinity")
    required = (spec.get("nodeAffinity") or {}).get("required")
    for index, term in enumerate((required or {}).get("nodeSelectorTerms") or []):
        check_node_term(term, f"spec.nodeAffinity.required.nodeSelectorTerms[{index}]", faults)
    if spec.get("hostPath") is not None and not spec["hostPath"].get("path"):
        faults.required("spec.hostPath.path")


def check_volume_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a volume keeps its source."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    sources = schema.definition("core.v1.PersistentVolumeSource").fields
    if any(now.get(key) != was.get(key) for key in sources):
        faults.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    faults.unchanged("spec.volumeMode", now.get("volumeMode"), was.get("volumeMode"))


def check_quota(obj: Object, faults: Faults) -> None:
    """Check a ResourceQuota."""
    for name, amount in ((obj.get("spec") or {}).get("hard") or {}).items():
        faults.invalid_all(f"spec.hard[{name}]", name, names.qualified_name(name))
        check_amount(name, amount, f"spec.hard[{name}]", faults)


def check_quota_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a quota keeps its scopes."""
    now, was = ((obj.get("spec") or {}).get("scopes") or [] for obj in (new, old))
    if sorted(now) != sorted(was):
        faults.invalid("spec.scopes", now, "field is immutable")


def check_limit_range(obj: Object, faults: Faults) -> None:
    """Check a LimitRange."""
    taken: set[str] = set()
    for index, limit in enumerate((obj.get("spec") or {}).get("limits") or []):
        here = f"spec.limits[{index}]"
        kind = limit.get("type") or ""
        if kind in taken:
            faults.duplicate(f"{here}.type", kind)
        taken.add(kind)
        least, most = limit.get("min") or {}, limit.get("max") or {}
        default, request = limit.get("default") or {}, limit.get("defaultRequest") or {}
        if kind == "Pod":
            for field, given in (("default", default), ("defaultRequest", request)):
                if given:
                    faults.forbidden(f"{here}.{field}", "may not be specified when `type` is 'Pod'")
        for name in {**least, **most, **default, **request}:
            _check_limits(name, (least, request, default, most), here, faults)


def _check_limits(name: str, amounts: tuple[dict[str, str], ...], path: str, faults: Faults) -> None:
    """Check that min ≤ defaultRequest ≤ default ≤ max for one resource."""
    words = (("min", "min"), ("defaultRequest", "default request"), ("default", "default"), ("max", "max"))
    for left, (field, word) in enumerate(words):
        for right in range(left + 1, len(words)):
            below, above = amounts[left].get(name), amounts[right].get(name)
            if below is not None and above is not None and quantity.parse(below) > quantity.parse(above):
                text = f"{word} value {below} is greater than {words[right][1]} value {above}"
                faults.invalid(f"{path}.{field}[{name}]", below, text)


def check_event(obj: Object, faults: Faults) -> None:
    """Check an Event of either group."""
    metadata = obj.get("metadata") or {}
    field = "involvedObject" if "involvedObject" in obj else "regarding"
    about = obj.get(field) or {}
    space = about.get("namespace") or ""
    if space != metadata.get("namespace") and (space or metadata.get("namespace") != "default"):
        faults.invalid(f"{field}.namespace", space, "does not match event.namespace")
    if obj.get("eventTime") and obj.get("apiVersion") != "v1":
        for name in ("reportingController", "reportingInstance", "action", "reason"):
            if not obj.get(name):
                faults.required(name)


def check_lease(obj: Object, faults: Faults) -> None:
    """Check a Lease."""
    spec = obj.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        faults.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    faults.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
