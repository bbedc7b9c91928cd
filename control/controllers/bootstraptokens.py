"""Bootstrap tokens: their signatures on cluster-info, and their end."""

from __future__ import annotations

from control.api import bootstraptokens, meta
from control.api.bootstraptokens import CLUSTER_INFO, CLUSTER_INFO_NAMESPACE, SECRET_NAMESPACE, SECRET_TYPE
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, SECRETS
from control.client.actions import Delete, Update
from control.client.client import DeleteOptions
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue

LOOK_AGAIN_MAX_S = 3600.0


def _seconds_left(secret: Object, context: Context) -> float | None:
    """Return how long a token lasts, None where it has no end; one that cannot be read has ended."""
    try:
        expiration = bootstraptokens.expiration_of(bootstraptokens.decoded(secret))
    except ValueError:
        return 0.0
    return None if expiration is None else (expiration - context.now()).total_seconds()


class BootstrapSigner:
    """Signs kube-public/cluster-info with each token that may; its one key is that ConfigMap."""

    name = "bootstrap-signer-controller"
    workers = 1

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._key = f"{CLUSTER_INFO_NAMESPACE}/{CLUSTER_INFO}"
        self._context = context
        self._secrets = context.informers.of(SECRETS, SECRET_NAMESPACE, field_selector=f"type={SECRET_TYPE}")
        self._information = context.informers.of(
            CONFIG_MAPS, CLUSTER_INFO_NAMESPACE, field_selector=f"metadata.name={CLUSTER_INFO}"
        )
        self._secrets.add_handler(self._changed)
        self._information.add_handler(self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        self.queue.add(self._key)

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Bring the signatures up to date; look again when the next token ends."""
        stored = self._information.get(key)
        if stored is None:
            return None
        secrets = self._secrets.objects()
        tokens = bootstraptokens.signing_tokens(secrets, self._context.now())
        wanted = bootstraptokens.signed_cluster_info(stored, tokens)
        if wanted is not None:
            await self._context.write(Update(CONFIG_MAPS, wanted))
        ends = [left for secret in secrets if (left := _seconds_left(secret, self._context)) is not None and left > 0]
        return min([*ends, LOOK_AGAIN_MAX_S]) if ends else None


class TokenCleaner:
    """Deletes tokens whose time is over."""

    name = "token-cleaner-controller"
    workers = 1

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._secrets = context.informers.of(SECRETS, SECRET_NAMESPACE, field_selector=f"type={SECRET_TYPE}")
        self._secrets.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Delete one token, or return when its time is over."""
        secret = self._secrets.get(key)
        if secret is None or secret.get("type") != SECRET_TYPE:
            return None
        left = _seconds_left(secret, self._context)
        if left is None:
            return None
        if left > 0:
            return min(left, LOOK_AGAIN_MAX_S)
        options = DeleteOptions(uid=meta.uid(secret))
        await self._context.write(Delete(SECRETS, SECRET_NAMESPACE, meta.name(secret), options))
        return None
