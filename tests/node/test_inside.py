"""Runs the tests of `inside` in namespaces of their own, as PID 1's child, so that nothing of them can stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("containerd", "runc", "ctr", "busybox", "catatonit", "unshare", "nsenter", "ip")
SUITES = sorted(path.stem for path in (HERE / "inside").glob("*.py") if path.stem != "conftest")

SCRIPT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
exec "$@"
"""


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A cgroup of the test's own, gone at the end."""
    name = f"/raftsman-test/{os.getpid()}"
    yield name
    deadline = time.monotonic() + 10
    hierarchies = [CGROUPS, *(entry for entry in CGROUPS.iterdir() if entry.is_dir())]
    for top in [hierarchy / name.lstrip("/") for hierarchy in hierarchies]:
        folders = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for folder in [*folders, top, top.parent]:
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline or folder == top.parent:
                        break
                    time.sleep(0.05)


@pytest.mark.root
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES)
def test_inside(suite: str, tmp_path: Path, cgroup: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"missing programs: {', '.join(missing)}"
    root = tmp_path / "node"
    root.mkdir()
    environment = {
        **os.environ,
        "RAFTSMAN_NODE_TEST": str(root),
        "RAFTSMAN_NODE_CACHE": str(tmp_path_factory.getbasetemp()),
        "RAFTSMAN_NODE_CGROUP": cgroup,
    }
    command = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["--propagation", "private", "catatonit", "--", "sh", "-c", SCRIPT, "inside"]
    command += [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "--timeout", "150"]
    command += ["--basetemp", str(tmp_path / "inner"), str(HERE / "inside" / f"{suite}.py")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    if done.returncode:
        pytest.fail(f"{done.stdout[-12000:]}\n{done.stderr[-2000:]}", pytrace=False)
