"""Clients in Python: a library that others wrote, and the plain gRPC client among the examples."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.store.api.conftest import start
from tests.store.processes import ROOT
from tests.store.programs import etcd_server


async def run(*arguments: str) -> str:
    """Run a program of ours in a process of its own and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.root
async def test_a_kept_client_library(tmp_path: Path, etcds: dict[str, Path]) -> None:
    script = "tests/store/aetcd_session.py"
    async with start(tmp_path / "ours") as member:
        await run(script, str(member.serving.client_ports[0]))
    # The session is no easier than etcd makes it.
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as endpoint:
        await run(script, endpoint.rpartition(":")[2])


async def test_the_example(tmp_path: Path) -> None:
    async with start(tmp_path) as member:
        said = await run("examples/store_client.py", member.endpoint)
    assert said.splitlines() == [
        "created: True, at revision 2",
        "found: hello, version 1",
        "watched: put greeting at revision 2",
        "watched: deleted greeting at revision 3",
    ]
