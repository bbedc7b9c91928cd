"""The Lease that names a living API server, and the end of those whose server died long ago."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

from control.api import meta
from control.api.meta import Object
from control.api.resources import LEASES
from control.api.status import ApiError
from control.client.client import Client, ListOptions

log = logging.getLogger(__name__)

NAMESPACE = "kube-system"
LABEL = "apiserver.kubernetes.io/identity"
LABEL_VALUE = "kube-apiserver"
LEASE_DURATION_S = 3600
RENEW_INTERVAL_S = 10.0
SWEEP_INTERVAL_S = 3600.0
WITHDRAW_TIMEOUT_S = 3.0


def lease_name(host: str, address: str) -> str:
    """Return the name of the server that is reached under an address of a host."""
    digest = sha256(f"{host}\0{address}".encode()).digest()
    return "apiserver-" + base64.b32encode(digest[:16]).decode().rstrip("=").lower()


def lease(name: str, host: str, holder: str, now: datetime) -> Object:
    """Return the Lease as it should stand."""
    labels = {LABEL: LABEL_VALUE, "kubernetes.io/hostname": host}
    return {
        "apiVersion": LEASES.api_version,
        "kind": "Lease",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": LEASE_DURATION_S,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def expired(found: Object, now: datetime) -> bool:
    """Tell whether nobody has renewed a Lease for as long as it lasts."""
    spec = found.get("spec") or {}
    text, duration = spec.get("renewTime"), spec.get("leaseDurationSeconds")
    if not text or not duration:
        return True
    return datetime.fromisoformat(str(text)) + timedelta(seconds=int(duration)) < now


class IdentityLease:
    """Keeps one server's Lease."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._host = socket.gethostname()
        self._name = lease_name(self._host, address)
        self._holder = f"{self._name}_{uuid4()}"
        self.held = False
        """Whether the Lease stands."""

    async def run(self) -> None:
        """Renew until cancelled, then give the Lease back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._sweep())
        finally:
            await self._withdraw()

    async def _renew(self) -> None:
        while True:
            try:
                await self._ensure()
                self.held = True
            except (ApiError, TimeoutError) as error:
                log.warning("identity lease is not renewed name=%s error=%s", self._name, error)
            await asyncio.sleep(RENEW_INTERVAL_S)

    async def _ensure(self) -> None:
        wanted = lease(self._name, self._host, self._holder, datetime.now(UTC))
        try:
            existing = await self._client.get(LEASES, self._name, NAMESPACE)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            await self._client.create(LEASES, wanted, NAMESPACE)
            return
        labels = {**(existing["metadata"].get("labels") or {}), **wanted["metadata"]["labels"]}
        await self._client.update(
            LEASES, {**existing, "metadata": {**existing["metadata"], "labels": labels}, "spec": wanted["spec"]}
        )

    async def _sweep(self) -> None:
        while True:
            try:
                found = await self._client.list(LEASES, NAMESPACE, ListOptions(label_selector=f"{LABEL}={LABEL_VALUE}"))
                for entry in found.items:
                    if meta.name(entry) != self._name and expired(entry, datetime.now(UTC)):
                        await self._client.delete(LEASES, meta.name(entry), NAMESPACE)
            except (ApiError, TimeoutError, ValueError) as error:
                log.warning("identity leases are not swept error=%s", error)
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _withdraw(self) -> None:
        if not self.held:
            return
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                await self._client.delete(LEASES, self._name, NAMESPACE)
        except (ApiError, TimeoutError) as error:
            log.warning("identity lease is left to expire name=%s error=%s", self._name, error)
