"""Rules of the core kinds that hold data: configuration, secrets, nodes, namespaces, leases."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.amounts import check_amount
from control.api.validation.faults import Faults
from control.api.validation.forms import is_dual_stack, metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_finalizer
from control.api.validation.nodeselectors import check_taints

DATA_BYTES_MAX = 1024 * 1024
_IMMUTABLE = "field is immutable when `immutable` is set"
_ACCOUNT_ANNOTATION = "kubernetes.io/service-account.name"
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
_JSON_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool"}


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
        total += _decoded_bytes(value)
    if total > DATA_BYTES_MAX:
        faults.too_long("", DATA_BYTES_MAX)


def _decoded_bytes(text: str) -> int:
    return len(text) * 3 // 4 - text[-2:].count("=")


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
    if sum(_decoded_bytes(value) for value in data.values()) > DATA_BYTES_MAX:
        faults.too_long("data", DATA_BYTES_MAX)
    kind = obj.get("type") or ""
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            faults.required(f"data[{key}]")
        elif key.startswith(".docker"):
            _check_json(data[key], f"data[{key}]", faults)
    if kind == "kubernetes.io/service-account-token":
        if not (metadata_of(obj).get("annotations") or {}).get(_ACCOUNT_ANNOTATION):
            faults.required(f"metadata.annotations[{_ACCOUNT_ANNOTATION}]")
    elif kind == "kubernetes.io/basic-auth":
        if not {"username", "password"} & set(data):
            faults.required("data[username]")
            faults.required("data[password]")
    elif kind == "kubernetes.io/ssh-auth" and not data.get("ssh-privatekey"):
        faults.required("data[ssh-privatekey]")


def _check_json(encoded: str, path: str, faults: Faults) -> None:
    try:
        found = orjson.loads(base64.b64decode(encoded))
    except ValueError as error:
        faults.invalid(path, "<secret contents redacted>", str(error))
        return
    if (kind := _JSON_KINDS.get(type(found))) is not None:
        text = f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        faults.invalid(path, "<secret contents redacted>", text)


def check_secret_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Secret keeps its type, and an immutable one its data."""
    faults.unchanged("type", new.get("type"), old.get("type"))
    _check_immutable(new, old, ("data",), faults)


def check_node(obj: Object, faults: Faults) -> None:
    """Check a Node; the path of taints is the one that Kubernetes tells."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if taints := spec.get("taints"):
        check_taints(taints, "metadata.taints", faults)
    for field in ("capacity", "allocatable"):
        for name, amount in (status.get(field) or {}).items():
            check_amount(name, amount, f"status.{field}.{name}", faults)
    cidrs = spec.get("podCIDRs") or []
    wrong = False
    for index, cidr in enumerate(cidrs):
        found = ip_forms.cidr(cidr)
        wrong = wrong or bool(found)
        faults.invalid_all(f"spec.podCIDRs[{index}]", cidr, found)
    if len(cidrs) > 1 and not wrong and not is_dual_stack(cidrs):
        faults.invalid("spec.podCIDRs", cidrs, "may specify no more than one CIDR for each IP family")


def check_node_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a Node keeps the ranges and the identity that it was given."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    _check_addresses_once((new.get("status") or {}).get("addresses") or [], faults)
    _check_ranges_kept(now.get("podCIDRs") or [], was.get("podCIDRs") or [], faults)
    if was.get("providerID") and now.get("providerID") != was["providerID"]:
        faults.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')
    if (source := now.get("configSource")) is not None:
        _check_config_source(source, faults)
    if (now.get("externalID") or "") != (was.get("externalID") or ""):
        faults.forbidden("spec.externalID", "may not be updated")


def _check_addresses_once(addresses: list[dict[str, Any]], faults: Faults) -> None:
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            faults.duplicate(f"status.addresses[{index}]", internal("core.v1.NodeAddress", address))


def _check_ranges_kept(now: list[str], was: list[str], faults: Faults) -> None:
    text = 'node updates may not change podCIDR except from "" to valid'
    if was and len(now) != len(was):
        faults.forbidden("spec.podCIDRs", text)
    elif was:
        for value, kept in zip(now, was, strict=True):
            if value != kept:
                faults.forbidden("spec.podCIDRs", text)


def _check_config_source(source: dict[str, Any], faults: Faults) -> None:
    path = "spec.configSource"
    if (reference := source.get("configMap")) is None:
        faults.invalid(path, {"ConfigMap": None}, "exactly one reference subfield must be non-nil")
        return
    path += ".configMap"
    for field in ("uid", "resourceVersion"):
        if reference.get(field):
            faults.forbidden(f"{path}.{field}", f"{field} must not be set in spec")
    for field, check in (
        ("namespace", names.dns_label), ("name", names.dns_subdomain), ("kubeletConfigKey", names.config_key),
    ):  # fmt: skip
        if value := reference.get(field):
            faults.invalid_all(f"{path}.{field}", value, check(value))
        else:
            faults.required(f"{path}.{field}")


def check_namespace(obj: Object, faults: Faults) -> None:
    """Check a Namespace."""
    for name in (obj.get("spec") or {}).get("finalizers") or []:
        check_finalizer(name, "spec.finalizers", faults)


def check_namespace_finalize(new: Object, old: Object, faults: Faults) -> None:
    """Check what is still to be done before a Namespace may go."""
    for index, name in enumerate((new.get("spec") or {}).get("finalizers") or []):
        check_finalizer(name, f"spec.finalizers[{index}]", faults)


def check_lease(obj: Object, faults: Faults) -> None:
    """Check a Lease."""
    spec = obj.get("spec") or {}
    seconds, strategy = spec.get("leaseDurationSeconds"), spec.get("strategy")
    if seconds is not None and seconds <= 0:
        faults.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    faults.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
    if strategy is not None:
        _check_strategy(strategy, faults)
    if spec.get("preferredHolder") and not strategy:
        faults.forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined")


def _check_strategy(strategy: Any, faults: Faults) -> None:
    if "/" in strategy:
        faults.invalid_all("spec.strategy", strategy, names.qualified_name(strategy))
    elif strategy != "OldestEmulationVersion":
        faults.not_supported("spec.strategy", strategy, ["OldestEmulationVersion"])
