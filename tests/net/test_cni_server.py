"""The CNI daemon beside an API server: readiness, unknown pods, restarts without the hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import NODES, PODS
from net.cni import wiring
from net.cni.config import CniConfig
from net.cni.gate import NotYet, PodReference
from net.cni.server import CniServer, pod_cidrs_of
from tests.net.topology import Fabric, Namespace, Node, closing_all, eventually, run

pytestmark = pytest.mark.root


class Doorkeeper:
    """A gate that notes who comes, and refuses as long as it is told to."""

    def __init__(self) -> None:
        self.refusal = ""
        self.admitted: dict[str, tuple[PodReference, tuple[str, ...]]] = {}
        self.links_at_admission: list[str] = []

    async def admit(self, pod: PodReference, addresses: tuple[str, ...]) -> None:
        self.links_at_admission = sorted(wiring.pod_links())
        if self.refusal:
            raise NotYet(self.refusal)
        self.admitted[pod.uid] = (pod, addresses)

    def release(self, uid: str) -> None:
        self.admitted.pop(uid, None)


class Bench:
    """A node with the daemon in its thread, called without a shim."""

    def __init__(self, folder: Path, made: list[Namespace]) -> None:
        fabric = Fabric()
        made.append(fabric)
        self.node = Node(1, fabric)
        made.append(self.node)
        self.folder, self.made = folder, made
        self.gate = Doorkeeper()
        self.begin()

    def begin(self, client: bool = True) -> None:
        config = CniConfig(
            hostname_override="n1",
            cni_conf_dir=self.folder / "conf",
            cni_bin_dir=self.folder / "bin",
            socket=self.folder / "cni.sock",
            state_dir=self.folder / "state",
            pod_wait_s=0.3,
        )
        self.server = self.node.call(self._make(config, client))
        self.task = self.node.start(self.server.serve())
        eventually((self.folder / "cni.sock").exists)

    async def _make(self, config: CniConfig, client: bool) -> CniServer:
        return CniServer(config, self.node.client if client else None, self.gate)

    @property
    def conflist(self) -> Path:
        return self.folder / "conf/10-raftsman.conflist"

    def pod(self, name: str) -> Namespace:
        made = Namespace(name)
        self.made.append(made)
        return made

    def call(self, command: str, pod: Namespace, uid: str = "u1", name: str = "web") -> dict[str, Any]:
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}" + (f";K8S_POD_UID={uid}" if uid else ""),
        }
        words = b"".join(f"{key}={value}".encode() + b"\0" for key, value in variables.items())
        data = words + b"\0" + json.dumps({"cniVersion": "1.0.0", "name": "raftsman", "type": "raftsman-cni"}).encode()
        answer = self.node.call(self.server.daemon.handle(data))
        return json.loads(answer[1:]) if answer[1:] else {}

    def put_pod(self, name: str = "web", uid: str = "u1", **more: Any) -> None:
        self.node.put(
            PODS,
            {"metadata": {"name": name, "namespace": "default", "uid": uid, **more}, "spec": {"nodeName": "n1"}},
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing_all() as made:
        yield Bench(tmp_path, made)


def test_the_runtime_is_configured_once_the_node_has_its_cidr(bench: Bench) -> None:
    pod = bench.pod("pod")
    bench.put_pod()
    bench.node.put(NODES, {"metadata": {"name": "n1"}, "spec": {}})
    told = bench.call("ADD", pod)
    assert (told["code"], told["msg"]) == (11, "the node has no pod CIDR yet")
    assert not bench.conflist.exists()
    bench.node.put(NODES, bench.node.object())
    eventually(bench.conflist.exists)
    written = json.loads(bench.conflist.read_text())
    assert (written["cniVersion"], written["plugins"][0]["type"]) == ("1.0.0", "raftsman-cni")
    assert bench.call("ADD", pod)["ips"][0]["address"] == "10.244.1.2/32"


def test_another_nodes_cidr_is_not_ours(bench: Bench) -> None:
    bench.node.put(NODES, {"metadata": {"name": "n2"}, "spec": {"podCIDRs": ["10.244.2.0/24"]}})
    bench.node.put(NODES, bench.node.object())
    eventually(bench.conflist.exists)
    assert bench.server.allocator.cidrs == ("10.244.1.0/24",)


def test_an_unknown_pod_is_told_to_try_again_and_claims_nothing(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    eventually(bench.conflist.exists)
    told = bench.call("ADD", bench.pod("pod"))
    assert told["code"] == 11
    assert "uid u1 is not known yet" in told["msg"]
    assert not bench.server.allocator.claims


def test_add_waits_for_the_informer(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    eventually(bench.conflist.exists)
    timer = threading.Timer(0.1, bench.put_pod)
    timer.start()
    assert "ips" in bench.call("ADD", bench.pod("pod"))
    timer.join()


@pytest.mark.parametrize(
    ("pod", "uid", "known"),
    [
        pytest.param({"uid": "u1"}, "u1", True, id="by uid"),
        pytest.param({"uid": "u2"}, "u1", False, id="an older pod of the same name"),
        pytest.param({"uid": "u2"}, "", True, id="by name, from runtimes that know no uid"),
        pytest.param(
            {"uid": "u2", "annotations": {"kubernetes.io/config.mirror": "static"}}, "static", True, id="static pod"
        ),
    ],
)
def test_how_pods_are_known(bench: Bench, pod: dict[str, Any], uid: str, known: bool) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod(**pod)
    eventually(bench.conflist.exists)
    assert ("ips" in bench.call("ADD", bench.pod("pod"), uid)) is known


def test_a_restart_without_the_hub_still_removes_pods(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod()
    eventually(bench.conflist.exists)
    pod = bench.pod("pod")
    assert "ips" in bench.call("ADD", pod)
    bench.node.stop(bench.task)

    async def lose_hub() -> None:
        for _ in range(50):
            bench.node.client.fail_next("list")

    bench.node.call(lose_hub())
    bench.begin()
    assert bench.call("DEL", pod) == {}
    assert not bench.server.allocator.claims


@pytest.mark.parametrize(
    ("spec", "cidrs"),
    [
        pytest.param({"podCIDR": "10.1.0.0/24"}, ("10.1.0.0/24",), id="old field"),
        pytest.param({"podCIDRs": ["fd00::/64", "10.1.0.0/24"]}, ("fd00::/64", "10.1.0.0/24"), id="both families"),
        pytest.param({"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}, ("10.1.0.0/24",), id="one a family"),
        pytest.param({}, (), id="none yet"),
    ],
)
def test_pod_cidrs_of_a_node(spec: Object, cidrs: tuple[str, ...]) -> None:
    assert pod_cidrs_of({"spec": spec}) == cidrs


def test_calls_beyond_the_limit_are_told_to_try_again(bench: Bench) -> None:
    bench.server.daemon.calls_max = 0
    assert bench.call("VERSION", bench.pod("pod"))["code"] == 11


def test_a_pod_is_wired_only_after_its_isolation_is_in_force(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod(uid="mirror", annotations={"kubernetes.io/config.mirror": "u1"})
    eventually(bench.conflist.exists)
    pod = bench.pod("pod")
    bench.gate.refusal = "policies are not loaded"
    told = bench.call("ADD", pod)
    assert (told["code"], told["details"]) == (11, "policies are not loaded")
    assert not bench.server.allocator.claims
    assert bench.node.call(links()) == set()
    bench.gate.refusal = ""
    address = bench.call("ADD", pod)["ips"][0]["address"].partition("/")[0]
    assert bench.gate.admitted == {"mirror": (PodReference("default", "web", "mirror"), (address,))}
    assert bench.gate.links_at_admission == []
    assert bench.call("DEL", pod) == {}
    assert bench.gate.admitted == {}


async def links() -> set[str]:
    return wiring.pod_links()


def test_what_the_hub_and_the_runtime_have_forgotten_is_collected(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod()
    eventually(bench.conflist.exists)
    pod = bench.pod("pod")
    bench.call("ADD", pod)
    collect = bench.server.daemon.collect_garbage
    bench.node.remove(PODS, "web", "default")
    eventually(lambda: bench.server.daemon.pod_is_gone and bench.server.daemon.pod_is_gone("u1"))
    assert bench.node.call(collect()) == 0, "its sandbox is there: the runtime says DEL"
    bench.put_pod()
    eventually(lambda: bench.server.daemon.pod_is_gone and not bench.server.daemon.pod_is_gone("u1"))
    run(f"umount --lazy {pod.path}")  # the namespace lives on in our descriptor
    assert bench.node.call(collect()) == 0, "the hub has its pod"
    bench.node.remove(PODS, "web", "default")
    eventually(lambda: bench.server.daemon.pod_is_gone and bench.server.daemon.pod_is_gone("u1"))
    assert bench.node.call(collect()) == 1
    assert bench.node.call(links()) == set()


def test_a_pods_second_sandbox_keeps_its_isolation(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod()
    eventually(bench.conflist.exists)
    first, second = bench.pod("first"), bench.pod("second")
    bench.call("ADD", first)
    bench.call("ADD", second)
    bench.call("DEL", first)
    assert list(bench.gate.admitted) == ["u1"]
    bench.call("DEL", second)
    assert bench.gate.admitted == {}


def test_standing_pods_pass_the_gate_again_after_a_restart(bench: Bench) -> None:
    bench.node.put(NODES, bench.node.object())
    bench.put_pod()
    eventually(bench.conflist.exists)
    bench.call("ADD", bench.pod("pod"))
    before = bench.gate.admitted.copy()
    bench.node.stop(bench.task)
    bench.gate = Doorkeeper()
    bench.gate.refusal = "starting"
    bench.begin()
    bench.gate.refusal = ""
    eventually(lambda: bench.gate.admitted == before)
