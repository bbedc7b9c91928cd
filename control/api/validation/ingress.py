"""Rules of ingresses and of their classes."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_domain_prefixed_path, check_object_reference, metadata_of

_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_CONTROLLER_LETTERS_MAX = 250
_NOT_WITHIN = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_THE_END = ("/..", "/.")


def check_ingress(obj: Object, faults: Faults) -> None:
    """Check an Ingress."""
    spec = obj.get("spec") or {}
    if not spec.get("rules") and spec.get("defaultBackend") is None:
        faults.invalid("spec", spec.get("rules"), "either `defaultBackend` or `rules` must be specified")
    if (backend := spec.get("defaultBackend")) is not None:
        _check_backend(backend, "spec.defaultBackend", faults)
    for index, rule in enumerate(spec.get("rules") or []):
        here = f"spec.rules[{index}]"
        if host := rule.get("host"):
            if ip_forms.parse_address(host) is not None:
                faults.invalid(f"{here}.host", host, "must be a DNS name, not an IP address")
            _check_host(host, f"{here}.host", faults)
        if (http := rule.get("http")) is not None:
            _check_paths(http.get("paths") or [], f"{here}.http.paths", faults)
    for index, entry in enumerate(spec.get("tls") or []):
        here = f"spec.tls[{index}]"
        for position, host in enumerate(entry.get("hosts") or []):
            _check_host(host, f"{here}.hosts[{position}]", faults)
        if name := entry.get("secretName"):
            faults.invalid_all(f"{here}.secretName", name, names.dns_subdomain(name))
    if (name := spec.get("ingressClassName")) is not None:
        faults.invalid_all("spec.ingressClassName", name, names.dns_subdomain(name))


def check_new_ingress(obj: Object, faults: Faults) -> None:
    """Check that a new Ingress names one class, in the field and in the annotation that was used before."""
    named = (obj.get("spec") or {}).get("ingressClassName")
    annotation = (metadata_of(obj).get("annotations") or {}).get(_CLASS_ANNOTATION)
    if annotation is not None and named is not None and annotation != named:
        text = "must match `ingressClassName` when both are specified"
        faults.invalid(f"annotations.{_CLASS_ANNOTATION}", annotation, text)


def _check_host(host: str, path: str, faults: Faults) -> None:
    check = names.wildcard_subdomain if "*" in host else names.dns_subdomain
    faults.invalid_all(path, host, check(host))


def _check_paths(paths: list[dict[str, Any]], path: str, faults: Faults) -> None:
    if not paths:
        faults.required(path)
    for index, entry in enumerate(paths):
        here = f"{path}[{index}]"
        kind, text = entry.get("pathType"), entry.get("path") or ""
        if kind is None:
            faults.required(f"{here}.pathType", "pathType must be specified")
            continue
        if kind in ("Exact", "Prefix"):
            if not text.startswith("/"):
                faults.invalid(f"{here}.path", text, "must be an absolute path")
            faults.invalid_all(
                f"{here}.path", text, [f"must not contain '{part}'" for part in _NOT_WITHIN if part in text]
            )
            faults.invalid_all(
                f"{here}.path", text, [f"cannot end with '{end}'" for end in _NOT_AT_THE_END if text.endswith(end)]
            )
        elif kind == "ImplementationSpecific":
            if text and not text.startswith("/"):
                faults.invalid(f"{here}.path", text, "must be an absolute path")
        else:
            faults.not_supported(f"{here}.pathType", kind, ["Exact", "ImplementationSpecific", "Prefix"])
        _check_backend(entry.get("backend") or {}, f"{here}.backend", faults)


def _check_backend(backend: dict[str, Any], path: str, faults: Faults) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        faults.invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        _check_reference(resource, f"{path}.resource", faults)
    elif service is not None:
        _check_backend_service(service, path, faults)
    else:
        faults.invalid(path, "", "resource or service backend is required")


def _check_backend_service(service: dict[str, Any], path: str, faults: Faults) -> None:
    name, port = service.get("name") or "", service.get("port") or {}
    if not name:
        faults.required(f"{path}.service.name")
    else:
        faults.invalid_all(f"{path}.service.name", name, names.dns_1035_label(name))
    if port.get("name") and port.get("number"):
        faults.invalid(path, "", "cannot set both port name & port number")
    elif port.get("name"):
        faults.invalid_all(f"{path}.service.port.name", port["name"], names.port_name(port["name"]))
    elif port.get("number"):
        faults.invalid_all(f"{path}.service.port.number", port["number"], names.port_number(port["number"]))
    else:
        faults.required(path, "port name or number is required")


def _check_reference(reference: dict[str, Any], path: str, faults: Faults) -> None:
    if (group := reference.get("apiGroup")) is not None:
        faults.invalid_all(f"{path}.apiGroup", group, names.dns_subdomain(group))
    check_object_reference(reference, path, faults)


def check_ingress_class(obj: Object, faults: Faults) -> None:
    """Check an IngressClass."""
    spec = obj.get("spec") or {}
    controller = spec.get("controller") or ""
    if len(controller) > _CONTROLLER_LETTERS_MAX:
        faults.too_long("spec.controller", _CONTROLLER_LETTERS_MAX)
    check_domain_prefixed_path(controller, "spec.controller", faults)
    parameters = spec.get("parameters")
    if parameters is None:
        return
    path = "spec.parameters"
    _check_reference(parameters, path, faults)
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    if scope is None:
        faults.required(f"{path}.scope")
    elif scope == "Namespace":
        if namespace is None:
            faults.required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
        else:
            faults.invalid_all(f"{path}.namespace", namespace, names.dns_label(namespace))
    elif scope != "Cluster":
        faults.not_supported(f"{path}.scope", scope, ["Cluster", "Namespace"])
    elif namespace is not None:
        faults.forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")


def check_ingress_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class keeps its controller."""
    now, was = ((obj.get("spec") or {}).get("controller") for obj in (new, old))
    faults.unchanged("spec.controller", now, was)
