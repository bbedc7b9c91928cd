"""A three-member cluster is saved by etcdctl and restored as another one: everything is there, and work goes on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.store.processes import NAMES, ROOT, StoreCluster
from tests.store.programs import Etcdctl, etcdctl_of

pytestmark = pytest.mark.root


async def restore(cluster: StoreCluster, name: str, file: Path) -> str:
    """Run the command for one member of a cluster that has not started yet, and return what it says."""
    urls = {one: f"https://127.0.0.1:{port}" for one, port in cluster.peer_ports.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "store", "restore", str(file), "--name", name),
        *("--data-dir", str(cluster.directory / f"{name}.data"), "--initial-advertise-peer-urls", urls[name]),
        *("--initial-cluster", ",".join(f"{one}={url}" for one, url in urls.items())),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def hashes(etcdctl: Etcdctl, revision: int) -> set[tuple[int, int]]:
    found = await etcdctl.json("endpoint", "hashkv", "--rev", str(revision))
    return {(one["HashKV"]["hash"], one["HashKV"]["compact_revision"]) for one in found}


async def start(cluster: StoreCluster) -> None:
    for name in NAMES:
        await cluster.start(name)
    async with asyncio.timeout(60):
        await cluster.leader()


async def test_a_saved_cluster_comes_back_as_another(tmp_path: Path, etcdctls: dict[str, Path]) -> None:
    old, new = StoreCluster(tmp_path / "old"), StoreCluster(tmp_path / "new")
    file = tmp_path / "backup.db"
    try:
        await start(old)
        etcdctl = etcdctl_of(etcdctls["newest"], old)
        lease = (await etcdctl.said("lease", "grant", "600")).split()[1]
        for number in range(12):
            await etcdctl.said(
                "put", f"key/{number % 9}", f"value {number}", "--lease", lease if 3 < number < 7 else "0"
            )
        await etcdctl.said("del", "key/7")
        await etcdctl.said("compaction", "6", endpoints=etcdctl.first)
        before = await etcdctl.json("get", "", "--prefix")
        revision = before["header"]["revision"]
        sums = await hashes(etcdctl, revision)
        assert len(sums) == 1
        await etcdctl.said("snapshot", "save", str(file), endpoints=etcdctl.first)
    finally:
        await old.stop()
    try:
        said = {await restore(new, name, file) for name in NAMES}
        assert len({one.split()[-1] for one in said}) == 1, "one cluster id"
        await start(new)
        etcdctl = etcdctl_of(etcdctls["newest"], new)
        after = await etcdctl.json("get", "", "--prefix")
        assert after["kvs"] == before["kvs"]
        assert (after["count"], after["header"]["revision"]) == (before["count"], revision)
        assert after["header"]["cluster_id"] != before["header"]["cluster_id"]
        assert await hashes(etcdctl, revision) == sums
        assert "required revision has been compacted" in await etcdctl.refused("get", "key/1", "--rev", "4")
        keys = await etcdctl.said("lease", "timetolive", lease, "--keys")
        assert "granted with TTL(600s)" in keys
        assert (await etcdctl.json("put", "key/7", "again"))["header"]["revision"] == revision + 1
        await etcdctl.said("lease", "revoke", lease)
        assert await etcdctl.said("get", "key/5") == ""
        # What was restored must last: through a restart, on the new log alone.
        for name in NAMES:
            await new.kill(name)
        await start(new)
        assert await etcdctl.said("get", "key/7", "--print-value-only") == "again\n"
        newest = (await etcdctl.json("get", "key/7"))["header"]["revision"]
        assert newest == revision + 2
        assert len(await hashes(etcdctl, newest)) == 1
    finally:
        await new.stop()
