"""What a node is: facts read from the machine, and the Node object that tells them (pure but for `read`)."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from control.api import quantity
from control.api.meta import Object
from node.config import KubeletConfig
from node.runtime import ImageInfo, RuntimeVersion

KUBELET_VERSION = "v1.36.0"
IMAGES_MAX = 50
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
EVICTION_MEMORY_BYTES = 100 * 1024 * 1024
EVICTION_DISK_PART = 0.10
EVICTION_PIDS_PART = 0.05


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What does not change while the kubelet runs."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    address: str
    hostname: str
    kernel: str
    os_image: str
    architecture: str
    machine_id: str
    boot_id: str
    system_uuid: str
    swap_bytes: int
    root_dir: str


def read(config: KubeletConfig) -> MachineFacts:
    """Read the machine's facts."""
    memory = _meminfo()
    config.root_dir.mkdir(parents=True, exist_ok=True)
    machine = platform.machine()
    return MachineFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=memory.get("MemTotal", 0),
        disk_bytes=shutil.disk_usage(config.root_dir).total,
        address=config.node_ips[0] if config.node_ips else _own_address(),
        hostname=socket.gethostname(),
        kernel=platform.release(),
        os_image=_os_name(),
        architecture=ARCHITECTURES.get(machine, machine),
        machine_id=_text("/etc/machine-id"),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        system_uuid=_text("/sys/class/dmi/id/product_uuid") or _text("/etc/machine-id"),
        swap_bytes=memory.get("SwapTotal", 0),
        root_dir=str(config.root_dir),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_name() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"


def _meminfo() -> dict[str, int]:
    found: dict[str, int] = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            found[name] = int(rest.split()[0]) * 1024
    return found


def _own_address() -> str:
    """Return the address that packets to elsewhere leave from; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def micro_time(seconds: float) -> str:
    """Return a time as Leases write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def capacity(facts: MachineFacts, config: KubeletConfig) -> dict[str, str]:
    """Return what the node has."""
    return {
        "cpu": str(facts.cpus),
        "memory": f"{facts.memory_bytes // 1024}Ki",
        "ephemeral-storage": f"{facts.disk_bytes // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "pods": str(config.max_pods),
    }


def allocatable(facts: MachineFacts, config: KubeletConfig) -> dict[str, str]:
    """Return what is left for pods."""
    reserved = config.system_reserved
    cpu = facts.cpus * 1000 - quantity.milli(reserved.get("cpu", "0"))
    memory = facts.memory_bytes - quantity.whole(reserved.get("memory", "0")) - EVICTION_MEMORY_BYTES
    disk = facts.disk_bytes * (1 - EVICTION_DISK_PART) - quantity.whole(reserved.get("ephemeral-storage", "0"))
    return {
        **capacity(facts, config),
        "cpu": str(cpu // 1000) if cpu % 1000 == 0 else f"{cpu}m",
        "memory": f"{max(0, memory) // 1024}Ki",
        "ephemeral-storage": str(max(0, int(disk))),
    }


def node_object(config: KubeletConfig, facts: MachineFacts, status: dict[str, Any]) -> Object:
    """Return the Node that is registered."""
    labels = {
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": facts.architecture,
        **config.node_labels,
    }
    spec: dict[str, Any] = {}
    # A new node is not ready; without the taint, pods could be bound before the first heartbeat says so.
    taints = [*config.register_with_taints, {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    spec["taints"] = taints
    if config.provider_id:
        spec["providerID"] = config.provider_id
    annotations = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    if config.node_ips:
        annotations["alpha.kubernetes.io/provided-node-ip"] = config.node_ips[0]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels, "annotations": annotations},
        "spec": spec,
        "status": status,
    }


def conditions(facts: MachineFacts, config: KubeletConfig, runtime: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the node's conditions as they are now; `runtime` says what keeps it from being ready."""
    available = _meminfo().get("MemAvailable", facts.memory_bytes)
    usage = shutil.disk_usage(facts.root_dir)
    pids_max = int(_text("/proc/sys/kernel/pid_max") or 32768)
    loadavg = _text("/proc/loadavg").split()
    pids = int(loadavg[3].partition("/")[2]) if len(loadavg) > 3 else 0
    del config
    pressures = [
        ("MemoryPressure", available < EVICTION_MEMORY_BYTES, "Memory", "memory available"),
        ("DiskPressure", usage.free < usage.total * EVICTION_DISK_PART, "Disk", "disk space available"),
        ("PIDPressure", pids_max - pids < pids_max * EVICTION_PIDS_PART, "PID", "PID available"),
    ]
    found: list[dict[str, Any]] = []
    for kind, pressed, short, text in pressures:
        status, verb = ("True", "Has") if pressed else ("False", "Has")
        word = "Insufficient" if pressed else ("No" if short == "Disk" else "Sufficient")
        reason = f"Kubelet{verb}{word}{short}" if word != "No" else "KubeletHasNoDiskPressure"
        message = f"kubelet has {'insufficient' if pressed else 'sufficient'} {text}"
        if short == "Disk" and not pressed:
            message = "kubelet has no disk pressure"
        found.append({"type": kind, "status": status, "reason": reason, "message": message})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    if runtime:
        ready |= {"status": "False", "reason": "KubeletNotReady", "message": ", ".join(runtime.values())}
    return [*found, ready]


def node_status(
    facts: MachineFacts,
    config: KubeletConfig,
    addresses: Sequence[str],
    states: list[dict[str, Any]],
    version: RuntimeVersion | None,
    images: Sequence[ImageInfo],
) -> dict[str, Any]:
    """Return the whole status of the Node."""
    runtime = f"{version.name}://{version.version.removeprefix('v')}" if version else ""
    return {
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in addresses),
            {"type": "Hostname", "address": config.node_name},
        ],
        "capacity": capacity(facts, config),
        "allocatable": allocatable(facts, config),
        "conditions": states,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.system_uuid,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": runtime,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": facts.architecture,
        },
        "images": node_images(images),
    }


def node_images(images: Sequence[ImageInfo]) -> list[dict[str, Any]]:
    """Return the largest images as the Node lists them."""
    largest = sorted(images, key=lambda image: (-image.size_bytes, image.id))[:IMAGES_MAX]
    return [
        {"names": [*image.repo_digests, *image.repo_tags][:5], "sizeBytes": image.size_bytes}
        for image in largest
        if image.repo_digests or image.repo_tags
    ]


def without_times(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status without its heartbeats, to see whether anything else has changed."""
    times = ("lastHeartbeatTime", "lastTransitionTime")
    kept = [{key: value for key, value in entry.items() if key not in times} for entry in status.get("conditions", [])]
    return {**status, "conditions": kept}
