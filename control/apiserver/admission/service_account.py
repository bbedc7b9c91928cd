"""ServiceAccount: every pod runs as a service account and finds its token where clients look for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from control.api.meta import Object
from control.api.resources import PODS, SERVICE_ACCOUNTS
from control.api.status import ApiError
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.authn.service_accounts import WARN_ONLY_BOUND_SECONDS
from control.apiserver.request import AdmissionRequest, Lookup
from control.client.client import Client

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_WAITS_S = (0.05, 0.1, 0.2, 0.4)
"""A new namespace's default account is made by a controller, a moment later."""


def random_suffix() -> str:
    """Five characters as generated names have them."""
    return "".join(random.choices(_SUFFIX_ALPHABET, k=5))


def mirror_fault(pod: Object) -> str | None:
    """Why a mirror pod is refused: it may not borrow an identity, since no API server judged it."""
    spec = spec_of(pod)
    if spec.get("serviceAccountName"):
        return "a mirror pod may not reference service accounts"
    for volume in spec.get("volumes") or ():
        if any(source.get("serviceAccountToken") for source in (volume.get("projected") or {}).get("sources") or ()):
            return "a mirror pod may not use ServiceAccountToken volume projections"
        if volume.get("secret"):
            return "a mirror pod may not reference secrets"
    return None


def wants_token(pod: Object, account: Object) -> bool:
    """Whether the token is mounted: the pod's word counts before the account's, the default is yes."""
    for holder in (spec_of(pod), account):
        automount = holder.get("automountServiceAccountToken")
        if automount is not None:
            return bool(automount)
    return True


def token_volume(name: str) -> dict[str, Any]:
    """The projected volume with token, authority and namespace."""
    return {
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": WARN_ONLY_BOUND_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {
                                "path": "namespace",
                                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                            }
                        ]
                    }
                },
            ],
        },
    }


def admit_pod(pod: Object, account: Object, suffix: Callable[[], str]) -> None:
    """Give the pod its account's pull secrets and token; a container that mounts its own keeps it."""
    spec = pod.setdefault("spec", {})
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [{"name": entry.get("name", "")} for entry in account["imagePullSecrets"]]
    if not wants_token(pod, account):
        return
    volumes = spec.get("volumes") or []
    known = next((volume["name"] for volume in volumes if volume["name"].startswith(VOLUME_PREFIX)), None)
    name = known or VOLUME_PREFIX + suffix()
    is_needed = False
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            mounts = container.get("volumeMounts") or []
            if all(mount.get("mountPath") != MOUNT_PATH for mount in mounts):
                container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}]
                is_needed = True
    if is_needed and known is None:
        spec["volumes"] = [*volumes, token_volume(name)]


class ServiceAccountAdmission(Plugin):
    """Finds the pod's account and applies the rules above."""

    about = (PODS,)

    def __init__(self, lookup: Lookup, client: Client, suffix: Callable[[], str] = random_suffix) -> None:
        self._lookup = lookup
        self._client = client
        self._suffix = suffix

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete a new pod."""
        if not concerns(request, PODS, "CREATE") or request.object is None:
            return
        pod = request.object
        if MIRROR_ANNOTATION in ((pod.get("metadata") or {}).get("annotations") or {}):
            if fault := mirror_fault(pod):
                raise denied(request, fault)
            return
        spec = pod.setdefault("spec", {})
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        admit_pod(pod, await self._account(request, name), self._suffix)

    async def _account(self, request: AdmissionRequest, name: str) -> Object:
        found = self._lookup.get(SERVICE_ACCOUNTS, name, request.namespace)
        if found is not None:
            return found
        for wait_s in (*_WAITS_S, None):
            try:
                return await self._client.get(SERVICE_ACCOUNTS, name, request.namespace)
            except ApiError as error:
                if error.code != 404:
                    raise
                if wait_s is None or name != "default":
                    text = f"error looking up service account {request.namespace}/{name}: {error.message}"
                    raise denied(request, text) from error
            await asyncio.sleep(wait_s)
        raise AssertionError("the last wait is None and returns or raises")
