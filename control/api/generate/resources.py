"""Make the table of served resources: lightkube's plurals, verbs and subresources, with the words it lacks."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

_VERBS = {"post": "create", "put": "update"}
_LONG_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_SHORT_NAMES = {
    "componentstatuses": "cs",
    "configmaps": "cm",
    "endpoints": "ep",
    "events": "ev",
    "limitranges": "limits",
    "namespaces": "ns",
    "nodes": "no",
    "persistentvolumeclaims": "pvc",
    "persistentvolumes": "pv",
    "pods": "po",
    "replicationcontrollers": "rc",
    "resourcequotas": "quota",
    "serviceaccounts": "sa",
    "services": "svc",
    "daemonsets": "ds",
    "deployments": "deploy",
    "replicasets": "rs",
    "statefulsets": "sts",
    "cronjobs": "cj",
    "horizontalpodautoscalers": "hpa",
    "certificatesigningrequests": "csr",
    "ingresses": "ing",
    "networkpolicies": "netpol",
    "ipaddresses": "ip",
    "poddisruptionbudgets": "pdb",
    "priorityclasses": "pc",
    "storageclasses": "sc",
    "volumeattributesclasses": "vac",
    "customresourcedefinitions": "crd,crds",
}
_CATEGORIES = {
    **{
        plural: ["all"]
        for plural in (
            "pods",
            "services",
            "replicationcontrollers",
            "deployments",
            "replicasets",
            "statefulsets",
            "daemonsets",
            "jobs",
            "cronjobs",
            "horizontalpodautoscalers",
        )
    },
    "customresourcedefinitions": ["api-extensions"],
    "apiservices": ["api-extensions"],
    **{
        plural: ["api-extensions"]
        for plural in (
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
        )
    },
}
_CONNECT = {
    "pods": {
        "attach": ("PodAttachOptions", ["create", "get"]),
        "exec": ("PodExecOptions", ["create", "get"]),
        "portforward": ("PodPortForwardOptions", ["create", "get"]),
        "proxy": ("PodProxyOptions", ["create", "delete", "get", "patch", "update"]),
    },
    "services": {"proxy": ("ServiceProxyOptions", ["create", "delete", "get", "patch", "update"])},
    "nodes": {"proxy": ("NodeProxyOptions", ["create", "delete", "get", "patch", "update"])},
}
_DEFINITION_PACKAGES = {
    "": "core",
    "rbac.authorization.k8s.io": "rbac",
    "flowcontrol.apiserver.k8s.io": "flowcontrol",
}


def build() -> list[dict[str, Any]]:
    """Return a row for each resource of the stable API versions, sorted by group, version and plural."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    subresources: list[tuple[tuple[str, str, str], dict[str, Any]]] = []
    for info in _api_infos():
        owner = info.parent or info.resource
        if any(word in owner.version for word in ("alpha", "beta")):
            continue
        key = (owner.group, owner.version, info.plural)
        if info.action:
            subresources.append((key, _subresource(info)))
        elif info.parent is None:
            rows[key] = _row(info)
    for key, subresource in subresources:
        rows[key]["subresources"].append(subresource)
    for row in rows.values():
        if not row["group"]:
            for name, (kind, verbs) in _CONNECT.get(row["plural"], {}).items():
                row["subresources"].append({"name": name, "group": "", "version": "v1", "kind": kind, "verbs": verbs})
        row["subresources"].sort(key=lambda subresource: str(subresource["name"]))
    return [rows[key] for key in sorted(rows)]


def _api_infos() -> list[Any]:
    package = importlib.import_module("lightkube.resources")
    infos = []
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"lightkube.resources.{module.name}")
        for candidate in vars(loaded).values():
            if isinstance(candidate, type) and (info := getattr(candidate, "_api_info", None)) is not None:
                infos.append((candidate, info))
    return [_with_scope(candidate, info) for candidate, info in infos]


def _with_scope(candidate: type, info: Any) -> Any:
    bases = {base.__name__ for base in candidate.__mro__}
    info.namespaced = any(name.startswith("Namespaced") for name in bases)
    return info


def _verbs(info: Any) -> list[str]:
    named = {_VERBS.get(verb, verb) for verb in info.verbs}
    return [verb for verb in _LONG_VERBS if verb in named]


def _row(info: Any) -> dict[str, Any]:
    group, version, kind = info.resource.group, info.resource.version, info.resource.kind
    package = _DEFINITION_PACKAGES.get(group, group.split(".", maxsplit=1)[0])
    verbs = _verbs(info)
    if kind == "Namespace":
        verbs.remove("deletecollection") if "deletecollection" in verbs else None
    return {
        "group": group,
        "version": version,
        "plural": info.plural,
        "singular": kind.lower(),
        "kind": kind,
        "namespaced": info.namespaced,
        "verbs": verbs,
        "shortNames": [name for name in _SHORT_NAMES.get(info.plural, "").split(",") if name],
        "categories": _CATEGORIES.get(info.plural, []),
        "definition": f"{package}.{version}.{kind}",
        "subresources": [],
    }


def _subresource(info: Any) -> dict[str, Any]:
    return {
        "name": info.action,
        "group": info.resource.group,
        "version": info.resource.version,
        "kind": info.resource.kind,
        "verbs": _verbs(info),
    }
