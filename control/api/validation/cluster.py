"""Rules of access, certificates, storage classes, priorities and webhooks."""

from __future__ import annotations

import base64
from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_selector

_RBAC = "rbac.authorization.k8s.io"
_VERB = "verbs must contain at least one value"


def _check_rules(rules: list[dict[str, Any]], namespaced: bool, faults: Faults) -> None:
    for index, rule in enumerate(rules):
        here = f"rules[{index}]"
        if not rule.get("verbs"):
            faults.required(f"{here}.verbs", _VERB)
        if rule.get("nonResourceURLs"):
            if namespaced:
                text = "namespaced rules cannot apply to non-resource URLs"
                faults.invalid(f"{here}.nonResourceURLs", rule["nonResourceURLs"], text)
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                faults.invalid(f"{here}.nonResourceURLs", rule["nonResourceURLs"], text)
            continue
        if not rule.get("apiGroups"):
            faults.required(f"{here}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            faults.required(f"{here}.resources", "resource rules must supply at least one resource")


def check_role(obj: Object, faults: Faults) -> None:
    """Check a Role."""
    _check_rules(obj.get("rules") or [], True, faults)


def check_cluster_role(obj: Object, faults: Faults) -> None:
    """Check a ClusterRole."""
    _check_rules(obj.get("rules") or [], False, faults)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        selectors = aggregation.get("clusterRoleSelectors") or []
        if not selectors:
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            faults.required("aggregationRule.clusterRoleSelectors", text)
        for index, selector in enumerate(selectors):
            check_selector(selector, f"aggregationRule.clusterRoleSelectors[{index}]", faults)


def check_role_binding(obj: Object, faults: Faults) -> None:
    """Check a RoleBinding."""
    _check_binding(obj, ("ClusterRole", "Role"), True, faults)


def check_cluster_role_binding(obj: Object, faults: Faults) -> None:
    """Check a ClusterRoleBinding."""
    _check_binding(obj, ("ClusterRole",), False, faults)


def _check_binding(obj: Object, kinds: tuple[str, ...], namespaced: bool, faults: Faults) -> None:
    role = obj.get("roleRef") or {}
    if role.get("apiGroup") != _RBAC:
        faults.not_supported("roleRef.apiGroup", role.get("apiGroup") or "", [_RBAC])
    if role.get("kind") not in kinds:
        faults.not_supported("roleRef.kind", role.get("kind") or "", kinds)
    if not role.get("name"):
        faults.required("roleRef.name")
    else:
        faults.invalid_all("roleRef.name", role["name"], names.path_segment(role["name"]))
    for index, subject in enumerate(obj.get("subjects") or []):
        _check_subject(subject, f"subjects[{index}]", faults, namespaced=namespaced)


def _check_subject(subject: dict[str, Any], path: str, faults: Faults, *, namespaced: bool) -> None:
    name, kind, group = subject.get("name") or "", subject.get("kind"), subject.get("apiGroup") or ""
    if not name:
        faults.required(f"{path}.name")
    if kind == "ServiceAccount":
        if name:
            faults.invalid_all(f"{path}.name", name, names.dns_subdomain(name))
        if group:
            faults.not_supported(f"{path}.apiGroup", group, [""])
        if not namespaced and not subject.get("namespace"):
            faults.required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        if group != _RBAC:
            faults.not_supported(f"{path}.apiGroup", group, [_RBAC])
    else:
        faults.not_supported(f"{path}.kind", kind or "", ["ServiceAccount", "User", "Group"])


def check_binding_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a binding keeps its role."""
    if new.get("roleRef") != old.get("roleRef"):
        faults.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")


def check_signing_request(obj: Object, faults: Faults) -> None:
    """Check a CertificateSigningRequest; the request itself is read where it is signed."""
    spec = obj.get("spec") or {}
    usages = spec.get("usages") or []
    if not usages:
        faults.required("spec.usages")
    if not spec.get("request"):
        faults.required("spec.request")
    else:
        try:
            begins = base64.b64decode(spec["request"]).lstrip().startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
        except ValueError:
            begins = False
        if not begins:
            faults.invalid("spec.request", spec["request"], "PEM block type must be CERTIFICATE REQUEST")
    for index, usage in enumerate(usages):
        if usage in usages[:index]:
            faults.duplicate(f"spec.usages[{index}]", usage)
    signer = spec.get("signerName") or ""
    if not signer:
        faults.required("spec.signerName")
    elif "/" not in signer or not signer.partition("/")[2]:
        faults.invalid(
            "spec.signerName", signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        )
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        faults.invalid(
            "spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds (10 minutes)"
        )


def check_signing_request_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a request stays what was approved."""
    faults.unchanged("spec", new.get("spec"), old.get("spec"))


def check_storage_class(obj: Object, faults: Faults) -> None:
    """Check a StorageClass."""
    provisioner = obj.get("provisioner") or ""
    if not provisioner:
        faults.required("provisioner")
    else:
        faults.invalid_all("provisioner", provisioner, names.qualified_name(provisioner.lower()))
    policy = obj.get("reclaimPolicy")
    faults.one_of("reclaimPolicy", policy, ["Delete", "Retain"], required=False)
    mode = obj.get("volumeBindingMode")
    if mode is None:
        faults.required("volumeBindingMode")
    else:
        faults.one_of("volumeBindingMode", mode, ["Immediate", "WaitForFirstConsumer"])


def check_storage_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class means what it meant."""
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        faults.forbidden("parameters", "updates to parameters are forbidden.")
    if new.get("provisioner") != old.get("provisioner"):
        faults.forbidden("provisioner", "updates to provisioner are forbidden.")
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        faults.forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    faults.unchanged("volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode"))


def check_priority_class(obj: Object, faults: Faults) -> None:
    """Check a PriorityClass."""
    name = (obj.get("metadata") or {}).get("name") or ""
    value = obj.get("value") or 0
    if name.startswith("system-") and name not in ("system-node-critical", "system-cluster-critical"):
        text = "priority class names with 'system-' prefix are reserved for system use only"
        faults.forbidden("metadata.name", f"{text}. error: name {name} not allowed")
    elif value > 1_000_000_000 and not name.startswith("system-"):
        text = "maximum allowed value of a user defined priority is 1000000000"
        faults.forbidden("value", text)
    policy = obj.get("preemptionPolicy")
    faults.one_of("preemptionPolicy", policy, ["Never", "PreemptLowerPriority"], required=False)


def check_priority_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a class keeps its weight."""
    if (new.get("value") or 0) != (old.get("value") or 0):
        faults.forbidden("value", "may not be changed in an update.")
    faults.unchanged("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))


def check_runtime_class(obj: Object, faults: Faults) -> None:
    """Check a RuntimeClass."""
    handler = obj.get("handler") or ""
    faults.invalid_all("handler", handler, names.dns_label(handler))


def check_runtime_class_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a RuntimeClass keeps its handler."""
    faults.unchanged("handler", new.get("handler"), old.get("handler"))


def check_webhooks(obj: Object, faults: Faults) -> None:
    """Check a webhook configuration of either kind."""
    taken: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or []):
        here = f"webhooks[{index}]"
        name = hook.get("name") or ""
        if len(name.split(".")) < 3 or names.dns_subdomain(name):
            faults.invalid(f"{here}.name", name, "should be a domain with at least three segments separated by dots")
        if name in taken:
            faults.duplicate(f"{here}.name", name)
        taken.add(name)
        if not hook.get("admissionReviewVersions"):
            text = "must specify one of v1, v1beta1"
            faults.required(f"{here}.admissionReviewVersions", text)
        if hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            known = ["None", "NoneOnDryRun"]
            faults.one_of(f"{here}.sideEffects", hook.get("sideEffects"), known)
        seconds = hook.get("timeoutSeconds")
        if seconds is not None and not 1 <= seconds <= 30:
            faults.invalid(f"{here}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
        _check_client(hook.get("clientConfig") or {}, f"{here}.clientConfig", faults)
        for field in ("namespaceSelector", "objectSelector"):
            check_selector(hook.get(field), f"{here}.{field}", faults)
        for position, rule in enumerate(hook.get("rules") or []):
            for field in ("apiGroups", "apiVersions", "resources", "operations"):
                if not rule.get(field):
                    faults.required(f"{here}.rules[{position}].{field}")


def _check_client(config: dict[str, Any], path: str, faults: Faults) -> None:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        faults.required(f"{path}.url" if url is None else path, "exactly one of url or service is required")
    elif url is not None and not url.startswith("https://"):
        faults.invalid(f"{path}.url", url, "'https' is the only allowed URL scheme")


def check_service_cidr(obj: Object, faults: Faults) -> None:
    """Check a ServiceCIDR."""
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not 1 <= len(cidrs) <= 2:
        faults.invalid(
            "spec.cidrs", cidrs, "must be a list of one or two CIDRs" if cidrs else "at least one CIDR required"
        )
    for index, cidr in enumerate(cidrs):
        faults.invalid_all(f"spec.cidrs[{index}]", cidr, names.cidr(cidr))


def check_ip_address(obj: Object, faults: Faults) -> None:
    """Check an IPAddress."""
    parent = (obj.get("spec") or {}).get("parentRef")
    if parent is None:
        faults.required("spec.parentRef")
        return
    for field in ("resource", "name"):
        if not parent.get(field):
            faults.required(f"spec.parentRef.{field}")


def check_ip_address_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an address keeps its holder."""
    now, was = ((obj.get("spec") or {}).get("parentRef") for obj in (new, old))
    faults.unchanged("spec.parentRef", now, was)
