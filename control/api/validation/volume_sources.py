"""Rules of where volumes come from, for those kinds that pods and persistent volumes share, mostly old ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_driver_name
from control.api.validation.paths import check_inner_path, check_no_backsteps

_ISCSI_FORMS = (
    ("iqn", re.compile(r"iqn\.\d{4}-\d{2}\.([A-Za-z0-9.-]+)(:[^,;*&$|\s]+)$")),
    ("eui", re.compile(r"^eui.[A-Za-z0-9]{16}$")),
    ("naa", re.compile(r"^naa.[A-Za-z0-9]{32}$")),
)
_HOST_PATHS = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_BRACKETED = re.compile(r"\[[^\[\]]*\]:[^:]*")
_REGISTRY = "must be a host:port pair or multiple pairs separated by commas"
_REQUIRED: dict[str, tuple[str, ...]] = {
    "azureFile": ("secretName", "shareName"),
    "cephfs": ("monitors",),
    "cinder": ("volumeID",),
    "gitRepo": ("repository",),
    "glusterfs": ("endpoints", "path"),
    "persistentVolumeClaim": ("claimName",),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "rbd": ("monitors", "image"),
    "scaleIO": ("gateway", "system", "volumeName"),
    "vsphereVolume": ("volumePath",),
}
"""Fields that a source must have, where that is all that is asked."""
INSIDE = {"gcePersistentDisk": "persistentDisk"}
"""The name under which Kubernetes tells what is wrong inside of a source, where it is not the source's own."""
_PERSISTENT_SECRETS = ("controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef",
                       "nodeExpandSecretRef")  # fmt: skip
Check = Callable[[dict[str, Any], str, Faults, bool], None]


def check_common_source(kind: str, source: dict[str, Any], path: str, faults: Faults, *, persistent: bool) -> None:
    """Check a source of a kind that is of no concern to pods alone."""
    for field in _REQUIRED.get(kind, ()):
        if not source.get(field):
            faults.required(f"{path}.{field}")
    if (check := _CHECKS.get(kind)) is not None:
        check(source, path, faults, persistent)


def _host_path(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if not source.get("path"):
        faults.required(f"{path}.path")
        return
    check_no_backsteps(source["path"], f"{path}.path", faults)
    if (kind := source.get("type")) is not None and kind not in _HOST_PATHS:
        faults.not_supported(f"{path}.type", kind, _HOST_PATHS)


def _local(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if not source.get("path"):
        faults.required(f"{path}.path")
    else:
        check_no_backsteps(source["path"], f"{path}.path", faults)


def _git(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    check_inner_path(source.get("directory") or "", f"{path}.directory", faults)


def _disk(name: str) -> Check:
    def check(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
        if not source.get(name):
            faults.required(f"{path}.{name}")
        if not 0 <= (partition := source.get("partition") or 0) <= 255:
            faults.invalid(f"{path}.partition", partition, "must be between 1 and 255, inclusive")

    return check


def _nfs(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    for field in ("server", "path"):
        if not source.get(field):
            faults.required(f"{path}.{field}")
    if not (source.get("path") or "").startswith("/"):
        faults.invalid(f"{path}.path", source.get("path") or "", "must be an absolute path")


def _iscsi(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if not source.get("targetPortal"):
        faults.required(f"{path}.targetPortal")
    if not source.get("iqn"):
        faults.required(f"{path}.iqn")
    else:
        _check_initiator(source["iqn"], f"{path}.iqn", faults, persistent)
    faults.within(f"{path}.lun", source.get("lun") or 0, 0, 255)
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and source.get("secretRef") is None:
        faults.required(f"{path}.secretRef")
    if persistent and source.get("secretRef") is not None and not source["secretRef"].get("name"):
        faults.required(f"{path}.secretRef.name")
    if (initiator := source.get("initiatorName")) is not None:
        _check_initiator(initiator, f"{path}.initiatorname", faults, persistent)


def _check_initiator(text: str, path: str, faults: Faults, persistent: bool) -> None:
    for prefix, form in _ISCSI_FORMS:
        if text.startswith(prefix):
            if not form.search(text):
                faults.invalid(path, text, "must be valid format")
            return
    told = "must be valid format" if persistent else "must be valid format starting with iqn, eui, or naa"
    faults.invalid(path, text, told)


def _fc(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    targets, wwids = source.get("targetWWNs") or [], source.get("wwids") or []
    if not targets and not wwids:
        faults.required(f"{path}.targetWWNs", "must specify either targetWWNs or wwids, but not both")
    if targets and wwids:
        faults.invalid(f"{path}.targetWWNs", targets, "targetWWNs and wwids can not be specified simultaneously")
    if targets and source.get("lun") is None:
        faults.required(f"{path}.lun", "lun is required if targetWWNs is specified")
    elif targets:
        faults.within(f"{path}.lun", source["lun"], 0, 255)


def _flocker(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    name, uuid = source.get("datasetName") or "", source.get("datasetUUID") or ""
    if not name and not uuid:
        faults.required(path, "one of datasetName and datasetUUID is required")
    if name and uuid:
        faults.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously")
    if "/" in name:
        faults.invalid(f"{path}.datasetName", name, "must not contain '/'")


def _quobyte(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    registry = source.get("registry") or ""
    if not registry:
        faults.required(f"{path}.registry", _REGISTRY)
    elif len(source.get("tenant") or "") >= 65:
        faults.required(f"{path}.tenant", "must be a UUID and may not exceed a length of 64 characters")
    else:
        for pair in registry.split(","):
            if pair.count(":") != 1 and not _BRACKETED.fullmatch(pair):
                faults.invalid(f"{path}.registry", registry, _REGISTRY)
    if not source.get("volume"):
        faults.required(f"{path}.volume")


def _flex(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if not source.get("driver"):
        faults.required(f"{path}.driver")
    for key in source.get("options") or {}:
        domain = "." + key.partition("/")[0].lower()
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            text = "kubernetes.io and k8s.io namespaces are reserved"
            faults.invalid(f"{path}.options[{key}]", key, text)


def _azure_disk(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    for field in ("diskName", "diskURI"):
        if not source.get(field):
            faults.required(f"{path}.{field}")
    caching, kind, uri = source.get("cachingMode"), source.get("kind"), source.get("diskURI") or ""
    if caching is not None and caching not in ("None", "ReadOnly", "ReadWrite"):
        faults.not_supported(f"{path}.cachingMode", caching, ["None", "ReadOnly", "ReadWrite"])
    if kind is not None and kind not in ("Dedicated", "Managed", "Shared"):
        faults.not_supported(f"{path}.kind", kind, ["Dedicated", "Managed", "Shared"])
    if kind == "Managed" and not uri.startswith("/subscriptions/"):
        form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
        faults.not_supported(f"{path}.diskURI", uri, [form])
    elif kind not in (None, "Managed") and not uri.startswith("https://"):
        form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
        faults.not_supported(f"{path}.diskURI", uri, [form])


def _azure_file(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if persistent and source.get("secretNamespace") == "":
        faults.required(f"{path}.secretNamespace")


def _cinder(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if (reference := source.get("secretRef")) is not None:
        for field in ("name", "namespace") if persistent else ("name",):
            if not reference.get(field):
                faults.required(f"{path}.secretRef.{field}")


def _storage_os(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if not (name := source.get("volumeName")):
        faults.required(f"{path}.volumeName")
    else:
        faults.invalid_all(f"{path}.volumeName", name, names.dns_label(name))
    if space := source.get("volumeNamespace"):
        faults.invalid_all(f"{path}.volumeNamespace", space, names.dns_label(space))
    _cinder(source, path, faults, persistent)


def _glusterfs(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    if persistent and (space := source.get("endpointsNamespace")) is not None:
        told = ["if the endpointnamespace is set, it must be a valid namespace name"]
        faults.invalid_all(f"{path}.endpointsNamespace", space, names.dns_label(space) if space else told)


def _csi(source: dict[str, Any], path: str, faults: Faults, persistent: bool) -> None:
    check_driver_name(source.get("driver") or "", f"{path}.driver", faults)
    if not persistent:
        if (reference := source.get("nodePublishSecretRef")) is not None:
            if not (name := reference.get("name")):
                faults.required(f"{path}.nodePublishSecretRef.name")
            else:
                faults.invalid_all(f"{path}.name", name, names.dns_subdomain(name))
        return
    if not source.get("volumeHandle"):
        faults.required(f"{path}.volumeHandle")
    for field in _PERSISTENT_SECRETS:
        if (reference := source.get(field)) is not None:
            for key, check in (("name", names.dns_subdomain), ("namespace", names.dns_label)):
                here, text = f"{path}.{field}.{key}", reference.get(key)
                if not text:
                    faults.required(here)
                else:
                    faults.invalid_all(here, text, check(text))


_CHECKS: dict[str, Check] = {
    "hostPath": _host_path,
    "local": _local,
    "gitRepo": _git,
    "gcePersistentDisk": _disk("pdName"),
    "awsElasticBlockStore": _disk("volumeID"),
    "nfs": _nfs,
    "iscsi": _iscsi,
    "fc": _fc,
    "flocker": _flocker,
    "quobyte": _quobyte,
    "flexVolume": _flex,
    "azureDisk": _azure_disk,
    "azureFile": _azure_file,
    "cinder": _cinder,
    "storageos": _storage_os,
    "glusterfs": _glusterfs,
    "csi": _csi,
}
