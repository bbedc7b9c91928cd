"""Rules of a pod's volumes."""

from __future__ import annotations

from typing import Any

from control.api import quantity
from control.api.validation import names
from control.api.validation.claims import check_claim_template
from control.api.validation.environment import check_field_reference, check_resource_field
from control.api.validation.faults import Faults
from control.api.validation.forms import check_signer_name
from control.api.validation.metadata import check_selector
from control.api.validation.paths import check_reserved_path
from control.api.validation.volume_sources import INSIDE, check_common_source

_DOWNWARD_FIELDS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
_ORDER = (
    "emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi",
    "glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc",
    "flexVolume", "configMap", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk",
    "storageos", "projected", "scaleIO", "csi", "ephemeral", "image",
)  # fmt: skip
"""The order in which Kubernetes looks at sources: the first is the one that counts."""
_TOLD_AS = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
"""Kubernetes' spelling of a source that is one too many."""
_MODE_RANGE = "must be a number between 0 and 0777 (octal), both inclusive"
_TOO_MANY = "may not specify more than 1 volume type"
_CONFLICT = "conflicting duplicate paths"
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


def check_volumes(
    volumes: list[dict[str, Any]], path: str, faults: Faults, pod_name: str = "", *, is_pod: bool = False
) -> dict[str, str]:
    """Check the volumes of a pod; return the kinds of those that containers may mount, by name."""
    found: dict[str, str] = {}
    made = {f"{pod_name}-{volume.get('name')}" for volume in volumes if volume.get("ephemeral") and pod_name}
    for index, volume in enumerate(volumes):
        here, name = f"{path}[{index}]", volume.get("name") or ""
        before = len(faults.causes)
        kind = check_source(volume, here, faults, is_pod=is_pod)
        if kind == "ephemeral" and pod_name and name:
            claim = f"{pod_name}-{name}"
            told = [f'PVC name "{claim}": {fault}' for fault in names.dns_subdomain(claim)]
            faults.invalid_all(f"{here}.name", name, told)
        if not name:
            faults.required(f"{here}.name")
        else:
            faults.invalid_all(f"{here}.name", name, names.dns_label(name))
        if name in found:
            faults.duplicate(f"{here}.name", name)
        if len(faults.causes) == before:
            found[name] = kind
        named = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if named in made:
            text = "must not reference a PVC that gets created for an ephemeral volume"
            faults.invalid(f"{here}.persistentVolumeClaim.claimName", named, text)
    return found


def check_source(volume: dict[str, Any], path: str, faults: Faults, *, is_pod: bool) -> str:
    """Check that a volume has exactly one source, and that source; return its kind."""
    sources = [key for key, value in volume.items() if key != "name" and value is not None]
    if not sources:
        faults.required(path, "must specify a volume type")
        return ""
    if len(sources) > 1:
        sources.sort(key=_ORDER.index)
    kind = sources[0]
    _check_kind(kind, volume[kind], path, faults, is_pod)
    for extra in sources[1:]:
        faults.forbidden(f"{path}.{_TOLD_AS.get(extra, extra)}", _TOO_MANY)
    if (source := volume.get("iscsi")) is not None and source.get("initiatorName") is not None:
        name = volume.get("name") or ""
        check_portal_length(name, source, f"{path}.name", name, faults)
    return kind


def _check_kind(kind: str, source: dict[str, Any], path: str, faults: Faults, is_pod: bool) -> None:
    here = f"{path}.{INSIDE.get(kind, kind)}"
    if kind in ("secret", "configMap"):
        field = "secretName" if kind == "secret" else "name"
        if not source.get(field):
            faults.required(f"{here}.{field}")
        _check_mode(source.get("defaultMode"), f"{here}.defaultMode", faults)
        _check_items(source.get("items") or [], f"{here}.items", faults)
    elif kind == "downwardAPI":
        _check_mode(source.get("defaultMode"), f"{here}.defaultMode", faults)
        _check_downward(source.get("items") or [], here, faults)
    elif kind == "projected":
        _check_mode(source.get("defaultMode"), f"{here}.defaultMode", faults)
        _check_projections(source.get("sources") or [], here, faults)
    elif kind == "ephemeral":
        check_claim_template(source.get("volumeClaimTemplate"), f"{here}.volumeClaimTemplate", faults)
    elif kind == "emptyDir":
        if source.get("sizeLimit") is not None and quantity.parse(source["sizeLimit"]) < 0:
            faults.forbidden(f"{here}.sizeLimit", "SizeLimit field must be a valid resource quantity")
    elif kind == "image":
        if is_pod and not source.get("reference"):
            faults.required(f"{here}.reference")
        faults.one_of(f"{here}.pullPolicy", source.get("pullPolicy"), _PULL_POLICIES)
    else:
        check_common_source(kind, source, here, faults, persistent=False)


def check_portal_length(name: str, source: dict[str, Any], path: str, shown_as: str, faults: Faults) -> None:
    """Check that the name of an iSCSI volume and its portal together are short enough."""
    if len(f"{name}:{source.get('targetPortal') or ''}") > 64:
        text = (
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is "
            "specified."
        )
        faults.invalid(path, shown_as, text)


def _check_mode(mode: int | None, path: str, faults: Faults) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        faults.invalid(path, mode, _MODE_RANGE)


def _check_items(items: list[dict[str, Any]], path: str, faults: Faults) -> None:
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        if not item.get("key"):
            faults.required(f"{here}.key")
        if not item.get("path"):
            faults.required(f"{here}.path")
        else:
            check_reserved_path(item["path"], f"{here}.path", faults)
        _check_mode(item.get("mode"), f"{here}.mode", faults)


def _check_downward(items: list[dict[str, Any]], path: str, faults: Faults) -> None:
    # Kubernetes names the volume here, not the item that is wrong.
    for item in items:
        if not item.get("path"):
            faults.required(f"{path}.path")
        else:
            check_reserved_path(item["path"], f"{path}.path", faults)
        if (reference := item.get("fieldRef")) is not None:
            check_field_reference(reference, f"{path}.fieldRef", faults, _DOWNWARD_FIELDS)
            if item.get("resourceFieldRef") is not None:
                faults.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif (resource := item.get("resourceFieldRef")) is not None:
            check_resource_field(resource, f"{path}.resourceFieldRef", faults, in_volume=True)
        else:
            faults.required(path, "one of fieldRef and resourceFieldRef is required")
        _check_mode(item.get("mode"), f"{path}.mode", faults)


def _check_projections(sources: list[dict[str, Any]], path: str, faults: Faults) -> None:
    taken: set[str] = set()

    def take(place: str | None, shown_as: str) -> None:
        if place:
            if place in taken:
                faults.invalid(path, shown_as, _CONFLICT)
            taken.add(place)

    for index, source in enumerate(sources):
        here = f"{path}.sources[{index}]"
        for kind in ("secret", "configMap"):
            if (projection := source.get(kind)) is not None:
                if not projection.get("name"):
                    faults.required(f"{here}.{kind}.name")
                _check_items(projection.get("items") or [], f"{here}.{kind}.items", faults)
                for item in projection.get("items") or []:
                    take(item.get("path"), projection.get("name") or "")
        if (projection := source.get("downwardAPI")) is not None:
            _check_downward(projection.get("items") or [], f"{here}.downwardAPI", faults)
            for item in projection.get("items") or []:
                take(item.get("path"), item.get("path") or "")
        if (token := source.get("serviceAccountToken")) is not None:
            _check_token(token, f"{here}.serviceAccountToken", path, faults)
        if (bundle := source.get("clusterTrustBundle")) is not None:
            _check_bundle(bundle, f"{here}.clusterTrustBundle", faults)
            place = bundle.get("path") or ""
            if place in taken:
                faults.invalid(path, place, _CONFLICT)
            taken.add(place)
        if sum(value is not None for value in source.values()) > 1:
            faults.forbidden(here, f"{_TOO_MANY} per source")


def _check_token(token: dict[str, Any], path: str, volume_path: str, faults: Faults) -> None:
    seconds = token.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    if seconds is not None and seconds > 1 << 32:
        faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    if not token.get("path"):
        faults.required(f"{volume_path}.path")
    else:
        check_reserved_path(token["path"], f"{volume_path}.path", faults)


def _check_bundle(bundle: dict[str, Any], path: str, faults: Faults) -> None:
    name, signer = bundle.get("name"), bundle.get("signerName")
    if name is not None and signer is not None:
        faults.invalid(path, bundle, "only one of name and signerName may be used")
    elif name is not None:
        if not name:
            faults.required(f"{path}.name", "must be a valid object name")
        told = [
            f"not a valid clustertrustbundlename: {fault}" for fault in names.dns_subdomain(name.rpartition(":")[2])
        ]
        faults.invalid_all(f"{path}.name", name, told)
        if bundle.get("labelSelector") is not None:
            text = "labelSelector must be unset if name is specified"
            faults.invalid(f"{path}.labelSelector", bundle["labelSelector"], text)
    elif signer is not None:
        if not signer:
            faults.required(f"{path}.signerName", "must be a valid signer name")
        check_signer_name(signer, f"{path}.signerName", faults)
        check_selector(bundle.get("labelSelector"), f"{path}.labelSelector", faults)
    else:
        faults.required(path, "either name or signerName must be specified")
    if not bundle.get("path"):
        faults.required(f"{path}.path")
    check_reserved_path(bundle.get("path") or "", f"{path}.path", faults)
