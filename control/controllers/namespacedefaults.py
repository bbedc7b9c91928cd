"""What every namespace holds from its first moment: a default ServiceAccount and the cluster's root certificate."""

from __future__ import annotations

from collections.abc import Callable

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS, Resource
from control.api.status import ApiError
from control.client.actions import Action, Create, Update
from control.client.informer import Informer
from control.client.runner import Context, enqueue, is_namespace_terminating
from control.client.workqueue import WorkQueue

DEFAULT_ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"
DESCRIPTION = "kubernetes.io/description"
ROOT_CA_TEXT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
    "Kubernetes clusters."
)


def account_actions(namespace: str, stored: Object | None) -> list[Action]:
    """Return what gives a namespace its default ServiceAccount."""
    if stored is not None:
        return []
    metadata = {"name": DEFAULT_ACCOUNT, "namespace": namespace}
    return [Create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})]


def root_ca_actions(namespace: str, stored: Object | None, bundle: str) -> list[Action]:
    """Return what gives a namespace the root certificate, or mends a changed one."""
    data = {"ca.crt": bundle}
    if stored is None:
        metadata = {"name": ROOT_CA, "namespace": namespace, "annotations": {DESCRIPTION: ROOT_CA_TEXT}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        return [Create(CONFIG_MAPS, body)]
    if stored.get("data") == data:
        return []
    return [Update(CONFIG_MAPS, {**stored, "data": data})]


def is_live(namespace: Object | None) -> bool:
    """Tell whether a namespace exists and is not going away."""
    return (
        namespace is not None
        and not meta.is_being_deleted(namespace)
        and (namespace.get("status") or {}).get("phase") != "Terminating"
    )


class NamespaceObjectController:
    """Keeps one named object in every live namespace; keys are namespaces."""

    workers = 1

    def __init__(
        self,
        context: Context,
        name: str,
        resource: Resource,
        object_name: str,
        actions: Callable[[str, Object | None], list[Action]],
    ) -> None:
        self.name = name
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._object_name = object_name
        self._actions = actions
        self._namespaces = context.informer(NAMESPACES)
        # Only the objects of this name are watched: there may be very many others.
        self._objects: Informer = context.informers.of(resource, field_selector=f"metadata.name={object_name}")
        self._namespaces.add_handler(enqueue(self.queue))
        self._objects.add_handler(enqueue(self.queue, meta.namespace))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """See to one namespace."""
        if not is_live(self._namespaces.get(key)):
            return None
        for action in self._actions(key, self._objects.get(f"{key}/{self._object_name}")):
            try:
                await self._context.write(action)
            except ApiError as error:
                if error.code != 404 and not is_namespace_terminating(error):
                    raise
        return None


def service_account_controller(context: Context) -> NamespaceObjectController:
    """Return the controller that gives each namespace its default ServiceAccount."""
    return NamespaceObjectController(context, "serviceaccount", SERVICE_ACCOUNTS, DEFAULT_ACCOUNT, account_actions)


def root_ca_controller(context: Context, bundle: str) -> NamespaceObjectController:
    """Return the controller that gives each namespace the certificate by which its pods know the API server."""

    def actions(namespace: str, stored: Object | None) -> list[Action]:
        return root_ca_actions(namespace, stored, bundle)

    return NamespaceObjectController(context, "root-ca-certificate-publisher", CONFIG_MAPS, ROOT_CA, actions)
