"""Rules of security contexts, and of what goes with a pod's operating system and its host's namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.internal import internal
from control.api.validation.paths import check_inner_path

_CONTEXT = "core.v1.SecurityContext"
ID_MAX = 2147483647
_PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_PROFILE_PATH_MAX = 4095
_SYSCTL = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL_MAX = 253
_IPC_SYSCTLS = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
                "kernel.shmmni", "kernel.shm_rmid_forced")  # fmt: skip
_CREDENTIAL_KIB_MAX = 64
_NOT_WINDOWS = "cannot be set for a windows pod"
_NOT_LINUX = "windows options cannot be set for a linux pod"
_LINUX_OF_POD = (
    "appArmorProfile", "seLinuxOptions", "hostUsers", "hostPID", "hostIPC", "seccompProfile", "fsGroup",
    "fsGroupChangePolicy", "sysctls", "shareProcessNamespace", "runAsUser", "runAsGroup", "supplementalGroups",
    "supplementalGroupsPolicy", "seLinuxChangePolicy",
)  # fmt: skip
_OF_SPEC = ("hostUsers", "hostPID", "hostIPC", "shareProcessNamespace")
"""Fields that stand beside the security context of a pod, not inside of it."""
_ANY_VALUE = ("hostUsers", "shareProcessNamespace")
"""Fields that are set also where they are false."""
_LINUX_OF_CONTAINER = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged",
    "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NETBIOS = re.compile(r'[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}')
_DOMAIN_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*")
_USER_LETTERS = re.compile(r'["/\\:;|=,+*?<>@\[\]]')


def all_containers(spec: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every container of a pod with its path, in Kubernetes' order."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(kind) or []):
            yield f"{path}.{kind}[{index}]", container


def _check_seccomp(profile: dict[str, Any], path: str, faults: Faults) -> None:
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    if not kind:
        faults.required(f"{path}.type", "type is required when seccompProfile is set")
    elif kind not in _PROFILES:
        faults.not_supported(f"{path}.type", kind, _PROFILES)
    if kind != "Localhost":
        if local is not None:
            faults.invalid(f"{path}.localhostProfile", profile, "can only be set when seccomp type is Localhost")
    elif local is None:
        faults.required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost")
    else:
        check_inner_path(local, f"{path}.localhostProfile", faults)


def _check_app_armor(profile: dict[str, Any], path: str, faults: Faults) -> None:
    kind, local, here = profile.get("type") or "", profile.get("localhostProfile"), f"{path}.localhostProfile"
    if kind == "Localhost":
        if not local:
            faults.required(here, "must be set when AppArmor type is Localhost")
        elif local != local.strip():
            faults.invalid(here, local, "must not be padded with whitespace")
        if local and len(local) > _PROFILE_PATH_MAX:
            faults.too_long(here, _PROFILE_PATH_MAX)
    elif kind in _PROFILES:
        if local is not None:
            faults.invalid(here, local, "can only be set when AppArmor type is Localhost")
    elif not kind:
        faults.required(f"{path}.type", "type is required when appArmorProfile is set")
    else:
        faults.not_supported(f"{path}.type", kind, _PROFILES)


def _check_windows(options: dict[str, Any], path: str, faults: Faults) -> None:
    if (name := options.get("gmsaCredentialSpecName")) is not None:
        faults.invalid_all(f"{path}.gmsaCredentialSpecName", name, names.dns_subdomain(name))
    if (credential := options.get("gmsaCredentialSpec")) is not None:
        here = f"{path}.gmsaCredentialSpec"
        if not credential:
            faults.invalid(here, credential, "gmsaCredentialSpec cannot be an empty string")
        elif len(credential) > _CREDENTIAL_KIB_MAX * 1024:
            faults.invalid(here, credential, f"gmsaCredentialSpec size must be under {_CREDENTIAL_KIB_MAX} KiB")
    if (user := options.get("runAsUserName")) is not None:
        faults.invalid_all(f"{path}.runAsUserName", user, [f"runAsUserName{fault}" for fault in _user_faults(user)])


def _user_faults(text: str) -> list[str]:
    if not text:
        return [" cannot be an empty string"]
    if _CONTROL.search(text):
        return [" cannot contain control characters"]
    if text.count("\\") > 1:
        return [" cannot contain more than one backslash"]
    domain, backslash, user = text.rpartition("\\")
    found = []
    if len(domain) >= 256:
        found.append("'s Domain length must be under 256 characters")
    if backslash and not _NETBIOS.fullmatch(domain) and not _DOMAIN.fullmatch(domain):
        found.append("'s Domain doesn't match the NetBios nor the DNS format")
    if not user:
        found.append("'s User cannot be empty")
    elif len(user) > 104:
        found.append("'s User length must not be longer than 104 characters")
    if user and not user.strip(". "):
        found.append("'s User cannot contain only periods or spaces")
    if _USER_LETTERS.search(user):
        found.append("""'s User cannot contain the following characters: "/\\:;|=,+*?<>@[]""")
    return found


def check_container_context(context: dict[str, Any], path: str, faults: Faults, *, host_users: bool) -> None:
    """Check the security context of a container."""
    for field in ("runAsUser", "runAsGroup"):
        faults.within(f"{path}.{field}", context.get(field), 0, ID_MAX)
    if (mount := context.get("procMount")) is not None:
        if mount not in ("Default", "Unmasked"):
            faults.not_supported(f"{path}.procMount", mount, ["Default", "Unmasked"])
        if mount == "Unmasked" and host_users:
            faults.invalid(f"{path}.procMount", mount, "`hostUsers` must be false to use `Unmasked`")
    if (profile := context.get("seccompProfile")) is not None:
        _check_seccomp(profile, f"{path}.seccompProfile", faults)
    if context.get("allowPrivilegeEscalation") is False:
        refused = "cannot set `allowPrivilegeEscalation` to false and"
        if context.get("privileged"):
            faults.invalid(path, internal(_CONTEXT, context), f"{refused} `privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
            faults.invalid(path, internal(_CONTEXT, context), f"{refused} `capabilities.Add` CAP_SYS_ADMIN")
    if (options := context.get("windowsOptions")) is not None:
        _check_windows(options, f"{path}.windowsOptions", faults)
    if (profile := context.get("appArmorProfile")) is not None:
        _check_app_armor(profile, f"{path}.appArmorProfile", faults)


def check_pod_context(spec: dict[str, Any], context: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the security context of a pod, and what it says of the host's namespaces."""
    here = f"{path}.securityContext"
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        faults.within(f"{here}.{field}", context.get(field), 0, ID_MAX)
    for index, group in enumerate(context.get("supplementalGroups") or []):
        faults.within(f"{here}.supplementalGroups[{index}]", group, 0, ID_MAX)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        faults.invalid(f"{here}.shareProcessNamespace", True, text)
    if sysctls := context.get("sysctls"):
        _check_sysctls(sysctls, spec, f"{here}.sysctls", faults)
    if (policy := context.get("fsGroupChangePolicy")) is not None and policy not in ("Always", "OnRootMismatch"):
        faults.not_supported(f"{here}.fsGroupChangePolicy", policy, ["Always", "OnRootMismatch"])
    if (profile := context.get("seccompProfile")) is not None:
        _check_seccomp(profile, f"{here}.seccompProfile", faults)
    if (options := context.get("windowsOptions")) is not None:
        _check_windows(options, f"{here}.windowsOptions", faults)
    if (profile := context.get("appArmorProfile")) is not None:
        _check_app_armor(profile, f"{here}.appArmorProfile", faults)
    if (policy := context.get("supplementalGroupsPolicy")) is not None and policy not in ("Merge", "Strict"):
        faults.not_supported(f"{here}.supplementalGroupsPolicy", policy, ["Merge", "Strict"])
    if (policy := context.get("seLinuxChangePolicy")) is not None and policy not in ("MountOption", "Recursive"):
        faults.not_supported(f"{here}.seLinuxChangePolicy", policy, ["MountOption", "Recursive"])


def _check_sysctls(sysctls: list[dict[str, Any]], spec: dict[str, Any], path: str, faults: Faults) -> None:
    seen: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        here, name = f"{path}[{index}].name", sysctl.get("name") or ""
        if not name:
            faults.required(here)
        elif len(name) > _SYSCTL_MAX or not re.fullmatch(_SYSCTL, name):
            faults.invalid(here, name, f"must have at most {_SYSCTL_MAX} characters and match regex ^{_SYSCTL}$")
        elif name in seen:
            faults.duplicate(here, name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith("net."):
            faults.invalid(here, name, "may not be specified when 'hostNetwork' is true")
        elif spec.get("hostIPC") and (dotted.startswith("fs.mqueue.") or dotted in _IPC_SYSCTLS):
            faults.invalid(here, name, "may not be specified when 'hostIPC' is true")
        seen.add(name)


def check_host_users(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that a pod with users of its own shares no other namespace with its host."""
    if spec.get("hostUsers") is not False:
        return
    for field, shown_as in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
        if spec.get(field):
            faults.forbidden(f"{path}.{shown_as}", "when `hostUsers` is false")
    for here, container in all_containers(spec, path):
        if container.get("volumeDevices"):
            faults.forbidden(f"{here}.volumeDevices", "when `hostUsers` is false")


def check_host_process(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that a Windows pod runs as its host's processes wholly or not at all."""
    pod = ((spec.get("securityContext") or {}).get("windowsOptions") or {}).get("hostProcess")
    total = of_host = 0
    for here, container in all_containers(spec, path):
        total += 1
        own = ((container.get("securityContext") or {}).get("windowsOptions") or {}).get("hostProcess")
        if pod is not None and own is not None and pod is not own:
            shown_as = "true" if pod else "false"
            text = f"pod hostProcess value must be identical if both are specified, was {shown_as}"
            faults.invalid(f"{here}.securityContext.windowsOptions.hostProcess", own, text)
        of_host += bool(own if own is not None else pod)
    if not of_host:
        return
    if of_host != total:
        text = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
        faults.invalid(path, "", text)
    if not spec.get("hostNetwork"):
        text = "hostNetwork must be true if pod contains any hostProcess containers"
        faults.invalid(f"{path}.hostNetwork", False, text)


def check_operating_system(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that a pod which names its operating system sets nothing that another one has."""
    name = spec["os"].get("name") or ""
    if not name:
        faults.required(f"{path}.os.name")
    elif name not in ("linux", "windows"):
        faults.not_supported(f"{path}.os", name, ["linux", "windows"])
    elif name == "linux":
        _check_linux(spec, path, faults)
    else:
        _check_windows_pod(spec, path, faults)


def _check_linux(spec: dict[str, Any], path: str, faults: Faults) -> None:
    holders = [(path, spec), *all_containers(spec, path)]
    for here, holder in holders:
        if (holder.get("securityContext") or {}).get("windowsOptions") is not None:
            faults.forbidden(f"{here}.securityContext.windowsOptions", _NOT_LINUX)


def _check_windows_pod(spec: dict[str, Any], path: str, faults: Faults) -> None:
    context = spec.get("securityContext") or {}
    for field in _LINUX_OF_POD:
        if field in _OF_SPEC:
            value = spec.get(field)
            if value or (value is False and field in _ANY_VALUE):
                faults.forbidden(f"{path}.{field}", _NOT_WINDOWS)
        elif context.get(field) is not None:
            faults.forbidden(f"{path}.securityContext.{field}", _NOT_WINDOWS)
    for here, container in all_containers(spec, path):
        for field in _LINUX_OF_CONTAINER:
            if (container.get("securityContext") or {}).get(field) is not None:
                faults.forbidden(f"{here}.securityContext.{field}", _NOT_WINDOWS)
