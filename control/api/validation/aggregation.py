"""Rules of APIServices."""

from __future__ import annotations

import base64
import binascii

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults

GROUP_PRIORITY_MAX, VERSION_PRIORITY_MAX = 20_000, 1_000


def check_api_service(obj: Object, faults: Faults) -> None:
    """Check an APIService."""
    spec = obj.get("spec") or {}
    group, version, name = (
        spec.get("group") or "",
        spec.get("version") or "",
        (obj.get("metadata") or {}).get("name") or "",
    )
    if name != f"{version}.{group}":
        faults.invalid("metadata.name", name, f'must be `spec.version+"."+spec.group`: "{version}.{group}"')
    if group:
        faults.invalid_all("spec.group", group, names.dns_subdomain(group))
    elif version != "v1":
        faults.required("spec.group", "only v1 may have an empty group and it better be legacy kube")
    faults.invalid_all("spec.version", version, names.dns_1035_label(version))
    for field, maximum in (("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)):
        value = spec.get(field) or 0
        if not 0 < value <= maximum:
            faults.invalid(f"spec.{field}", value, f"must be positive and less than {maximum}")
    service, bundle, insecure = spec.get("service"), spec.get("caBundle"), bool(spec.get("insecureSkipTLSVerify"))
    if service is None:
        if bundle:
            faults.invalid("spec.caBundle", f"{_size(bundle)} bytes", "local APIServices may not have a caBundle")
        if insecure:
            text = "local APIServices may not have insecureSkipTLSVerify"
            faults.invalid("spec.insecureSkipTLSVerify", insecure, text)
        return
    for field in ("namespace", "name"):
        if not service.get(field):
            faults.required(f"spec.service.{field}")
    if insecure and bundle:
        faults.invalid("spec.insecureSkipTLSVerify", insecure, "may not be true if caBundle is present")


def _size(bundle: str) -> int:
    try:
        return len(base64.b64decode(bundle, validate=True))
    except (binascii.Error, ValueError):
        return len(bundle)
