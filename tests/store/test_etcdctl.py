"""Unmodified etcdctl, of two generations, against three real members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.store.processes import NAMES, StoreCluster
from tests.store.programs import Etcdctl, end, etcdctl_of, lines_of

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["installed", "newest"])
async def etcdctl(
    request: pytest.FixtureRequest, etcdctls: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Etcdctl]:
    """The command, and a cluster that the tests share: each works under keys of its own."""
    cluster = StoreCluster(tmp_path_factory.mktemp("cluster"))
    try:
        for name in NAMES:
            await cluster.start(name)
        async with asyncio.timeout(60):
            await cluster.leader()
        yield etcdctl_of(etcdctls[request.param], cluster)
    finally:
        await cluster.stop()


async def revision(etcdctl: Etcdctl) -> int:
    """The newest revision."""
    found: int = (await etcdctl.json("get", "none"))["header"]["revision"]
    return found


async def test_a_session(etcdctl: Etcdctl, tmp_path: Path) -> None:
    before = await revision(etcdctl)
    for number in range(1, 6):
        assert await etcdctl.said("put", f"key{number}", f"value{number}") == "OK\n"
    assert await etcdctl.said("get", "key1") == "key1\nvalue1\n"
    assert await etcdctl.said("get", "key", "--prefix", "--keys-only", "--limit", "2") == "key1\n\nkey2\n\n"
    descending = await etcdctl.said(
        "get", "key", "--prefix", "--order", "DESCEND", "--sort-by", "VALUE", "--print-value-only"
    )
    assert descending.split() == ["value5", "value4", "value3", "value2", "value1"]
    assert await etcdctl.said("del", "key5", "--prev-kv") == "1\nkey5\nvalue5\n"
    assert await etcdctl.said("get", "key5", "--rev", str(before + 5)) == "key5\nvalue5\n"
    assert await etcdctl.said("put", "key4", "--ignore-value", "--prev-kv") == "OK\nkey4\nvalue4\n"

    script = f'mod("key1") = "{before + 1}"\nversion("none") = "0"\n\nput key1 changed\nget key1\n\nget key2\n\n'
    assert await etcdctl.said("txn", typed=script) == "SUCCESS\n\nOK\n\nkey1\nchanged\n"
    assert (await etcdctl.said("txn", typed=script)).startswith("FAILURE\n\nkey2\n")

    assert await etcdctl.said("compaction", str(before + 6)) == f"compacted revision {before + 6}\n"
    compacted = await etcdctl.refused("get", "key1", "--rev", str(before + 3))
    assert "Error: etcdserver: mvcc: required revision has been compacted" in compacted
    future = await etcdctl.refused("get", "key1", "--rev", "300000")
    assert "Error: etcdserver: mvcc: required revision is a future revision" in future
    assert "required revision has been compacted" in await etcdctl.refused("compaction", str(before + 6))

    await etcdctl.said("snapshot", "save", str(tmp_path / "saved"), endpoints=etcdctl.first)
    assert (tmp_path / "saved").stat().st_size % 512 == 32


async def test_the_state_of_the_cluster(etcdctl: Etcdctl) -> None:
    statuses = await etcdctl.json("endpoint", "status")
    assert len({status["Status"]["leader"] for status in statuses}) == 1
    assert len({status["Status"]["header"]["cluster_id"] for status in statuses}) == 1
    assert all(status["Status"]["dbSize"] >= status["Status"].get("dbSizeInUse", 0) for status in statuses)
    await etcdctl.said("endpoint", "health", "--cluster")
    async with asyncio.timeout(20):
        while True:
            members = (await etcdctl.json("member", "list"))["members"]
            if all("clientURLs" in member for member in members):
                break
            await asyncio.sleep(0.1)
    assert {member["name"] for member in members} == set(NAMES)
    await etcdctl.said("defrag", "--cluster")
    await etcdctl.said("put", "a", "1")
    newest = str(await revision(etcdctl))
    hashes = {status["HashKV"]["hash"] for status in await etcdctl.json("endpoint", "hashkv", "--rev", newest)}
    assert len(hashes) == 1


async def test_alarms(etcdctl: Etcdctl) -> None:
    assert await etcdctl.said("alarm", "list") == ""
    assert await etcdctl.said("alarm", "disarm") == ""


async def test_leases(etcdctl: Etcdctl) -> None:
    lease = (await etcdctl.said("lease", "grant", "60")).split()[1]
    await etcdctl.said("put", "leased", "1", "--lease", lease)
    assert f"lease {lease} granted with TTL(60s), remaining(" in await etcdctl.said(
        "lease", "timetolive", lease, "--keys"
    )
    assert await etcdctl.said("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(60)\n"
    assert lease in (await etcdctl.said("lease", "list")).split()
    assert await etcdctl.said("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert await etcdctl.said("get", "leased") == ""
    errors = await etcdctl.refused("put", "leased", "1", "--lease", lease)
    assert "Error: etcdserver: requested lease not found" in errors
    assert "already expired" in await etcdctl.said("lease", "timetolive", lease)


async def test_watches(etcdctl: Etcdctl) -> None:
    before = await revision(etcdctl)
    await etcdctl.said("put", "w1", "old")
    watching = await etcdctl.start("watch", "w", "--prefix", "--rev", str(before), "--prev-kv")
    try:
        await etcdctl.said("put", "w1", "new")
        await etcdctl.said("del", "w1")
        lines = await lines_of(watching, 12)
    finally:
        await end(watching, kill=True)
    assert lines == ["PUT", "w1", "old", "PUT", "w1", "old", "w1", "new", "DELETE", "w1", "new", "w1"]


async def test_a_watch_tells_its_progress(etcdctl: Etcdctl) -> None:
    watching = await etcdctl.start("watch", "-i")
    assert watching.stdin is not None
    try:
        watching.stdin.write(b"watch quiet\nprogress\n")
        newest = await revision(etcdctl)
        while not (said := (await lines_of(watching, 1))[0]):
            pass
        assert said.startswith("progress notify: ")
        assert int(said.split()[-1]) <= newest
    finally:
        await end(watching, kill=True)


async def test_locks(etcdctl: Etcdctl, tmp_path: Path) -> None:
    holding = await etcdctl.start("lock", "mutex")
    try:
        key = (await lines_of(holding, 1))[0]
        assert key.startswith("mutex/")
        assert (await etcdctl.said("get", key, "--print-value-only")).strip() == ""
        waiting = await etcdctl.start("lock", "mutex", "touch", str(tmp_path / "locked"))
        async with asyncio.timeout(30):
            while len((await etcdctl.said("get", "mutex/", "--prefix", "--keys-only")).split()) < 2:
                await asyncio.sleep(0.05)
        assert not (tmp_path / "locked").exists()
    finally:
        await end(holding)
    async with asyncio.timeout(30):
        _, errors = await waiting.communicate()
    assert (tmp_path / "locked").exists(), errors


async def test_elections(etcdctl: Etcdctl) -> None:
    leading = await etcdctl.start("elect", "office", "me")
    try:
        key, value = await lines_of(leading, 2)
        assert key.startswith("office/")
        assert value == "me"
        listening = await etcdctl.start("elect", "-l", "office")
        try:
            assert await lines_of(listening, 2) == [key, "me"]
        finally:
            await end(listening)
    finally:
        await end(leading)


async def test_users(etcdctl: Etcdctl) -> None:
    await etcdctl.said("put", "mine/a", "1")
    for command in (
        ("user", "add", "root:rootpw"),
        ("user", "grant-role", "root", "root"),
        ("user", "add", "ann:annpw"),
        ("role", "add", "own"),
        ("role", "grant-permission", "--prefix=true", "own", "readwrite", "mine/"),
        ("user", "grant-role", "ann", "own"),
        ("auth", "enable"),
    ):
        code, _, errors = await etcdctl.run(*command)
        # The role root need not exist for a user to have it; etcdctl makes it when it enables users.
        assert code == 0, errors
    assert await etcdctl.said("--user", "ann:annpw", "put", "mine/b", "2") == "OK\n"
    assert await etcdctl.said("--user", "ann:annpw", "get", "mine/", "--prefix", "--print-value-only") == "1\n2\n"
    assert "mine/" in await etcdctl.said("--user", "ann:annpw", "role", "get", "own")
    for user, command, complaint in (
        ("ann:annpw", ("get", "other"), "etcdserver: permission denied"),
        ("ann:annpw", ("user", "list"), "etcdserver: permission denied"),
        ("ann:wrong", ("get", "mine/a"), "etcdserver: authentication failed, invalid user ID or password"),
    ):
        assert complaint in await etcdctl.refused("--user", user, *command)
    errors = await etcdctl.refused("get", "mine/a")
    assert "etcdserver: " in errors, "the certificate's common name is no user here"
    assert (await etcdctl.said("--user", "root:rootpw", "user", "list")).split() == ["ann", "root"]
    assert await etcdctl.said("--user", "root:rootpw", "auth", "disable") == "Authentication Disabled\n"
    assert await etcdctl.said("get", "mine/a", "--print-value-only") == "1\n"
