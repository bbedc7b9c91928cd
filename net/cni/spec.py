r"""The CNI specification's requests and errors, versions 0.3.1 to 1.1.0: pure.

A runtime execs the plugin with CNI_* in its environment and the configuration on stdin; the shim
passes both on as `NAME=VALUE\0 … \0 configuration`. The answer is one byte, the exit code's digit,
and the JSON for stdout, which `results` makes. Codes and texts are those of the specification's own library.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""In rising order."""
OLDEST_VERSION = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Since when the specification has a command; the others have always been there."""
NEEDED_VARIABLES = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The specification's name for what GC must keep, and the one that its first text had."""
CONFIGURATION_BYTES_MAX = 1 << 20
CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
INTERFACE_NAME_BYTES_MAX = 15
INTERFACE_NAME = re.compile(r"[^\s/:]+\Z")

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
INVALID_NAMESPACE = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
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
    if command not in NEEDED_VARIABLES:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [name for name in NEEDED_VARIABLES[command] if not environment.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    request = Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        namespace_path=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        arguments=_arguments(environment.get("CNI_ARGS", "")),
        configuration=_configuration(payload),
    )
    _validate_version(request)
    if command != "VERSION":
        _validate_names(request)
    return request


def _arguments(text: str) -> dict[str, str]:
    """Read CNI_ARGS ("A=1;B=2"); a word without "=" is an error of the runtime's."""
    found = {}
    for pair in filter(None, text.split(";")):
        name, separator, value = pair.partition("=")
        if not separator:
            raise CniError(INVALID_ENVIRONMENT, f"ARGS: invalid pair {pair!r}")
        found[name] = value
    return found


def _configuration(payload: bytes) -> dict[str, Any]:
    try:
        configuration = json.loads(payload) if payload.strip() else {}
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, "error unmarshall network config", str(error)) from None
    if not isinstance(configuration, dict):
        raise CniError(DECODING_FAILURE, "error unmarshall network config", "it is not a JSON object")
    for name, kind in (
        ("cniVersion", str),
        ("name", str),
        ("type", str),
        ("runtimeConfig", dict),
        ("prevResult", dict),
    ):
        if not isinstance(configuration.get(name) or kind(), kind):
            raise CniError(DECODING_FAILURE, "error unmarshall network config", f"{name} must be a JSON {_JSON[kind]}")
    for name in ("interfaces", "ips", "routes"):
        if not isinstance((configuration.get("prevResult") or {}).get(name) or [], list):
            raise CniError(
                DECODING_FAILURE, "error unmarshall network config", f"prevResult.{name} must be a JSON array"
            )
    return configuration


_JSON = {str: "string", dict: "object"}


def _validate_version(request: Request) -> None:
    version = request.version
    if request.command == "VERSION" or version in SUPPORTED_VERSIONS:
        oldest = OLDEST_VERSION.get(request.command, SUPPORTED_VERSIONS[0])
        if request.command != "VERSION" and SUPPORTED_VERSIONS.index(version) < SUPPORTED_VERSIONS.index(oldest):
            raise CniError(INCOMPATIBLE_VERSION, f"config version does not allow {request.command}")
        return
    known = " ".join(f'"{name}"' for name in SUPPORTED_VERSIONS)
    raise CniError(
        INCOMPATIBLE_VERSION, "incompatible CNI versions", f'config is "{version}", plugin supports [{known}]'
    )


def _validate_names(request: Request) -> None:
    network = str(request.configuration.get("name") or "")
    if not network:
        raise CniError(INVALID_CONFIGURATION, "missing network name:")
    if not CONTAINER_ID.match(network):
        raise CniError(INVALID_CONFIGURATION, "invalid characters found in network name", network)
    if request.command in ("GC", "STATUS"):
        return
    if not CONTAINER_ID.match(request.container_id):
        raise CniError(INVALID_ENVIRONMENT, "invalid characters in containerID", request.container_id)
    interface = request.interface
    if len(interface.encode()) > INTERFACE_NAME_BYTES_MAX:
        told = f"interface name should be less than {INTERFACE_NAME_BYTES_MAX + 1} characters"
        raise CniError(INVALID_ENVIRONMENT, "interface name is too long", told)
    if interface in (".", ".."):
        raise CniError(INVALID_ENVIRONMENT, "interface name is . or ..")
    if not INTERFACE_NAME.match(interface):
        raise CniError(INVALID_ENVIRONMENT, "interface name contains / or : or whitespace characters")


def asked(request: Request, capability: str) -> Any:
    """Return what the runtime asks of a capability, its keys in lower case.

    containerd writes HostPort where the convention says hostPort; plugins in Go read either.
    """
    return _folded((request.configuration.get("runtimeConfig") or {}).get(capability))


def _folded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name).lower(): entry for name, entry in value.items()}
    return [_folded(entry) for entry in value] if isinstance(value, list) else value


def valid_attachments(request: Request) -> set[tuple[str, str]]:
    """Return the (container id, interface) pairs that GC must keep; CniError where the runtime names none at all."""
    listed = [request.configuration[name] for name in VALID_ATTACHMENTS if name in request.configuration]
    if not listed:
        # A missing list is no empty one: to take it so would drop every pod of the node.
        raise CniError(INVALID_CONFIGURATION, f"GC needs {VALID_ATTACHMENTS[0]}, the list of what must stay")
    try:
        return {(str(entry["containerID"]), str(entry["ifname"])) for entry in listed[0] or ()}
    except (TypeError, KeyError) as error:
        told = "each entry needs containerID and ifname"
        raise CniError(INVALID_CONFIGURATION, f"{VALID_ATTACHMENTS[0]} makes no sense", told) from error
