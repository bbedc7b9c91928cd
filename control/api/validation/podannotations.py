"""Rules of the annotations by which pods once said what fields say today."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from control.api.validation.faults import Faults, quoted
from control.api.validation.nodeselectors import check_tolerations
from control.api.validation.paths import check_inner_path
from control.api.validation.security import all_containers

MIRROR = "kubernetes.io/config.mirror"
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_TOLERATIONS = "scheduler.alpha.kubernetes.io/tolerations"
_SECCOMP_OF_POD = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"
_LOCAL = "localhost/"
_NO_MATCH = "{0} type in annotation and field must match"


def check_pod_annotations(annotations: dict[str, str], spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check annotations that mean something to Kubernetes."""
    if MIRROR in annotations and not spec.get("nodeName"):
        text = "must set spec.nodeName if mirror pod annotation is set"
        faults.invalid(f"{path}[{MIRROR}]", annotations[MIRROR], text)
    if tolerations := annotations.get(_TOLERATIONS):
        _check_tolerations(tolerations, path, faults)
    cost = annotations.get(_DELETION_COST)
    if cost is not None and not _is_deletion_cost(cost):
        faults.invalid(f"{path}[{_DELETION_COST}]", cost, "must be a 32bit integer")
    if _SECCOMP_OF_POD in annotations:
        _check_seccomp(annotations[_SECCOMP_OF_POD], f"{path}.{_SECCOMP_OF_POD}", faults)
    for key, profile in annotations.items():
        if key.startswith(_SECCOMP):
            _check_seccomp(profile, f"{path}.{key}", faults)
    for key, profile in annotations.items():
        if key.startswith(APP_ARMOR):
            _check_app_armor(key, profile, spec, path, faults)


def _is_deletion_cost(text: str) -> bool:
    return bool(re.fullmatch("-?[1-9][0-9]*|0", text)) and -(2**31) <= int(text) < 2**31


def _check_tolerations(text: str, path: str, faults: Faults) -> None:
    try:
        found = orjson.loads(text)
    except ValueError as error:
        faults.invalid(path, _TOLERATIONS, str(error))
        return
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        check_tolerations(found, f"{path}.{_TOLERATIONS}", faults)


def _check_seccomp(profile: str, path: str, faults: Faults) -> None:
    if profile in ("runtime/default", "docker/default", "unconfined"):
        return
    if profile.startswith(_LOCAL):
        check_inner_path(profile.removeprefix(_LOCAL), path, faults)
    else:
        faults.invalid(path, profile, "must be a valid seccomp profile")


def _check_app_armor(key: str, profile: str, spec: dict[str, Any], path: str, faults: Faults) -> None:
    name = key.removeprefix(APP_ARMOR)
    if all(container.get("name") != name for _, container in all_containers(spec, "")):
        faults.invalid(f"{path}[{key}]", name, "container not found")
    if profile not in ("", "runtime/default", "unconfined") and not profile.startswith(_LOCAL):
        faults.invalid(f"{path}[{key}]", profile, f"invalid AppArmor profile name: {quoted(profile)}")


def check_profiles_match(annotations: dict[str, str], spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that profiles which are told in an annotation and in a field are the same."""
    if not any(key.startswith((_SECCOMP, APP_ARMOR)) or key == _SECCOMP_OF_POD for key in annotations):
        return
    context = spec.get("securityContext") or {}
    if (profile := context.get("seccompProfile")) and (told := annotations.get(_SECCOMP_OF_POD)) is not None:
        _check_match(told, profile, f"{path}.securityContext.seccompProfile", "seccomp", faults)
    for here, container in all_containers(spec, path):
        profile = (container.get("securityContext") or {}).get("seccompProfile")
        told = annotations.get(_SECCOMP + (container.get("name") or ""))
        if profile and told is not None:
            _check_match(told, profile, f"{here}.securityContext.seccompProfile", "seccomp", faults)
    if (spec.get("os") or {}).get("name") == "windows":
        return
    for here, container in all_containers(spec, path):
        own = (container.get("securityContext") or {}).get("appArmorProfile") or context.get("appArmorProfile")
        told = annotations.get(APP_ARMOR + (container.get("name") or ""))
        if own and told is not None:
            _check_match(told, own, f"{here}.securityContext.appArmorProfile", "apparmor", faults)


def _check_match(told: str, profile: dict[str, Any], path: str, word: str, faults: Faults) -> None:
    known: dict[str, Callable[[str], bool]] = {
        "Unconfined": lambda text: text == "unconfined",
        "RuntimeDefault": lambda text: text == "runtime/default" or (word == "seccomp" and text == "docker/default"),
        "Localhost": lambda text: text.startswith(_LOCAL),
    }
    kind = profile.get("type") or ""
    if kind not in known:
        return
    if not known[kind](told):
        faults.forbidden(f"{path}.type", _NO_MATCH.format(word))
    elif kind == "Localhost" and told.removeprefix(_LOCAL) != profile.get("localhostProfile"):
        faults.forbidden(f"{path}.localhostProfile", f"{word} profile in annotation and field must match")
