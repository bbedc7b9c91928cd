r"""The CNI specification's requests, results and errors, versions 0.3.1 to 1.1.0: pure.

A runtime execs the plugin with CNI_* in its environment and the configuration on stdin; the shim
passes both on as `NAME=VALUE\0 … \0 configuration`. The answer is one byte, the exit code's digit,
and the JSON for stdout.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
OLDEST_WITH_CHECK = "0.4.0"
CONFIGURATION_BYTES_MAX = 1 << 20
CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}\Z")

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
WIRING_FAILED = 100
CHECK_FAILED = 101


class CniError(Exception):
    """An answer other than success, with the specification's code."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.code, self.message, self.details = code, message, details
        super().__init__(message)

    def to_object(self, version: str) -> dict[str, Any]:
        """Return the error as the runtime wants it."""
        told = {"cniVersion": version, "code": self.code, "msg": self.message}
        return {**told, "details": self.details} if self.details else told


@dataclass(frozen=True, slots=True)
class Request:
    """Hold one call of the plugin."""

    command: str
    container_id: str = ""
    namespace_path: str = ""
    interface: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of the specification in which the answer must be."""
        return str(self.configuration.get("cniVersion") or "0.1.0")

    @property
    def plugin(self) -> str:
        """The plugin's name in the configuration: ours, or "loopback"."""
        return str(self.configuration.get("type") or "")

    @property
    def pod(self) -> str:
        """namespace/name of the pod; empty where the runtime does not say."""
        name = self.arguments.get("K8S_POD_NAME", "")
        return f"{self.arguments.get('K8S_POD_NAMESPACE', '')}/{name}" if name else ""

    @property
    def pod_uid(self) -> str:
        """The pod's uid; empty where the runtime does not say."""
        return self.arguments.get("K8S_POD_UID", "")


def parse_request(data: bytes) -> Request:
    """Read what a shim sent; CniError where the runtime is at fault."""
    head, separator, payload = data.partition(b"\0\0")
    if not separator:
        raise CniError(DECODING_FAILURE, "the request is cut short")
    environment: dict[str, str] = {}
    for entry in head.split(b"\0"):
        name, _, value = entry.partition(b"=")
        environment[name.decode(errors="replace")] = value.decode(errors="replace")
    command = environment.get("CNI_COMMAND", "")
    try:
        configuration = json.loads(payload) if payload.strip() else {}
    except ValueError as error:
        raise CniError(DECODING_FAILURE, "the configuration is not JSON", str(error)) from None
    if not isinstance(configuration, dict):
        raise CniError(DECODING_FAILURE, "the configuration is not a JSON object")
    arguments = {
        name: value for name, _, value in (pair.partition("=") for pair in environment.get("CNI_ARGS", "").split(";"))
    }
    request = Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        namespace_path=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        arguments=arguments,
        configuration=configuration,
    )
    _validate(request)
    return request


def _validate(request: Request) -> None:
    if request.command not in ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"):
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {request.command!r}")
    if request.command == "VERSION":
        return
    if request.version not in SUPPORTED_VERSIONS:
        known = ", ".join(SUPPORTED_VERSIONS)
        raise CniError(INCOMPATIBLE_VERSION, f"incompatible CNI versions: config is {request.version}, known: {known}")
    if request.command in ("GC", "STATUS"):
        return
    if not CONTAINER_ID.match(request.container_id):
        raise CniError(INVALID_ENVIRONMENT, f"invalid CNI_CONTAINERID: {request.container_id!r}")
    if not INTERFACE_NAME.match(request.interface) or request.interface in (".", ".."):
        raise CniError(INVALID_ENVIRONMENT, f"invalid CNI_IFNAME: {request.interface!r}")
    if request.command in ("ADD", "CHECK") and not request.namespace_path:
        raise CniError(INVALID_ENVIRONMENT, "CNI_NETNS is missing")


@dataclass(frozen=True, slots=True)
class Wired:
    """Hold the facts of a wired interface that a result tells."""

    address: str
    gateway: str
    host_interface: str
    host_mac: str
    interface: str
    mac: str
    mtu: int
    namespace_path: str


def result(version: str, wired: Wired, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return ADD's result; a previous plugin's result is kept and added to."""
    base = previous or {}
    interfaces = list(base.get("interfaces") or ())
    ips = list(base.get("ips") or ())
    routes = list(base.get("routes") or ())
    host: dict[str, Any] = {"name": wired.host_interface, "mac": wired.host_mac}
    inside: dict[str, Any] = {"name": wired.interface, "mac": wired.mac, "sandbox": wired.namespace_path}
    if version == "1.1.0":
        host["mtu"] = inside["mtu"] = wired.mtu
    address: dict[str, Any] = {
        "interface": len(interfaces) + 1,
        "address": f"{wired.address}/{'128' if ':' in wired.address else '32'}",
        "gateway": wired.gateway,
    }
    if version.startswith("0."):
        address["version"] = "6" if ":" in wired.address else "4"
    default = "::/0" if ":" in wired.address else "0.0.0.0/0"
    return {
        **base,
        "cniVersion": version,
        "interfaces": [*interfaces, host, inside],
        "ips": [*ips, address],
        "routes": [*routes, {"dst": default, "gw": wired.gateway}],
        "dns": base.get("dns") or {},
    }


def loopback_result(version: str, namespace_path: str) -> dict[str, Any]:
    """Return the result of the loopback plugin."""
    address: dict[str, Any] = {"interface": 0, "address": "127.0.0.1/8"}
    if version.startswith("0."):
        address["version"] = "4"
    lo = {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": namespace_path}
    return {"cniVersion": version, "interfaces": [lo], "ips": [address], "routes": [], "dns": {}}


def version_result() -> dict[str, Any]:
    """Return VERSION's result."""
    return {"cniVersion": SUPPORTED_VERSIONS[-1], "supportedVersions": list(SUPPORTED_VERSIONS)}


def answer(told: dict[str, Any] | None, exit_code: int) -> bytes:
    """Return the bytes that go back to the shim; None is success without output."""
    body = b"" if told is None else json.dumps(told, separators=(",", ":")).encode()
    return str(exit_code).encode() + body


def configuration_list(version: str, plugin: str, network: str) -> dict[str, Any]:
    """Return the network configuration that a runtime loads."""
    return {
        "cniVersion": version,
        "name": network,
        "plugins": [{"type": plugin, "capabilities": {"portMappings": True}}],
    }
