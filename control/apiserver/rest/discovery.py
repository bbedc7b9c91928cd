"""Discovery: what is served, told in the plain and in the aggregated forms."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from control.api.resources import Resource
from control.api.versionorder import preference
from control.apiserver.aggregation.documents import Published
from control.apiserver.aggregation.registration import Priority, priority_of
from control.apiserver.kinds import Kind, Kinds

GIT_VERSION = "v1.36.0"


def version_info() -> dict[str, str]:
    """Return what /version answers."""
    _, minor, _ = GIT_VERSION.removeprefix("v").split(".")
    return {
        "major": "1",
        "minor": minor,
        "emulationMajor": "1",
        "emulationMinor": minor,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": minor,
        "gitVersion": f"{GIT_VERSION}+raftsman",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


class Discovery:
    """The documents, made when they are asked for and kept until the kinds change."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._generation = 0
        self._published: Mapping[tuple[str, str], Published] = {}
        self._documents: dict[tuple[str, str], bytes] = {}
        self._versions: dict[str, list[str]] = {}

    def publish(self, published: Mapping[tuple[str, str], Published]) -> None:
        """Tell of these group versions that other servers answer for, in place of those before."""
        self._published = published
        self._generation = -1

    def _renew(self) -> None:
        if self._generation == self._kinds.generation:
            return
        self._generation = self._kinds.generation
        self._documents = {}
        found: dict[str, dict[str, Priority]] = {}
        for group, version in self._kinds.group_versions():
            found.setdefault(group, {})[version] = priority_of(group, version)
        for (group, version), other in self._published.items():
            found.setdefault(group, {})[version] = other.priority
        ordered = sorted(found, key=lambda group: (-max(each.group for each in found[group].values()), group))
        self._versions = {
            group: sorted(found[group], key=lambda version: (-found[group][version].version, preference(version)))
            for group in ordered
        }

    @property
    def group_versions(self) -> list[tuple[str, str]]:
        """All group versions, other servers' among them."""
        return [(group, version) for group, versions in self._groups.items() for version in versions]

    @property
    def _made(self) -> dict[tuple[str, str], bytes]:
        self._renew()
        return self._documents

    @property
    def _groups(self) -> dict[str, list[str]]:
        self._renew()
        return self._versions

    def aggregated(self, core: bool, version: str) -> bytes:
        """Return the APIGroupDiscoveryList of the core group or of all others."""
        key = ("aggregated core" if core else "aggregated", version)
        if key not in self._made:
            items = [self._group(group) for group in self._groups if (not group) is core]
            made = {
                "kind": "APIGroupDiscoveryList",
                "apiVersion": f"apidiscovery.k8s.io/{version}",
                "metadata": {},
                "items": items,
            }
            self._made[key] = orjson.dumps(made)
        return self._made[key]

    def _of(self, group: str, version: str) -> list[Kind]:
        return [kind for kind in self._kinds.all if (kind.resource.group, kind.resource.version) == (group, version)]

    def _group(self, group: str) -> dict[str, Any]:
        versions = [self._version(group, version) for version in self._groups[group]]
        return {"metadata": {"name": group, "creationTimestamp": None}, "versions": versions}

    def _version(self, group: str, version: str) -> dict[str, Any]:
        other = self._published.get((group, version))
        if other is not None:
            freshness = "Current" if other.fresh else "Stale"
            return {"version": version, "resources": list(other.resources), "freshness": freshness}
        resources = [_aggregated_resource(kind) for kind in self._of(group, version)]
        return {"version": version, "resources": resources, "freshness": "Current"}

    @property
    def core_versions(self) -> bytes:
        """Return what plain /api answers."""
        made = {
            "kind": "APIVersions",
            "versions": self._groups.get("", []),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        }
        return orjson.dumps(made)

    @property
    def groups(self) -> bytes:
        """Return what plain /apis answers."""
        found = [self._plain_group(group) for group in self._groups if group]
        return orjson.dumps({"kind": "APIGroupList", "apiVersion": "v1", "groups": found})

    def group(self, group: str) -> bytes | None:
        """Return what /apis/GROUP answers."""
        if group not in self._groups:
            return None
        return orjson.dumps({"kind": "APIGroup", "apiVersion": "v1", **self._plain_group(group)})

    def _plain_group(self, group: str) -> dict[str, Any]:
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in self._groups[group]]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def resources(self, group: str, version: str) -> bytes | None:
        """Return what /api/v1 or /apis/GROUP/VERSION answers."""
        key = (group, version)
        if key not in self._made:
            kinds = self._of(group, version)
            if not kinds:
                return None
            listed = [row for kind in kinds for row in _plain_resources(kind, self._kinds.storage(kind).resource)]
            text = f"{group}/{version}" if group else version
            made = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": text, "resources": listed}
            self._made[key] = orjson.dumps(made)
        return self._made[key]


def _aggregated_resource(kind: Kind) -> dict[str, Any]:
    resource, served = kind.resource, kind.served
    made: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": served.singular,
        "verbs": list(served.verbs),
    }
    if served.short_names:
        made["shortNames"] = list(served.short_names)
    if served.categories:
        made["categories"] = list(served.categories)
    if served.subresources:
        made["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": list(sub.verbs),
            }
            for sub in served.subresources
        ]
    return made


def _storage_version_hash(stored: Resource) -> str:
    """Return what tells clients that a kind is now stored in another version."""
    told = f"{stored.group}/{stored.version}/{stored.kind}"
    return b64encode(sha256(told.encode()).digest()[:8]).decode()


def _plain_resources(kind: Kind, stored: Resource) -> list[dict[str, Any]]:
    resource, served = kind.resource, kind.served
    first: dict[str, Any] = {
        "name": resource.plural,
        "singularName": served.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(served.verbs),
    }
    if served.short_names:
        first["shortNames"] = list(served.short_names)
    if served.categories:
        first["categories"] = list(served.categories)
    if "list" in served.verbs and "create" in served.verbs:
        first["storageVersionHash"] = _storage_version_hash(stored)
    rows = [first]
    for sub in served.subresources:
        row: dict[str, Any] = {
            "name": f"{resource.plural}/{sub.name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": sub.kind,
            "verbs": list(sub.verbs),
        }
        if (sub.group, sub.version) != (resource.group, resource.version):
            row["group"], row["version"] = sub.group, sub.version
        rows.append(row)
    return rows
