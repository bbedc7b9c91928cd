"""Makes sure that a container's image is on the node, by its pull policy and a few at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from control.api.meta import Object
from node.cri import Cri, CriError, CriNotFoundError
from node.environment import secret_data
from node.runtime import ImageInfo

log = logging.getLogger(__name__)

DOCKER_HUB = "docker.io"


class ImageError(Exception):
    """An image cannot be had; the reason is what the container's status shows."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def registry_of(image: str) -> str:
    """Return the registry that an image's name points at."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else DOCKER_HUB


def credentials_for(image: str, secrets: Sequence[Object]) -> tuple[str, str] | None:
    """Return user and password for an image from imagePullSecrets."""
    registry = registry_of(image)
    for secret in secrets:
        data = secret_data(secret).get(".dockerconfigjson")
        if data is None:
            continue
        try:
            entries: Mapping[str, Any] = json.loads(data).get("auths") or {}
        except ValueError:
            continue
        for address, entry in entries.items():
            host = address.removeprefix("https://").removeprefix("http://").split("/")[0]
            if host.removeprefix("index.") == registry:
                return _user_and_password(entry)
    return None


def _user_and_password(entry: Mapping[str, Any]) -> tuple[str, str]:
    if entry.get("auth"):
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return user, password
    return entry.get("username", ""), entry.get("password", "")


class Images:
    """Pulls images: one pull of an image however many want it, and a bounded number at once."""

    def __init__(self, cri: Cri, pulls_max: int) -> None:
        self._cri = cri
        self._places = asyncio.Semaphore(pulls_max)
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def ensure(self, image: str, policy: str, secrets: Sequence[Object]) -> tuple[ImageInfo, bool]:
        """Return the image, and whether it was pulled now; raises ImageError."""
        try:
            present = await self._cri.image_status(image)
        except CriError as error:
            raise ImageError("ImageInspectError", f'Failed to inspect image "{image}": {error}') from error
        if present is not None and policy != "Always":
            return present, False
        if policy == "Never":
            text = f'Container image "{image}" is not present with pull policy of Never'
            raise ImageError("ErrImageNeverPull", text)
        async with self._alone(image), self._places:
            return await self._pull(image, policy, present, secrets)

    async def _pull(
        self, image: str, policy: str, present: ImageInfo | None, secrets: Sequence[Object]
    ) -> tuple[ImageInfo, bool]:
        if policy == "IfNotPresent" and (found := await self._cri.image_status(image)) is not None:
            return found, False  # somebody else pulled it while we waited
        try:
            await self._cri.pull_image(image, credentials_for(image, secrets))
        except CriNotFoundError as error:
            raise ImageError("ErrImagePull", f'Failed to pull image "{image}": {error}') from error
        except CriError as error:
            raise ImageError("ErrImagePull", f'Failed to pull image "{image}": {error}') from error
        pulled = await self._cri.image_status(image)
        if pulled is None:
            raise ImageError("ErrImagePull", f'Failed to pull image "{image}": it is not there after the pull')
        return pulled, True

    @asynccontextmanager
    async def _alone(self, image: str) -> AsyncIterator[None]:
        lock, waiting = self._locks.get(image, (asyncio.Lock(), 0))
        self._locks[image] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[image]
            if waiting <= 1:
                del self._locks[image]
            else:
                self._locks[image] = (lock, waiting - 1)
