"""What a machine lacks is named in one sentence, and nothing is changed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import probe

VERSION_1: dict[str, str | None] = {f"{name}/cgroup.procs": "" for name in probe.CONTROLLERS}


def write_files(root: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "version", "missing"),
    [
        pytest.param({"cgroup.controllers": "cpu memory pids io"}, 2, [], id="unified"),
        pytest.param({"cgroup.controllers": "cpu io"}, 2, ["memory", "pids"], id="unified without memory"),
        pytest.param({**VERSION_1, "unified/cgroup.controllers": ""}, 1, [], id="hybrid"),
        pytest.param(
            {**VERSION_1, "memory/cgroup.procs": None, "memory/x": ""}, 1, ["memory"], id="memory not mounted"
        ),
        pytest.param({}, 1, ["cpu", "memory", "pids"], id="nothing mounted"),
    ],
)
def test_control_groups(tmp_path: Path, files: dict[str, str | None], version: int, missing: list[str]) -> None:
    write_files(tmp_path, files)
    assert probe.cgroup_version(tmp_path) == version
    assert probe.missing_controllers(tmp_path) == missing


@pytest.mark.parametrize(
    ("files", "stuck"),
    [
        pytest.param({"cgroup.subtree_control": ""}, [], id="the real root"),
        pytest.param({"cgroup.type": "domain", "cgroup.subtree_control": "cpu memory pids"}, [], id="handed down"),
        pytest.param({"cgroup.type": "domain", "cgroup.subtree_control": "", "cgroup.procs": ""}, [], id="empty"),
        pytest.param(
            {"cgroup.type": "domain", "cgroup.subtree_control": "pids", "cgroup.procs": "1\n"}, ["cpu", "memory"],
            id="a container's own root",
        ),
    ],
)  # fmt: skip
def test_controllers_that_a_container_cannot_hand_down(
    tmp_path: Path, files: dict[str, str | None], stuck: list[str]
) -> None:
    write_files(tmp_path, {"cgroup.controllers": "cpu memory pids", **files})
    assert probe.stuck_controllers(tmp_path) == stuck


@pytest.mark.root
@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param("mount -t tmpfs t /sys/fs/cgroup", "the cgroup controllers cpu, memory, pids are missing; ", id="no cgroups"),
        pytest.param(
            "for one in /sys/fs/cgroup/memory /sys/fs/cgroup; do mountpoint -q $one && mount -o remount,ro,bind $one; done",
            "memory.* are read-only; ", id="cgroups that cannot be written",
        ),
        pytest.param("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys", "/proc/sys is read-only, ", id="settings"),
        pytest.param("mount -t tmpfs -o ro t $RAFTSMAN_STATE_DIR", "cannot be written, where clusters are kept; ", id="state folder"),
        pytest.param("mount --bind /dev/null $(command -v containerd); PATH=/nowhere", "programs are missing; install them with: apt-get install .*containerd", id="programs"),
        pytest.param("set -- setpriv --bounding-set -sys_admin --inh-caps -sys_admin \"$@\"", "this machine refuses new namespaces; ", id="namespaces"),
        pytest.param("set -- setpriv --reuid 65534 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search \"$@\"", "this needs root, ", id="root"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_anything_is_changed(tmp_path: Path, prepare: str, said: str) -> None:
    script = f'{prepare}\nexec "$@"'
    code = f"import pathlib, lab.probe; lab.probe.probe(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "RAFTSMAN_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lab.probe.MissingCapabilityError: "), done.stderr
    assert re.search(said, last), last
    assert not list(tmp_path.iterdir())


def test_capability_mask() -> None:
    assert probe.effective_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n") >> probe.CAP_SYS_RESOURCE & 1 == 0
    assert probe.effective_capabilities("CapEff:\t000001ffffffffff\n") >> probe.CAP_SYS_RESOURCE & 1 == 1
    assert probe.effective_capabilities("") == 0


def test_first_missing_thing_is_told_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CHECKS", (lambda: None, lambda: "no wheel; buy one", lambda: "no boat; build one"))
    with pytest.raises(probe.MissingCapabilityError, match=r"^no wheel; buy one$"):
        probe.probe(tmp_path)
