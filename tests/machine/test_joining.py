"""Machines become a cluster by `init` and `join`, with an unmodified kubectl, and leave it by `reset`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machines import NETWORK, ROOT, Site, TestMachine, site

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]
CONFIG = "/etc/raftsman/admin.kubeconfig"
POOL = f"{NETWORK}.200-{NETWORK}.210"
CHECKS = ("nodes", "pods", "nodeport", "dns", "policy", "loadbalancer")


@pytest.fixture
def network() -> Iterator[Site]:
    """A network without machines; its folder has a short path, for unix sockets."""
    directory = Path(tempfile.mkdtemp(prefix="raftsman-machines-", dir="/var/tmp"))
    try:
        with site(directory) as made:
            yield made
    finally:
        shutil.rmtree(directory)


def join_lines(printed: str) -> list[list[str]]:
    return [line.split() for line in re.findall(r"raftsman (join .*)", printed)]


def ask(machine: TestMachine, kubectl: Path, *arguments: str) -> str:
    done = machine.run(str(kubectl), "--kubeconfig", CONFIG, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_over(machine: TestMachine) -> str:
    """Return what of Raftsman is still on a machine; the sockets of ended shims in /run go with the next boot."""
    listing = "rm -rf /run/containerd; ls -A /etc/raftsman /var/lib/raftsman /run /var/log/raftsman /etc/sysctl.d 2>/dev/null; "
    listing += "nft list ruleset; ip -o address show lo; ip rule; ps -eo comm= | grep -E 'raftsman|python|containerd' ; ip -o link | grep -v ' lo\\| eth0'; ip route"
    return machine.run("sh", "-c", listing).stdout


def test_machines_join_a_cluster_and_leave_it(network: Site, kubectl: Path) -> None:
    first, second, third = (network.machine(name) for name in ("m1", "m2", "m3"))
    before = left_over(third)
    worker, control_plane = join_lines(
        first.raftsman("init", "--timers", "lab", "--upload-certs", "--load-balancer-pool", POOL)
    )
    second.raftsman(*control_plane)

    # A machine that is told another authority's hash does not join, and nothing of it is left.
    wrong = [word if not word.startswith("sha256:") else "sha256:" + "0" * 64 for word in worker]
    done = third.run("sh", "-c", f"{sys.executable} -m cli.main {' '.join(wrong)}")
    assert done.returncode == 1
    assert "the cluster's authority has the hash" in done.stderr
    assert left_over(third) == before
    third.raftsman(*worker)

    nodes = ask(first, kubectl, "get", "nodes", "--no-headers").splitlines()
    assert [line.split()[:3] for line in nodes] == [
        ["m1", "Ready", "control-plane"], ["m2", "Ready", "control-plane"], ["m3", "Ready", "<none>"],
    ]  # fmt: skip
    done = first.run(
        "env",
        f"KUBECTL={kubectl}",
        "CHECK_PATIENCE_S=60",
        "CHECK_REQUEST_S=1",
        str(ROOT / "vagrant" / "check"),
        *CHECKS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{first.logs()}\n{third.logs()}"

    line = first.raftsman("token", "create", "--ttl", "1h", "--description", "for a friend").split()
    made = line[line.index("--token") + 1]
    listed = first.raftsman("token", "list")
    assert re.search(rf"{made[:6]} +authentication,signing +0 h 59 min +for a friend", listed)
    assert f"jws-kubeconfig-{made[:6]}" in ask(
        first, kubectl, "-n", "kube-public", "get", "cm", "cluster-info", "-o", "yaml"
    )
    first.raftsman("token", "delete", made)
    assert made[:6] not in ask(first, kubectl, "-n", "kube-system", "get", "secrets")

    # The second control plane serves alone what the first one wrote, and takes its own leave.
    assert "m3" in ask(second, kubectl, "get", "nodes", "-o", "name")
    again = first.run("sh", "-c", f"{sys.executable} -m cli.main init")
    assert "this machine belongs to a cluster already" in again.stderr
    third.raftsman("reset")
    assert left_over(third) == before
    second.raftsman("reset")
    assert "m2" not in ask(first, kubectl, "get", "nodes", "-o", "name")


def test_check_is_shell() -> None:
    subprocess.run(["sh", "-n", ROOT / "vagrant" / "check"], check=True)
