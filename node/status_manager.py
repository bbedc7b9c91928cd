"""Brings pods' statuses to the API server: the newest one only, retried until it is there, and deletes last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import PODS
from control.api.status import ApiError
from control.client.client import STRATEGIC_MERGE_PATCH, Client, DeleteOptions
from node.status import OWN_CONDITIONS

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 0.2, 10.0
WRITERS = 4


@dataclass(slots=True)
class _Entry:
    pod: Object
    wanted: dict[str, Any] | None = None
    told: dict[str, Any] | None = None
    delete: bool = False
    retry_s: float = 0.0
    busy: bool = False


def patch_of(pod: Object, wanted: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """PURE: return the patch that makes the stored status the wanted one; only this pod, by its UID.

    Conditions merge by type, so that those of others are not sent: what we know of them may be old.
    """
    status: dict[str, Any] = {key: value for key, value in wanted.items() if told.get(key) != value}
    if "conditions" in status:
        old = {entry["type"]: entry for entry in told.get("conditions") or ()}
        status["conditions"] = [
            {**{key: None for key in old.get(entry["type"], {}) if key not in entry}, **entry}
            for entry in status["conditions"]
            if entry["type"] in OWN_CONDITIONS
        ]
    status.update({key: None for key in told if key not in wanted and told[key] is not None})
    return {"metadata": {"uid": meta.uid(pod)}, "status": status}


class StatusManager:
    """Knows what each pod's status should be and what the API server was told."""

    def __init__(self, client: Client, latest: Callable[[Object], Object | None]) -> None:
        self._client = client
        self._latest = latest
        """Returns the pod as the informer has it now."""
        self._entries: dict[str, _Entry] = {}
        self._work: asyncio.Queue[str] = asyncio.Queue()
        """Holds each UID at most once, since an entry that is busy is not queued again."""

    def last(self, uid: str) -> dict[str, Any] | None:
        """Return the status last wanted for a pod."""
        entry = self._entries.get(uid)
        return entry.wanted if entry is not None else None

    def set(self, pod: Object, status: dict[str, Any]) -> None:
        """Want this status for the pod; the write follows."""
        entry = self._entries.setdefault(meta.uid(pod), _Entry(pod))
        entry.pod = pod
        if entry.wanted == status:
            return
        entry.wanted = status
        self._enqueue(meta.uid(pod), entry)

    def delete(self, pod: Object) -> None:
        """Delete the pod object once its last status is written."""
        entry = self._entries.setdefault(meta.uid(pod), _Entry(pod))
        entry.delete = True
        self._enqueue(meta.uid(pod), entry)

    def forget(self, uid: str) -> None:
        """Drop a pod that is gone."""
        self._entries.pop(uid, None)

    def _enqueue(self, uid: str, entry: _Entry) -> None:
        if not entry.busy:
            entry.busy = True
            self._work.put_nowait(uid)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._writer(group))

    async def _writer(self, group: asyncio.TaskGroup) -> None:
        while True:
            uid = await self._work.get()
            entry = self._entries.get(uid)
            if entry is None:
                continue
            try:
                await self._write(entry)
                entry.retry_s, entry.busy = 0.0, False
                if entry.wanted != entry.told or entry.delete:
                    self._enqueue(uid, entry)
            except ApiError as error:
                # A conflict means another pod of this name: ours is as gone as with a plain 404.
                if error.code == 404 or (error.code == 409 and self._latest(entry.pod) is None):
                    entry.busy = entry.delete = False
                    entry.told = entry.wanted  # the object is gone; the informer will say so
                    continue
                entry.retry_s = min(RETRY_MAX_S, entry.retry_s * 2 or RETRY_FIRST_S)
                log.info("cannot write a pod status, retrying pod=%s error=%s", meta.key(entry.pod), error)
                group.create_task(self._again(uid, entry.retry_s))

    async def _again(self, uid: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if uid in self._entries:
            self._work.put_nowait(uid)

    async def _write(self, entry: _Entry) -> None:
        pod, wanted = entry.pod, entry.wanted
        if wanted is not None and wanted != entry.told:
            # The informer may lag behind our own writes, so it counts only before the first of them.
            stored = (self._latest(pod) or pod).get("status") or {}
            patch = patch_of(pod, wanted, entry.told if entry.told is not None else stored)
            if patch["status"]:
                await self._client.patch(
                    PODS,
                    meta.name(pod),
                    patch,
                    meta.namespace(pod),
                    patch_type=STRATEGIC_MERGE_PATCH,
                    subresource="status",
                )
            entry.told = wanted
        if entry.delete and entry.wanted == entry.told:
            entry.delete = False
            options = DeleteOptions(grace_period_seconds=0, uid=meta.uid(pod))
            await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), options)
