"""A session with the store by a client library that others wrote; its protocol stubs need a process of their own."""

from __future__ import annotations

import asyncio
import io
import sys

import aetcd  # type: ignore[import-untyped]


async def session(port: int) -> None:
    """Use what the library offers; any disappointment ends the process."""
    async with aetcd.Client(port=port, timeout=20) as client:
        await keys(client)
        await watches(client)
        await leases(client)
        await locks(client)
        await maintenance(client)


async def keys(client: aetcd.Client) -> None:
    await client.put(b"key/1", b"one")
    replaced = await client.put(b"key/1", b"uno", prev_kv=True)
    assert replaced.prev_kv.value == b"one"
    found = await client.get(b"key/1")
    assert found is not None
    assert (found.value, found.version) == (b"uno", 2)
    assert await client.get(b"none") is None
    await client.put(b"key/2", b"two")
    prefix = await client.get_prefix(b"key/", sort_order="descend", sort_target="key")
    assert [kv.value for kv in prefix] == [b"two", b"uno"]
    assert await client.replace(b"key/2", b"two", b"due")
    assert not await client.replace(b"key/2", b"two", b"zwei")
    succeeded, _ = await client.transaction(
        compare=[client.transactions.value(b"key/1") == b"uno", client.transactions.version(b"key/1") > 1],
        success=[client.transactions.put(b"key/3", b"three"), client.transactions.delete(b"key/2")],
        failure=[client.transactions.put(b"key/3", b"never")],
    )
    assert succeeded
    assert await client.delete(b"key/2") is None
    deleted = await client.delete_prefix(b"key/")
    assert deleted.deleted == 2


async def watches(client: aetcd.Client) -> None:
    first = (await client.put(b"watched/1", b"1")).header.revision
    await client.put(b"watched/2", b"2")
    await client.delete(b"watched/1")
    watch = await client.watch_prefix(b"watched/", start_revision=first, prev_kv=True)
    seen = []
    async with asyncio.timeout(20):
        async for event in watch:
            seen.append((str(event.kind).upper(), event.kv.key, event.prev_kv.value if event.prev_kv else b""))
            if len(seen) == 3:
                break
    await watch.cancel()
    assert seen == [("PUT", b"watched/1", b""), ("PUT", b"watched/2", b""), ("DELETE", b"watched/1", b"1")], seen


async def leases(client: aetcd.Client) -> None:
    lease = await client.lease(60)
    await client.put(b"leased", b"x", lease=lease)
    await lease.refresh()
    assert await lease.granted_ttl() == 60
    assert list(await lease.keys()) == [b"leased"]
    await lease.revoke()
    assert await client.get(b"leased") is None


async def locks(client: aetcd.Client) -> None:
    async with client.lock(b"mutex", ttl=30) as held:
        assert await held.is_acquired()
        assert not await client.lock(b"mutex", ttl=30).acquire(timeout=1)
    assert not await held.is_acquired()


async def maintenance(client: aetcd.Client) -> None:
    assert (await client.status()).version.startswith("3.5.")
    saved = io.BytesIO()
    await client.snapshot(saved)
    assert len(saved.getvalue()) % 512 == 32
    revision = (await client.put(b"last", b"")).header.revision
    await client.compact(revision)
    assert [alarm async for alarm in client.list_alarms()] == []
    assert len([member async for member in client.members()]) == 1


if __name__ == "__main__":
    asyncio.run(session(int(sys.argv[1])))
