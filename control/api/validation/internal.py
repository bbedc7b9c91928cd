"""How an error text shows a structure: with all its fields, under the names that they have inside Kubernetes.

There structures are converted to internal types before they are checked; those say nothing of JSON, so each field shows
under its Go name, whether it is set or not. Types of `meta/v1` are the same inside and outside.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from control.api import schema

_INITIALS = frozenset({
    "api", "aws", "ca", "cidr", "cidrs", "cpu", "csi", "dns", "fc", "fs", "gce", "gid", "grpc", "http", "https", "ip",
    "ips", "iscsi", "nfs", "os", "pd", "pid", "ipc", "proc", "rbd", "tcp", "tls", "ttl", "udp", "uid", "uri", "url",
    "urls", "uuid", "wwids", "wwns", "io", "id", "se",
})  # fmt: skip
_NAMES = {
    "procMount": "ProcMount", "preemptionPolicy": "PreemptionPolicy", "seLinuxMount": "SELinuxMount",
    "seLinuxOptions": "SELinuxOptions", "seLinuxChangePolicy": "SELinuxChangePolicy", "osImage": "OSImage",
    "wwids": "WWIDs", "targetWWNs": "TargetWWNs", "podIPs": "PodIPs", "hostIPs": "HostIPs", "clusterIPs": "ClusterIPs",
    "externalIPs": "ExternalIPs", "podCIDRs": "PodCIDRs", "cidrs": "CIDRs", "ips": "IPs", "lun": "Lun",
    "nonResourceURLs": "NonResourceURLs", "nodeID": "NodeID", "capabilities": "Capabilities", "cephfs": "CephFS",
    "storageos": "StorageOS", "tty": "TTY",
}  # fmt: skip
_RENAMED = {
    "resource.v1.DeviceAttribute": {
        field: f"{kind}Value{several}"
        for kind in ("Int", "Bool", "String", "Version")
        for several in ("", "s")
        for field in (kind.lower() + several,)
    },
}
"""Definition → JSON name → Go name, where the one does not follow from the other."""
_WORD = re.compile("[a-z0-9]+|[A-Z]+(?![a-z0-9])|[A-Z][a-z0-9]*")
_ZEROS: dict[str, Any] = {"string": "", "bool": False, "Quantity": "0"}


@cache
def _go_name(field: str) -> str:
    if (known := _NAMES.get(field)) is not None:
        return known
    words = _WORD.findall(field)
    return "".join(word.upper() if word.lower() in _INITIALS else word[0].upper() + word[1:] for word in words)


def internal(name: str, value: Any) -> Any:
    """Return a value of a definition (``networking.v1.ParentReference``) as an error text shows it."""
    return None if value is None else _shown(name, value)


def _shown(kind: str, value: Any) -> Any:
    if kind.startswith("[]"):
        return [_shown(kind[2:], item) for item in value]
    if kind.startswith("{}"):
        return {key: _shown(kind[2:], item) for key, item in sorted(value.items())}
    found = schema.resolve(kind) if schema.is_reference(kind) else None
    if found is None or kind.startswith("meta.") or not isinstance(value, dict):
        return value
    shown: dict[str, Any] = {}
    renamed = _RENAMED.get(kind, {})
    for field in found.fields.values():
        name, held = renamed.get(field.name) or _go_name(field.name), value.get(field.name)
        if held is not None:
            shown[name] = _shown(field.type, held)
        else:
            shown[name] = None if field.pointer else _zero(field.type)
    return shown


def _zero(kind: str) -> Any:
    if kind.startswith(("[]", "{}")) or kind in ("Time", "MicroTime", "bytes"):
        return None
    if not schema.is_reference(kind):
        return _ZEROS.get(kind, 0)
    found = schema.definition(kind)
    if schema.resolve(kind) is None:
        return _ZEROS.get(found.scalar, 0)
    return {} if kind.startswith("meta.") else _shown(kind, {})
