"""Where a stream goes on: which node, which container, which path of the kubelet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from control.api.meta import Object, name, namespace
from control.api.status import ApiError, bad_request, internal_error
from control.apiserver.request import flag

KUBELET_PORT = 10250
Query = Mapping[str, tuple[str, ...]]
_LOG_SWITCHES = ("follow", "previous", "timestamps")
_LOG_OPTIONS = ("sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream")
_COMPLETED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def node_address(node: Object, preferred: Sequence[str]) -> Address:
    """The kubelet's address: the node's first one of the most preferred type."""
    status = node.get("status") or {}
    found = {entry["type"]: entry["address"] for entry in reversed(status.get("addresses") or ())}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or KUBELET_PORT
    for kind in preferred:
        if found.get(kind):
            return Address(found[kind], int(port))
    raise internal_error(f"no preferred addresses found; known addresses: {status.get('addresses') or []}")


def choose_container(pod: Object, wanted: str) -> str:
    """The container that a request means; upstream's texts where it is not clear."""
    spec = pod.get("spec") or {}
    containers = _names(spec.get("containers"))
    inits, debuggers = _names(spec.get("initContainers")), _names(spec.get("ephemeralContainers"))
    if wanted:
        if wanted not in (*containers, *inits, *debuggers):
            raise bad_request(f"container {wanted} is not valid for pod {name(pod)}")
        return wanted
    if len(containers) == 1:
        return containers[0]
    text = f"a container name must be specified for pod {name(pod)}"
    if containers:
        text += f", choose one of: [{' '.join(containers)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    if debuggers:
        text += f" or one of the ephemeral containers: [{' '.join(debuggers)}]"
    raise bad_request(text)


def log_path(pod: Object, query: Query) -> str:
    """The kubelet's path for a container's log."""
    container = choose_container(pod, first(query, "container"))
    options = [(switch, "true") for switch in _LOG_SWITCHES if flag(query.get(switch, ()))]
    options += [(option, first(query, option)) for option in _LOG_OPTIONS if first(query, option)]
    return _path("containerLogs", namespace(pod), name(pod), container, options)


def exec_path(pod: Object, query: Query, what: str) -> str:
    """The kubelet's path for exec or attach."""
    container = choose_container(pod, first(query, "container"))
    options = [("command", part) for part in query.get("command", ())] if what == "exec" else []
    wanted = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
    options += [(theirs, "1") for ours, theirs in wanted.items() if flag(query.get(ours, ()))]
    return _path(what, namespace(pod), name(pod), container, options)


def port_forward_path(pod: Object, query: Query) -> str:
    """The kubelet's path for a port forward."""
    options = [("port", port) for value in query.get("ports", ()) for port in value.split(",")]
    return _path("portForward", namespace(pod), name(pod), "", options)


def refuse_completed(pod: Object, what: str) -> None:
    """Refuse to enter a pod that has ended."""
    phase = (pod.get("status") or {}).get("phase")
    if phase in _COMPLETED:
        raise bad_request(f"cannot {what} a container in a completed pod; current phase is {phase}")


def host_of(pod: Object) -> str:
    """The node that runs the pod, empty where it has none yet."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def no_host(pod: Object) -> ApiError:
    """Upstream's text for a pod that runs nowhere yet."""
    return bad_request(f"pod {name(pod)} does not have a host assigned")


def first(query: Query, key: str) -> str:
    """The first value of a query parameter."""
    return (query.get(key) or ("",))[0]


def _names(containers: Iterable[Mapping[str, Any]] | None) -> list[str]:
    return [str(container.get("name", "")) for container in containers or ()]


def _path(what: str, space: str, pod: str, container: str, options: Sequence[tuple[str, str]]) -> str:
    parts = [what, space, pod, *([container] if container else [])]
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(options)}" if options else path
