"""PersistentVolumeClaims and PersistentVolumes that are in use do not go: finalizers hold them until nobody does."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from control.api import meta
from control.api.meta import Object
from control.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from control.client.actions import Update
from control.client.client import ListOptions
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers import pods as facts

log = logging.getLogger(__name__)

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"
BY_CLAIM = "claim"
PAGE_SIZE = 500


def claim_names(pod: Object) -> set[str]:
    """Return the names of the claims that a pod's volumes mean, those made for the pod alone included."""
    found = set()
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            found.add(str(claim.get("claimName")))
        elif volume.get("ephemeral") is not None:
            found.add(f"{meta.name(pod)}-{volume.get('name')}")
    return found


def by_claim(pod: Object) -> Iterable[str]:
    """Index pods by the claims that they mean."""
    return [f"{meta.namespace(pod)}/{name}" for name in claim_names(pod)]


def uses(pod: Object, claim: Object) -> bool:
    """Tell whether a pod may have a claim's volume mounted: one that is bound to a node, ended or not.

    A claim that was made for this one pod is free once the kubelet is done with it: the pod may wait for its claim.
    """
    if not facts.node_name(pod):
        return False
    name = meta.name(claim)
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if (volume.get("persistentVolumeClaim") or {}).get("claimName") == name:
            return True
        own = volume.get("ephemeral") is not None and f"{meta.name(pod)}-{volume.get('name')}" == name
        controller = meta.controller_of(claim) or {}
        if own and controller.get("uid") == meta.uid(pod) and not _is_shut_down(pod):
            return True
    return False


def _is_shut_down(pod: Object) -> bool:
    return meta.is_being_deleted(pod) and meta.metadata(pod).get("deletionGracePeriodSeconds") == 0


def without_finalizer(obj: Object, finalizer: str) -> Object:
    """Return the object without one of its finalizers."""
    kept = [each for each in obj["metadata"].get("finalizers") or () if each != finalizer]
    return {**obj, "metadata": {**obj["metadata"], "finalizers": kept}}


def with_finalizer(obj: Object, finalizer: str) -> Object:
    """Return the object with one finalizer more."""
    held = obj["metadata"].get("finalizers") or []
    return {**obj, "metadata": {**obj["metadata"], "finalizers": [*held, finalizer]}}


def holds(obj: Object, finalizer: str) -> bool:
    """Tell whether an object has a finalizer."""
    return finalizer in (obj["metadata"].get("finalizers") or ())


class ClaimProtection:
    """Takes the finalizer off claims that are being deleted and that no pod uses."""

    name = "pvc-protection"
    workers = 2

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._claims = context.informer(PERSISTENT_VOLUME_CLAIMS)
        self._pods = context.informer(PODS)
        self._pods.add_indexer(BY_CLAIM, by_claim)
        self._claims.add_handler(enqueue(self.queue))
        self._pods.add_handler(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Look at the claims of a pod that is gone, has ended, or has not begun."""
        if new is None or facts.is_finished(new) or not facts.node_name(new) or meta.is_being_deleted(new):
            for pod in (old, new):
                for key in by_claim(pod) if pod is not None else ():
                    self.queue.add(key)

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Look at one claim."""
        claim = self._claims.get(key)
        if claim is None:
            return None
        if not meta.is_being_deleted(claim):
            if not holds(claim, CLAIM_FINALIZER):
                await self._context.write(Update(PERSISTENT_VOLUME_CLAIMS, with_finalizer(claim, CLAIM_FINALIZER)))
        elif holds(claim, CLAIM_FINALIZER) and not await self._is_used(key, claim):
            await self._context.write(Update(PERSISTENT_VOLUME_CLAIMS, without_finalizer(claim, CLAIM_FINALIZER)))
            log.info("claim is free to go key=%s", key)
        return None

    async def _is_used(self, key: str, claim: Object) -> bool:
        if any(uses(pod, claim) for pod in self._pods.by_index(BY_CLAIM, key)):
            return True
        # The cache may not show a pod that was bound a moment ago: data is at stake, so the server is asked.
        token = ""
        while True:
            options = ListOptions(limit=PAGE_SIZE, continue_token=token)
            page = await self._context.client.list(PODS, meta.namespace(claim), options)
            if any(uses(pod, claim) for pod in page.items):
                return True
            token = page.continue_token
            if not token:
                return False


class VolumeProtection:
    """Takes the finalizer off volumes that are being deleted and bound to no claim."""

    name = "pv-protection"
    workers = 1

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._volumes = context.informer(PERSISTENT_VOLUMES)
        self._volumes.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Look at one volume."""
        volume = self._volumes.get(key)
        if volume is None:
            return None
        if not meta.is_being_deleted(volume):
            if not holds(volume, VOLUME_FINALIZER):
                await self._context.write(Update(PERSISTENT_VOLUMES, with_finalizer(volume, VOLUME_FINALIZER)))
        elif holds(volume, VOLUME_FINALIZER) and (volume.get("status") or {}).get("phase") != "Bound":
            await self._context.write(Update(PERSISTENT_VOLUMES, without_finalizer(volume, VOLUME_FINALIZER)))
            log.info("volume is free to go name=%s", key)
        return None
