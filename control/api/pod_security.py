"""The Pod Security Standards (baseline, restricted) as pure checks of a pod's spec, with Kubernetes' texts.

A check returns what it forbids and where: ``Fault("host namespaces", "hostNetwork=true")``. Windows pods are held to
what applies to every system; the versions of the standards that a namespace may name are all judged as the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from control.api.meta import Object

LEVELS = ("privileged", "baseline", "restricted")
_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
_SYSCTLS = frozenset({
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
})  # fmt: skip
_VOLUMES = frozenset({
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
})  # fmt: skip
_SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Fault:
    """One control of the standards that a pod breaks."""

    reason: str
    detail: str

    def __str__(self) -> str:
        """Return the form that refusals show."""
        return f"{self.reason} ({self.detail})"


Check = Callable[[Object, Object], Fault | None]
"""(metadata, spec) → the fault."""


def faults(metadata: Object, spec: Object, level: str) -> list[Fault]:
    """Return what a pod breaks of a level."""
    if level == "privileged":
        return []
    checks = BASELINE if level == "baseline" else (*BASELINE_OF_RESTRICTED, *RESTRICTED)
    return [fault for check in checks if (fault := check(metadata, spec)) is not None]


def text(found: list[Fault]) -> str:
    """Return the faults as refusals and warnings show them."""
    return ", ".join(str(fault) for fault in found)


def _containers(spec: Object) -> Iterator[Object]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field) or ()


def _context(holder: Object) -> Object:
    return holder.get("securityContext") or {}


def _names(found: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in found)
    return f"container {quoted}" if len(found) == 1 else f"containers {quoted}"


def _bad(spec: Object, is_bad: Callable[[Object], bool]) -> list[str]:
    return [container.get("name") or "" for container in _containers(spec) if is_bad(container)]


def _each(values: list[str]) -> str:
    return ", ".join(f'"{value}"' for value in sorted(set(values)))


def _host_namespaces(_metadata: Object, spec: Object) -> Fault | None:
    set_ones = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return Fault("host namespaces", ", ".join(set_ones)) if set_ones else None


def _privileged(_metadata: Object, spec: Object) -> Fault | None:
    found = _bad(spec, lambda container: bool(_context(container).get("privileged")))
    return Fault("privileged", f"{_names(found)} must not set securityContext.privileged=true") if found else None


def _capabilities(_metadata: Object, spec: Object) -> Fault | None:
    def extra(container: Object) -> list[str]:
        added = (_context(container).get("capabilities") or {}).get("add") or ()
        return [name for name in added if name not in _CAPABILITIES]

    found = _bad(spec, lambda container: bool(extra(container)))
    if not found:
        return None
    listed = _each([name for container in _containers(spec) for name in extra(container)])
    told = f"{_names(found)} must not include {listed} in securityContext.capabilities.add"
    return Fault("non-default capabilities", told)


def _host_paths(_metadata: Object, spec: Object) -> Fault | None:
    found = [volume["name"] for volume in spec.get("volumes") or () if volume.get("hostPath") is not None]
    if not found:
        return None
    word = "volume" if len(found) == 1 else "volumes"
    return Fault("hostPath volumes", f"{word} {', '.join(f'{chr(34)}{name}{chr(34)}' for name in found)}")


def _host_ports(_metadata: Object, spec: Object) -> Fault | None:
    ports = [
        str(port["hostPort"])
        for container in _containers(spec)
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
    found = _bad(spec, lambda container: any(port.get("hostPort") for port in container.get("ports") or ()))
    if not found:
        return None
    word = "hostPort" if len(set(ports)) == 1 else "hostPorts"
    verb = "uses" if len(found) == 1 else "use"
    return Fault("hostPort", f"{_names(found)} {verb} {word} {', '.join(sorted(set(ports), key=int))}")


def _apparmor(metadata: Object, spec: Object) -> Fault | None:
    bad = [
        f'{name}="{value}"'
        for name, value in sorted((metadata.get("annotations") or {}).items())
        if name.startswith(_APPARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/")
    ]
    if (_context(spec).get("appArmorProfile") or {}).get("type") == "Unconfined":
        bad.append('pod must not set AppArmor profile type to "Unconfined"')
    found = _bad(spec, lambda c: (_context(c).get("appArmorProfile") or {}).get("type") == "Unconfined")
    if found:
        bad.append(f'{_names(found)} must not set AppArmor profile type to "Unconfined"')
    return Fault("forbidden AppArmor profile" + ("s" if len(bad) > 1 else ""), ", ".join(bad)) if bad else None


def _selinux(_metadata: Object, spec: Object) -> Fault | None:
    told: list[str] = []
    holders = [("pod", spec), *((f'container "{c.get("name")}"', c) for c in _containers(spec))]
    for who, holder in holders:
        options = _context(holder).get("seLinuxOptions") or {}
        if (options.get("type") or "") not in _SELINUX_TYPES:
            told.append(f'{who} set forbidden securityContext.seLinuxOptions: type "{options["type"]}"')
        told += [
            f"{who} set forbidden securityContext.seLinuxOptions: {part} may not be set"
            for part in ("user", "role")
            if options.get(part)
        ]
    return Fault("seLinuxOptions", "; ".join(told)) if told else None


def _proc_mount(_metadata: Object, spec: Object) -> Fault | None:
    def mount(container: Object) -> str:
        return str(_context(container).get("procMount") or "Default")

    found = _bad(spec, lambda container: mount(container) != "Default")
    if not found:
        return None
    kinds = _each([mount(container) for container in _containers(spec) if mount(container) != "Default"])
    return Fault("procMount", f"{_names(found)} must not set securityContext.procMount to {kinds}")


def _seccomp_baseline(_metadata: Object, spec: Object) -> Fault | None:
    told: list[str] = []
    if (_context(spec).get("seccompProfile") or {}).get("type") == "Unconfined":
        told.append('pod must not set securityContext.seccompProfile.type to "Unconfined"')
    found = _bad(spec, lambda c: (_context(c).get("seccompProfile") or {}).get("type") == "Unconfined")
    if found:
        told.append(f'{_names(found)} must not set securityContext.seccompProfile.type to "Unconfined"')
    return Fault("seccompProfile", ", ".join(told)) if told else None


def _sysctls(_metadata: Object, spec: Object) -> Fault | None:
    found = [entry["name"] for entry in _context(spec).get("sysctls") or () if entry["name"] not in _SYSCTLS]
    return Fault("forbidden sysctls", ", ".join(sorted(found))) if found else None


def _host_process(_metadata: Object, spec: Object) -> Fault | None:
    def is_set(holder: Object) -> bool:
        return bool((_context(holder).get("windowsOptions") or {}).get("hostProcess"))

    told = [f"{_names(found)} must not set securityContext.windowsOptions.hostProcess=true"] if (
        found := _bad(spec, is_set)) else []  # fmt: skip
    if is_set(spec):
        told.insert(0, "pod must not set securityContext.windowsOptions.hostProcess=true")
    return Fault("hostProcess", ", ".join(told)) if told else None


def _volumes(_metadata: Object, spec: Object) -> Fault | None:
    bad: dict[str, list[str]] = {}
    for volume in spec.get("volumes") or ():
        kind = next((key for key, value in volume.items() if key != "name" and value is not None), "")
        if kind and kind not in _VOLUMES:
            bad.setdefault(kind, []).append(volume["name"])
    if not bad:
        return None
    named = [name for found in bad.values() for name in found]
    kinds = _each(list(bad))
    word, verb = ("volume", "uses") if len(named) == 1 else ("volumes", "use")
    type_word = "type" if len(bad) == 1 else "types"
    listed = ", ".join(f'"{name}"' for name in named)
    return Fault("restricted volume types", f"{word} {listed} {verb} restricted volume {type_word} {kinds}")


def _escalation(_metadata: Object, spec: Object) -> Fault | None:
    found = _bad(spec, lambda container: _context(container).get("allowPrivilegeEscalation") is not False)
    if not found:
        return None
    return Fault(
        "allowPrivilegeEscalation != false", f"{_names(found)} must set securityContext.allowPrivilegeEscalation=false"
    )


def _non_root(_metadata: Object, spec: Object) -> Fault | None:
    explicit = _bad(spec, lambda container: _context(container).get("runAsNonRoot") is False)
    reason = "runAsNonRoot != true"
    if explicit:
        return Fault(reason, f"{_names(explicit)} must not set securityContext.runAsNonRoot=false")
    of_pod = _context(spec).get("runAsNonRoot")
    if of_pod is False:
        return Fault(reason, "pod must not set securityContext.runAsNonRoot=false")
    missing = _bad(spec, lambda container: not _context(container).get("runAsNonRoot")) if not of_pod else []
    return Fault(reason, f"pod or {_names(missing)} must set securityContext.runAsNonRoot=true") if missing else None


def _root_user(_metadata: Object, spec: Object) -> Fault | None:
    told = ["pod must not set runAsUser=0"] if _context(spec).get("runAsUser") == 0 else []
    if found := _bad(spec, lambda container: _context(container).get("runAsUser") == 0):
        told.append(f"{_names(found)} must not set runAsUser=0")
    return Fault("runAsUser=0", ", ".join(told)) if told else None


def _seccomp_restricted(metadata: Object, spec: Object) -> Fault | None:
    if (worse := _seccomp_baseline(metadata, spec)) is not None:
        return worse
    if (_context(spec).get("seccompProfile") or {}).get("type"):
        return None
    found = _bad(spec, lambda container: not (_context(container).get("seccompProfile") or {}).get("type"))
    if not found:
        return None
    return Fault(
        "seccompProfile",
        f'pod or {_names(found)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"',
    )


def _restricted_capabilities(_metadata: Object, spec: Object) -> Fault | None:
    def held(container: Object, part: str) -> Any:
        return (_context(container).get("capabilities") or {}).get(part) or ()

    told: list[str] = []
    if found := _bad(spec, lambda container: "ALL" not in held(container, "drop")):
        told.append(f'{_names(found)} must set securityContext.capabilities.drop=["ALL"]')
    added = [name for c in _containers(spec) for name in held(c, "add") if name != "NET_BIND_SERVICE"]
    if added:
        found = _bad(spec, lambda container: any(name != "NET_BIND_SERVICE" for name in held(container, "add")))
        told.append(f"{_names(found)} must not include {_each(added)} in securityContext.capabilities.add")
    return Fault("unrestricted capabilities", "; ".join(told)) if told else None


BASELINE: tuple[Check, ...] = (
    _apparmor, _capabilities, _host_namespaces, _host_paths, _host_ports, _privileged, _proc_mount, _seccomp_baseline,
    _selinux, _sysctls, _host_process,
)  # fmt: skip
BASELINE_OF_RESTRICTED: tuple[Check, ...] = (
    _apparmor, _host_namespaces, _host_paths, _host_ports, _privileged, _proc_mount, _selinux, _sysctls, _host_process,
)  # fmt: skip
"""Where the restricted level has a stricter check of the same control, that one alone is made."""
RESTRICTED: tuple[Check, ...] = (
    _escalation, _restricted_capabilities, _volumes, _non_root, _root_user, _seccomp_restricted,
)  # fmt: skip
