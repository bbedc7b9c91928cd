"""Removes images that no container uses when the disk grows full, those unused for longest first."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Collection, Mapping, Sequence

from node.config import KubeletConfig
from node.cri import Cri, CriError
from node.pleg import Pleg
from node.runtime import ImageInfo

log = logging.getLogger(__name__)

PERIOD_S = 300.0
AGE_LEAST_S = 120.0
"""An image younger than this was pulled for something that is about to start."""


def choose(
    images: Sequence[ImageInfo], in_use: Collection[str], unused_since: Mapping[str, float], now: float, wanted: int
) -> list[ImageInfo]:
    """PURE: return the images to remove so that about `wanted` bytes come free."""
    free = [image for image in images if image.id not in in_use and not image.pinned]
    old = [image for image in free if now - unused_since.get(image.id, now) >= AGE_LEAST_S]
    chosen: list[ImageInfo] = []
    for image in sorted(old, key=lambda image: unused_since[image.id]):
        if wanted <= 0:
            break
        chosen.append(image)
        wanted -= image.size_bytes
    return chosen


class ImageCollector:
    """Watches the disk and the images of one node."""

    def __init__(self, config: KubeletConfig, cri: Cri, pleg: Pleg) -> None:
        self._config = config
        self._cri = cri
        self._pleg = pleg
        self._unused_since: dict[str, float] = {}

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.collect(time.time())
            except CriError as error:
                log.warning("cannot collect images error=%s", error)

    async def collect(self, now: float) -> int:
        """Look once; return how many images were removed."""
        images = await self._cri.list_images()
        in_use = {info.image_ref for info in self._pleg.containers} | {info.image for info in self._pleg.containers}
        used = {image.id for image in images if in_use.intersection((image.id, *image.repo_tags, *image.repo_digests))}
        self._unused_since = {
            image.id: self._unused_since.get(image.id, now) for image in images if image.id not in used
        }
        usage = await asyncio.to_thread(shutil.disk_usage, self._config.root_dir)
        if usage.used * 100 < usage.total * self._config.image_gc_high_percent:
            return 0
        wanted = usage.used - usage.total * self._config.image_gc_low_percent // 100
        chosen = choose(images, used, self._unused_since, now, wanted)
        for image in chosen:
            log.info("removing an unused image id=%s names=%s bytes=%d", image.id, image.repo_tags, image.size_bytes)
            await self._cri.remove_image(image.id)
        return len(chosen)
