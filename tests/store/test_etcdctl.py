"""An unmodified etcdctl against three real members."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.processes import NAMES, StoreCluster

pytestmark = pytest.mark.root


class Etcdctl:
    """The command, pointed at a cluster."""

    def __init__(self, cluster: StoreCluster) -> None:
        program = shutil.which("etcdctl")
        assert program, "etcd-client is not installed"
        directory = cluster.directory
        self.endpoints = cluster.endpoints
        self.command = (
            program,
            *("--cacert", str(directory / "ca.crt")),
            *("--cert", str(directory / "client.crt"), "--key", str(directory / "client.key")),
        )

    async def start(self, *arguments: str, endpoints: str = "") -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        return await asyncio.create_subprocess_exec(
            *self.command,
            "--endpoints",
            endpoints or self.endpoints,
            *arguments,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
        )

    async def run(self, *arguments: str, typed: str = "", endpoints: str = "") -> tuple[int, str, str]:
        process = await self.start(*arguments, endpoints=endpoints)
        async with asyncio.timeout(30):
            output, errors = await process.communicate(typed.encode())
        return process.returncode or 0, output.decode(), errors.decode()

    async def said(self, *arguments: str, typed: str = "", endpoints: str = "") -> str:
        """What it prints when it succeeds."""
        code, output, errors = await self.run(*arguments, typed=typed, endpoints=endpoints)
        assert code == 0, errors
        return output

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.said(*arguments, "-w", "json"))


@pytest.fixture
async def etcdctl(tmp_path: Path) -> AsyncIterator[Etcdctl]:
    cluster = StoreCluster(tmp_path)
    try:
        for name in NAMES:
            await cluster.start(name)
        async with asyncio.timeout(30):
            await cluster.leader()
        yield Etcdctl(cluster)
    finally:
        await cluster.stop()


async def test_a_session(etcdctl: Etcdctl, tmp_path: Path) -> None:
    for number in range(1, 6):
        assert await etcdctl.said("put", f"key{number}", f"value{number}") == "OK\n"
    assert await etcdctl.said("get", "key1") == "key1\nvalue1\n"
    assert await etcdctl.said("get", "key", "--prefix", "--keys-only", "--limit", "2") == "key1\n\nkey2\n\n"
    descending = await etcdctl.said(
        "get", "key", "--prefix", "--order", "DESCEND", "--sort-by", "VALUE", "--print-value-only"
    )
    assert descending.split() == ["value5", "value4", "value3", "value2", "value1"]
    assert await etcdctl.said("del", "key5", "--prev-kv") == "1\nkey5\nvalue5\n"
    assert await etcdctl.said("get", "key5", "--rev", "6") == "key5\nvalue5\n"

    script = 'mod("key1") = "2"\nversion("none") = "0"\n\nput key1 changed\nget key1\n\nget key2\n\n'
    assert await etcdctl.said("txn", typed=script) == "SUCCESS\n\nOK\n\nkey1\nchanged\n"
    assert (await etcdctl.said("txn", typed=script)).startswith("FAILURE\n\nkey2\n")

    assert await etcdctl.said("compaction", "7") == "compacted revision 7\n"
    code, _, errors = await etcdctl.run("get", "key1", "--rev", "3")
    assert code != 0
    assert "Error: etcdserver: mvcc: required revision has been compacted" in errors
    _, _, errors = await etcdctl.run("get", "key1", "--rev", "300")
    assert "Error: etcdserver: mvcc: required revision is a future revision" in errors

    await etcdctl.said("snapshot", "save", str(tmp_path / "saved"), endpoints=etcdctl.endpoints.split(",")[0])
    assert (tmp_path / "saved").stat().st_size % 512 == 32


async def test_the_state_of_the_cluster(etcdctl: Etcdctl) -> None:
    statuses = await etcdctl.json("endpoint", "status")
    assert {status["Status"]["version"] for status in statuses} == {"3.4.30"}
    assert len({status["Status"]["leader"] for status in statuses}) == 1
    assert len({status["Status"]["header"]["cluster_id"] for status in statuses}) == 1
    await etcdctl.said("endpoint", "health")
    async with asyncio.timeout(20):
        while True:
            members = (await etcdctl.json("member", "list"))["members"]
            if all("clientURLs" in member for member in members):
                break
            await asyncio.sleep(0.1)
    assert {member["name"] for member in members} == set(NAMES)
    await etcdctl.said("defrag")
    assert await etcdctl.said("alarm", "list") == ""
    await etcdctl.said("put", "a", "1")
    hashes = {status["HashKV"]["hash"] for status in await etcdctl.json("endpoint", "hashkv", "--rev", "2")}
    assert len(hashes) == 1


async def test_leases(etcdctl: Etcdctl) -> None:
    lease = (await etcdctl.said("lease", "grant", "60")).split()[1]
    await etcdctl.said("put", "leased", "1", "--lease", lease)
    assert f"lease {lease} granted with TTL(60s), remaining(" in await etcdctl.said(
        "lease", "timetolive", lease, "--keys"
    )
    assert await etcdctl.said("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(60)\n"
    assert await etcdctl.said("lease", "list") == f"found 1 leases\n{lease}\n"
    assert await etcdctl.said("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert await etcdctl.said("get", "leased") == ""
    code, _, errors = await etcdctl.run("put", "leased", "1", "--lease", lease)
    assert code != 0
    assert "Error: etcdserver: requested lease not found" in errors


async def test_watches(etcdctl: Etcdctl) -> None:
    await etcdctl.said("put", "w1", "old")
    watching = await etcdctl.start("watch", "w", "--prefix", "--rev", "1", "--prev-kv")
    assert watching.stdout is not None
    try:
        await etcdctl.said("put", "w1", "new")
        await etcdctl.said("del", "w1")
        lines: list[str] = []
        async with asyncio.timeout(20):
            while len(lines) < 12:
                lines.append((await watching.stdout.readline()).decode().strip())
    finally:
        watching.kill()
        await watching.wait()
    assert lines == ["PUT", "w1", "old", "PUT", "w1", "old", "w1", "new", "DELETE", "w1", "new", "w1"]


async def test_a_lock(etcdctl: Etcdctl) -> None:
    holding = await etcdctl.start("lock", "mutex")
    assert holding.stdout is not None
    try:
        async with asyncio.timeout(20):
            key = (await holding.stdout.readline()).decode().strip()
        assert key.startswith("mutex/")
        assert (await etcdctl.said("get", key, "--print-value-only")).strip() == ""
    finally:
        holding.terminate()
        await holding.wait()


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
    for user, command, complaint in (
        ("ann:annpw", ("get", "other"), "etcdserver: permission denied"),
        ("ann:annpw", ("user", "list"), "etcdserver: permission denied"),
        ("ann:wrong", ("get", "mine/a"), "etcdserver: authentication failed, invalid user ID or password"),
    ):
        code, _, errors = await etcdctl.run("--user", user, *command)
        assert code != 0
        assert complaint in errors
    code, _, errors = await etcdctl.run("get", "mine/a")
    assert code != 0
    assert "etcdserver: " in errors, "the certificate's common name is no user here"
    assert await etcdctl.said("--user", "root:rootpw", "auth", "disable") == "Authentication Disabled\n"
    assert await etcdctl.said("get", "mine/a", "--print-value-only") == "1\n"


async def test_an_election(etcdctl: Etcdctl) -> None:
    leading = await etcdctl.start("elect", "office", "me")
    assert leading.stdout is not None
    try:
        async with asyncio.timeout(20):
            key = (await leading.stdout.readline()).decode().strip()
            assert (await leading.stdout.readline()).decode().strip() == "me"
        assert key.startswith("office/")
    finally:
        leading.terminate()
        await leading.wait()
