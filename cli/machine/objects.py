"""The objects by which machines join: cluster-info for those that know a token, the settings, and who may read them."""

from __future__ import annotations

import base64
from datetime import datetime

import yaml

from cli.machine import sharing
from cli.machine.settings import CONFIG_KEY, CONFIG_MAP, ClusterSettings
from control.api import bootstraptokens
from control.api.bootstraptokens import CLUSTER_INFO, CLUSTER_INFO_NAMESPACE, KUBECONFIG_KEY, NODE_GROUP
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, ROLE_BINDINGS, ROLES, SECRETS, Resource
from control.api.status import ApiError
from control.client.client import Client
from lab import cluster_api

SYSTEM = "kube-system"
RBAC = "rbac.authorization.k8s.io"


def cluster_info(server: str, authority: bytes) -> Object:
    """Return the ConfigMap that everybody may read; a controller signs it with every token."""
    entry = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": entry}],
        "contexts": [],
        "current-context": "",
        "users": [],
        "preferences": {},
    }
    text = yaml.safe_dump(document, sort_keys=False)
    return _config_map(CLUSTER_INFO_NAMESPACE, CLUSTER_INFO, KUBECONFIG_KEY, text)


def settings_map(settings: ClusterSettings) -> Object:
    """Return the ConfigMap of what all machines agree on."""
    return _config_map(SYSTEM, CONFIG_MAP, CONFIG_KEY, settings.to_text())


def _config_map(namespace: str, name: str, key: str, text: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}}


def _reading(namespace: str, name: str, resource: str, object_name: str, subject: dict[str, str]) -> list[Object]:
    """Return the Role and the binding that let somebody read one object."""
    metadata = {"name": name, "namespace": namespace}
    rule = {"apiGroups": [""], "resources": [resource], "resourceNames": [object_name], "verbs": ["get"]}
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": RBAC, **subject}],
        },
    ]


def joining_objects(settings: ClusterSettings, server: str, authority: bytes) -> list[tuple[Resource, Object]]:
    """Return all that a cluster of machines has beyond what its API server makes by itself."""
    anonymous = {"kind": "User", "name": "system:anonymous"}
    joining = {"kind": "Group", "name": NODE_GROUP}
    roles = [
        *_reading(CLUSTER_INFO_NAMESPACE, "raftsman:cluster-info", "configmaps", CLUSTER_INFO, anonymous),
        *_reading(SYSTEM, "raftsman:settings", "configmaps", CONFIG_MAP, joining),
        *_reading(SYSTEM, "raftsman:certificates", "secrets", sharing.SECRET_NAME, joining),
    ]
    kinds = {"Role": ROLES, "RoleBinding": ROLE_BINDINGS}
    return [
        (CONFIG_MAPS, settings_map(settings)),
        (CONFIG_MAPS, cluster_info(server, authority)),
        *((kinds[found["kind"]], found) for found in roles),
    ]


async def ensure_joining(client: Client, settings: ClusterSettings, server: str, authority: bytes) -> None:
    """Make what machines join by."""
    for resource, wanted in joining_objects(settings, server, authority):
        await cluster_api.ensure(client, resource, wanted)


async def read_settings(client: Client) -> ClusterSettings:
    """Return what all machines agree on."""
    stored = await client.get(CONFIG_MAPS, CONFIG_MAP, SYSTEM)
    return ClusterSettings.from_text(str((stored.get("data") or {}).get(CONFIG_KEY, "")))


async def change_control_planes(client: Client, address: str, *, add: bool) -> ClusterSettings:
    """Add an API server to the settings that joining machines read, or take it out."""
    while True:
        stored = await client.get(CONFIG_MAPS, CONFIG_MAP, SYSTEM)
        settings = ClusterSettings.from_text(str((stored.get("data") or {}).get(CONFIG_KEY, "")))
        wanted = settings.with_control_plane(address) if add else settings.without_control_plane(address)
        if wanted == settings:
            return wanted
        try:
            await client.update(CONFIG_MAPS, {**stored, "data": {CONFIG_KEY: wanted.to_text()}})
        except ApiError as error:
            if error.reason != "Conflict":
                raise
        else:
            return wanted


async def store_token(client: Client, token: str, expiration: datetime | None, description: str) -> None:
    """Make a token known."""
    secret = bootstraptokens.secret_object(token, expiration=expiration, description=description)
    await client.create(SECRETS, secret, SYSTEM)
