"""PURE: a container's environment variables, command and arguments, references resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any

from control.api import meta, quantity
from control.api.meta import Object
from node import pod_spec
from node.pod_spec import ContainerSpec

Lookup = Callable[[str], Object | None]
"""Returns a ConfigMap or Secret of the pod's namespace by name, None where there is none."""

REFERENCE = re.compile(r"\$\$|\$\(([^()$]*)\)")
NAME = re.compile(r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")


class ConfigError(Exception):
    """The container cannot be configured: something that it refers to is missing (CreateContainerConfigError)."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value; unknown names stay as they are and $$ is one $."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return values.get(found[1], found[0])

    return REFERENCE.sub(replaced, text)


def environment(
    pod: Object,
    wanted: ContainerSpec,
    *,
    config_map: Lookup,
    secret: Lookup,
    services: Mapping[str, str],
    runtime_fields: Mapping[str, str],
    node_allocatable: Mapping[str, str],
) -> dict[str, str]:
    """Return all variables of a container; later ones win, and see the earlier ones."""
    values: dict[str, str] = {}
    for source in wanted.spec.get("envFrom") or ():
        values.update(_env_from(source, config_map, secret))
    told: dict[str, str] = {}
    for entry in wanted.spec.get("env") or ():
        name = entry["name"]
        if entry.get("valueFrom"):
            found = _value_from(pod, wanted, entry["valueFrom"], config_map, secret, runtime_fields, node_allocatable)
            if found is None:
                continue
            told[name] = found
        else:
            told[name] = expand(str(entry.get("value") or ""), {**services, **values, **told})
    return {**services, **values, **told}


def _env_from(source: Mapping[str, Any], config_map: Lookup, secret: Lookup) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    if source.get("configMapRef"):
        data = _object(source["configMapRef"], config_map, "configmap")
        found = dict((data or {}).get("data") or {})
    elif source.get("secretRef"):
        data = _object(source["secretRef"], secret, "secret")
        found = {key: value.decode(errors="surrogateescape") for key, value in secret_data(data or {}).items()}
    else:
        return {}
    return {prefix + key: value for key, value in sorted(found.items()) if NAME.match(prefix + key)}


def secret_data(secret: Object) -> dict[str, bytes]:
    """Return a Secret's data decoded."""
    import base64

    return {key: base64.b64decode(value or "") for key, value in (secret.get("data") or {}).items()}


def _object(reference: Mapping[str, Any], lookup: Lookup, kind: str) -> Object | None:
    name = reference.get("name", "")
    found = lookup(name)
    if found is None and not reference.get("optional"):
        raise ConfigError(f'{kind} "{name}" not found')
    return found


def _value_from(
    pod: Object,
    wanted: ContainerSpec,
    source: Mapping[str, Any],
    config_map: Lookup,
    secret: Lookup,
    runtime_fields: Mapping[str, str],
    node_allocatable: Mapping[str, str],
) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, reference["fieldPath"], runtime_fields)
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, wanted, reference, node_allocatable)
    where = f"{meta.namespace(pod)}/"
    if reference := source.get("configMapKeyRef"):
        found = _object(reference, config_map, "configmap")
        value = ((found or {}).get("data") or {}).get(reference["key"])
        if value is None and not reference.get("optional"):
            raise ConfigError(f"couldn't find key {reference['key']} in ConfigMap {where}{reference['name']}")
        return None if value is None else str(value)
    if reference := source.get("secretKeyRef"):
        found = _object(reference, secret, "secret")
        data = secret_data(found or {}).get(reference["key"])
        if data is None and not reference.get("optional"):
            raise ConfigError(f"couldn't find key {reference['key']} in Secret {where}{reference['name']}")
        return None if data is None else data.decode(errors="surrogateescape")
    raise ConfigError("environment variable has a valueFrom of an unknown kind")


def field_value(pod: Object, path: str, runtime_fields: Mapping[str, str]) -> str:
    """Return what the downward API shows under a field path; `runtime_fields` are those that the node knows."""
    if path in runtime_fields:
        return runtime_fields[path]
    metadata, spec = pod["metadata"], pod["spec"]
    plain = {
        "metadata.name": metadata.get("name"),
        "metadata.namespace": metadata.get("namespace"),
        "metadata.uid": metadata.get("uid"),
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
    }
    if path in plain:
        return str(plain[path] or "")
    found = re.match(r"^metadata\.(annotations|labels)(?:\['([^']+)'\])?$", path)
    if found is None:
        raise ConfigError(f"unsupported fieldPath: {path}")
    values: Mapping[str, str] = metadata.get(found[1]) or {}
    if found[2]:
        return values.get(found[2], "")
    return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(values.items()))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(
    pod: Object, wanted: ContainerSpec, reference: Mapping[str, Any], node_allocatable: Mapping[str, str]
) -> str:
    """Return a request or limit divided by its divisor, rounded up; a missing limit is the node's size."""
    if reference.get("containerName"):
        named = pod_spec.container(pod, reference["containerName"])
        if named is None:
            raise ConfigError(f"container {reference['containerName']} not found")
        wanted = named
    group, _, resource = str(reference["resource"]).partition(".")
    values = pod_spec.limits(wanted) if group == "limits" else pod_spec.requests(wanted)
    text = values.get(resource) or (node_allocatable.get(resource) if group == "limits" else None) or "0"
    divisor = quantity.parse(reference.get("divisor") or "1") or 1
    return str(ceil(quantity.parse(text) / divisor))


def command_line(wanted: ContainerSpec, values: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return command and arguments with references expanded."""
    command = tuple(expand(part, values) for part in wanted.spec.get("command") or ())
    args = tuple(expand(part, values) for part in wanted.spec.get("args") or ())
    return command, args


def service_variables(services: Iterable[Object], namespace: str, *, links: bool) -> dict[str, str]:
    """Return the variables of services: the API server's always, those of the pod's namespace by enableServiceLinks."""
    values: dict[str, str] = {}
    for service in services:
        name, space = meta.name(service), meta.namespace(service)
        is_api = space == "default" and name == "kubernetes"
        address = service.get("spec", {}).get("clusterIP")
        if not address or address == "None" or not (is_api or (links and space == namespace)):
            continue
        values.update(_one_service(name, address, service["spec"].get("ports") or ()))
    return values


def _one_service(name: str, address: str, ports: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    values: dict[str, str] = {}
    for index, port in enumerate(ports):
        number, protocol = str(port["port"]), str(port.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{host}:{number}"
        if index == 0:
            values |= {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": number, f"{prefix}_PORT": url}
        if port.get("name"):
            values[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = number
        base = f"{prefix}_PORT_{number}_{protocol.upper()}"
        values |= {base: url, f"{base}_PROTO": protocol.lower(), f"{base}_PORT": number, f"{base}_ADDR": address}
    return values
