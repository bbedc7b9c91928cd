"""The Lease of each API server: its name, renewal, the end of forgotten ones, and giving it back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from control.api.resources import LEASES
from control.apiserver.identity import NAMESPACE, IdentityLease, expired, lease, lease_name
from control.apiserver.loopback import LoopbackClient
from control.client.client import ListOptions
from tests.control.apiserver.harness import running

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_name_is_that_of_one_server() -> None:
    name = lease_name("host", "10.0.0.1:6443")
    assert name == lease_name("host", "10.0.0.1:6443") != lease_name("host", "10.0.0.2:6443")
    assert name.startswith("apiserver-")
    assert len(name) == len("apiserver-") + 26
    assert name.removeprefix("apiserver-").isalnum()


def test_a_lease_ends_when_nobody_renews_it() -> None:
    found = lease("apiserver-x", "host", "x_1", NOW)
    assert not expired(found, NOW + timedelta(seconds=3599))
    assert expired(found, NOW + timedelta(seconds=3601))
    assert expired({"spec": {}}, NOW)


async def test_a_server_s_lease_from_start_to_end() -> None:
    async with running() as api:
        client = LoopbackClient()
        client.service = api.service
        for name in ("apiserver-dead", "apiserver-other"):
            renewed = datetime.now(UTC) - timedelta(hours=2 if name.endswith("dead") else 0)
            await client.create(LEASES, lease(name, "host", name, renewed), NAMESPACE)
        kept = IdentityLease(client, "10.0.0.1:6443")
        running_lease = asyncio.ensure_future(kept.run())
        own = ListOptions(label_selector="apiserver.kubernetes.io/identity=kube-apiserver")

        async def names() -> set[str]:
            return {entry["metadata"]["name"] for entry in (await client.list(LEASES, NAMESPACE, own)).items}

        async with asyncio.timeout(20):
            while "apiserver-dead" in await names() or not kept.held:
                await asyncio.sleep(0.01)
        mine = (await names()) - {"apiserver-other"}
        assert len(mine) == 1
        running_lease.cancel()
        await asyncio.wait([running_lease])
        assert await names() == {"apiserver-other"}
