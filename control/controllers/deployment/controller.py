"""The Deployment controller's shell: caches in, plan out, collisions of names settled."""

from __future__ import annotations

import logging

from control.api import meta
from control.api.meta import Object
from control.api.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from control.api.status import ApiError
from control.client.actions import Create, apply_one
from control.client.informer import BY_NAMESPACE, BY_OWNER, by_namespace, by_owner
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers.claims import claim
from control.controllers.deployment import revisions
from control.controllers.deployment.reconcile import reconcile

log = logging.getLogger(__name__)


class DeploymentController:
    """Rolls each Deployment's ReplicaSets towards its template and number."""

    name = "deployment"
    workers = 5

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._deployments = context.informer(DEPLOYMENTS)
        self._sets = context.informer(REPLICA_SETS)
        self._pods = context.informer(PODS)
        self._deployments.add_indexer(BY_NAMESPACE, by_namespace)
        self._sets.add_indexer(BY_NAMESPACE, by_namespace)
        self._pods.add_indexer(BY_OWNER, by_owner)
        self._deployments.add_handler(enqueue(self.queue))
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)

    def _set_changed(self, old: Object | None, new: Object | None) -> None:
        for found in (old, new):
            reference = meta.controller_of(found) if found is not None else None
            if found is not None and reference is not None and reference.get("kind") == DEPLOYMENTS.kind:
                self.queue.add(f"{meta.namespace(found)}/{reference['name']}")
        if new is not None and meta.controller_of(new) is None:
            for deployment in self._deployments.by_index(BY_NAMESPACE, meta.namespace(new)):
                self.queue.add(meta.key(deployment))

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        """A Recreate waits for the old pods to be gone: only their end matters here."""
        if old is None or new is not None:
            return
        owner = meta.controller_of(old)
        if owner is not None and owner.get("kind") == REPLICA_SETS.kind:
            replica_set = self._sets.get(f"{meta.namespace(old)}/{owner['name']}")
            if replica_set is not None:
                self._set_changed(None, replica_set)

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Take one Deployment's next step."""
        deployment = self._deployments.get(key)
        if deployment is None:
            return None
        context = self._context
        candidates = self._sets.by_index(BY_NAMESPACE, meta.namespace(deployment))
        replica_sets = await claim(context.client, DEPLOYMENTS, deployment, REPLICA_SETS, candidates)
        pods = [pod for found in replica_sets for pod in self._pods.by_index(BY_OWNER, meta.uid(found))]
        plan = reconcile(deployment, replica_sets, pods, context.now())
        for action in plan.actions:
            if isinstance(action, Create):
                await self._create(deployment, action)
            else:
                await apply_one(context.client, context.recorder, action)
        return plan.again_after_s

    async def _create(self, deployment: Object, action: Create) -> None:
        """Create a ReplicaSet; a foreign one of its name makes the next hash a different one."""
        client = self._context.client
        try:
            await client.create(REPLICA_SETS, action.object, meta.namespace(deployment))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await client.get(REPLICA_SETS, meta.name(action.object), meta.namespace(deployment))
            ours = (meta.controller_of(found) or {}).get("uid") == meta.uid(deployment)
            if ours and revisions.same_template(deployment, found):
                return  # made by an earlier look that the cache does not show yet
            count = int((deployment.get("status") or {}).get("collisionCount") or 0) + 1
            log.info("hash collision deployment=%s collisions=%d", meta.key(deployment), count)
            change = {"status": {"collisionCount": count}}
            name, namespace = meta.name(deployment), meta.namespace(deployment)
            await client.patch(DEPLOYMENTS, name, change, namespace, subresource="status")
            raise
