"""Forms of values that several kinds share: names with a domain, drivers, signers, classes, addresses of webhooks."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults

_DRIVER_NAME_MAX = 63
_SUBDOMAIN_MAX = 253
_SIGNER_NAME_MAX = 571
_URL_FORM = "; desired format: https://host[/path]"
_SIGNER_FORM = "must be a fully qualified domain and path of the form 'example.com/signer-name'"


def check_domain_prefixed_path(text: str, path: str, faults: Faults) -> None:
    """Check a text as ``acme.io/foo``: a job's manager, an ingress class's controller."""
    if not text:
        faults.required(path)
        return
    host, _, rest = text.partition("/")
    if not host or not rest:
        faults.invalid(path, text, 'must be a domain-prefixed path (such as "acme.io/foo")')
        return
    faults.invalid_all(path, host, names.dns_subdomain(host))
    faults.invalid_all(path, rest, names.path_form(rest))


def check_fully_qualified_name(text: str, path: str, faults: Faults) -> None:
    """Check a domain of three labels or more: a webhook's name."""
    if not text:
        faults.required(path)
        return
    if found := names.dns_subdomain(text):
        faults.invalid(path, text, ",".join(found))
    elif len(text.split(".")) < 3:
        faults.invalid(path, text, "should be a domain with at least three segments separated by dots")


def check_fully_qualified_domain(text: str, path: str, faults: Faults) -> None:
    """Check a domain of two labels or more: an endpoint that is named."""
    text = text.removesuffix(".")
    if not text:
        faults.required(path)
        return
    if found := names.dns_subdomain(text):
        faults.invalid(path, text, ",".join(found))
        return
    labels = text.split(".")
    if len(labels) < 2:
        faults.invalid(path, text, "should be a domain with at least two segments separated by dots")
    for label in labels:
        if found := names.dns_label(label):
            faults.invalid(path, label, ",".join(found))


def check_driver_name(text: str, path: str, faults: Faults) -> None:
    """Check the name of a CSI driver or of a device driver."""
    if not text:
        faults.required(path)
    if len(text) > _DRIVER_NAME_MAX:
        faults.too_long(path, _DRIVER_NAME_MAX)
    faults.invalid_all(path, text, names.dns_subdomain(text.lower()))


def check_signer_name(text: str, path: str, faults: Faults) -> None:
    """Check the name of a signer of certificates."""
    if not text:
        faults.required(path)
        return
    segments = text.split("/")
    if len(segments) != 2:
        faults.invalid(path, text, _SIGNER_FORM)
        return
    domain, rest = segments
    if len(domain) > _SUBDOMAIN_MAX:
        faults.too_long(path, _SUBDOMAIN_MAX)
    labels = domain.split(".")
    _check_first_wrong(domain, [(label, names.dns_label(label)) for label in labels], path, faults)
    if len(labels) < 2:
        faults.invalid(path, domain, "should be a domain with at least two segments separated by dots")
    _check_first_wrong(rest, [(label, names.dns_subdomain(label)) for label in rest.split(".")], path, faults)
    if len(text) > _SIGNER_NAME_MAX:
        faults.too_long(path, _SIGNER_NAME_MAX)


def _check_first_wrong(text: str, labels: list[tuple[str, list[str]]], path: str, faults: Faults) -> None:
    """Tell of the first label with faults alone: those after it would be told in the same words."""
    for label, found in labels:
        if found:
            faults.invalid_all(path, text, [f'validating label "{label}": {fault}' for fault in found])
            return


def check_webhook_url(text: str, path: str, faults: Faults) -> None:
    """Check the URL at which a webhook is called."""
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError as error:
        faults.required(path, f"url must be a valid URL: {error}{_URL_FORM}")
        return
    if parts.scheme != "https":
        faults.invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{_URL_FORM}")
    if not host:
        faults.invalid(path, "", f"host must be specified{_URL_FORM}")
    if "@" in parts.netloc:
        faults.invalid(path, parts.netloc.rpartition("@")[0], "user information is not permitted in the URL")
    if parts.fragment:
        faults.invalid(path, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        faults.invalid(path, parts.query, "query parameters are not permitted in the URL")


def check_webhook_service(service: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the service at which a webhook is called."""
    # Kubernetes takes the one for the other, and tells of it under the other's path.
    for field, told in (("namespace", "name"), ("name", "namespace")):
        if not service.get(field):
            faults.required(f"{path}.{told}")
    port = service.get("port", 443)
    if found := names.port_number(port):
        faults.invalid(f"{path}.port", port, f"port is not valid: {', '.join(found)}")
    _check_webhook_path(service.get("path"), f"{path}.path", faults)


def _check_webhook_path(text: str | None, path: str, faults: Faults) -> None:
    if text in (None, "", "/"):
        return
    assert text is not None
    if text == "//":
        faults.invalid(path, text, "segment[0] may not be empty")
        return
    if not text.startswith("/"):
        faults.invalid(path, text, "must start with a '/'")
    for index, step in enumerate(text[1:].removesuffix("/").split("/")):
        if not step:
            faults.invalid(path, text, f"segment[{index}] may not be empty")
            continue
        faults.invalid_all(path, text, [f"segment[{index}]: {fault}" for fault in names.dns_subdomain(step)])


def check_webhook_client(config: dict[str, Any], path: str, faults: Faults) -> None:
    """Check how a webhook is reached: by URL, or by a service."""
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        faults.required(path, "exactly one of url or service is required")
    elif url is not None:
        check_webhook_url(url, f"{path}.url", faults)
    elif service is not None:
        check_webhook_service(service, f"{path}.service", faults)


def check_object_reference(
    reference: dict[str, Any], path: str, faults: Faults, fields: tuple[str, ...] = ("kind", "name")
) -> None:
    """Check the parts of a reference that must be there and fit into a path."""
    for field in fields:
        text = reference.get(field) or ""
        if not text:
            faults.required(f"{path}.{field}")
        else:
            faults.invalid_all(f"{path}.{field}", text, names.path_segment(text))


def check_conditions(conditions: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check conditions of the common form (`meta/v1.Condition`)."""
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        here, kind = f"{path}[{index}]", condition.get("type") or ""
        if kind in seen:
            faults.duplicate(f"{here}.type", kind)
        seen.add(kind)
        faults.invalid_all(f"{here}.type", kind, names.qualified_name(kind)) if kind else faults.required(
            f"{here}.type"
        )
        if condition.get("status") not in ("True", "False", "Unknown"):
            faults.not_supported(f"{here}.status", condition.get("status") or "", ["False", "True", "Unknown"])
        faults.not_negative(f"{here}.observedGeneration", condition.get("observedGeneration"))
        if not condition.get("lastTransitionTime"):
            faults.required(f"{here}.lastTransitionTime")
        if not condition.get("reason"):
            faults.required(f"{here}.reason")
        elif len(condition["reason"]) > 1024:
            faults.too_long(f"{here}.reason", 1024)
        if len(condition.get("message") or "") > 32768:
            faults.too_long(f"{here}.message", 32768)


def is_dual_stack(addresses: list[str]) -> bool:
    """Tell whether these addresses or ranges are of both families, one of each."""
    families = [":" in address for address in addresses]
    return len(families) == 2 and families[0] is not families[1]


def metadata_of(obj: Object) -> dict[str, Any]:
    """Return the metadata of an object or of a template, empty where there is none."""
    return obj.get("metadata") or {}
