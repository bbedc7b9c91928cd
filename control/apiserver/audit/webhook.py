"""Events as EventLists, posted to a server that a kubeconfig file names."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from urllib.parse import urlsplit

from control.apiserver.config import ConfigurationError
from control.client.http import ConnectionFailedError, Pool
from control.client.kubeconfig import KubeconfigError, load

ATTEMPTS_MAX = 5
BACKOFF_FACTOR = 1.5
JITTER = 0.2
TIMEOUT_S = 30.0
_HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
_HEADERS = {"content-type": "application/json", "accept": "application/json"}


class Webhook:
    """Posts events, again where that is worth it."""

    name = "webhook"

    def __init__(self, path: Path, backoff_s: float) -> None:
        try:
            config = load(path)
            self._pool = Pool(config, "kube-apiserver-audit")
        except (KubeconfigError, OSError, ValueError) as error:
            raise ConfigurationError(f"initializing audit webhook: {error}") from None
        self._path = "" if urlsplit(config.server).path else "/"
        self._backoff_s = backoff_s

    async def write(self, events: list[bytes]) -> str:
        """Post events; return why that failed at last."""
        body = _HEAD + b",".join(events) + b"]}"
        wait_s = self._backoff_s
        fault = ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(wait_s * random.uniform(1.0, 1.0 + JITTER))
                wait_s *= BACKOFF_FACTOR
            try:
                answer = await self._pool.request("POST", self._path, _HEADERS, body, TIMEOUT_S)
            except ConnectionFailedError as error:
                fault = str(error)
                continue
            if answer.status < 300:
                return ""
            fault = f"the webhook answered {answer.status}"
            if answer.status < 500 and answer.status != 429:
                return fault
        return fault

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()
