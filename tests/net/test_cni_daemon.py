"""The real shim against the real daemon, in a node's namespace: add, delete, check, crash, collect."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from net.cni.plan import host_interface
from net.ipam.allocator import Attachment
from tests.net.topology import Fabric, Namespace, closing_all, eventually, run

pytestmark = pytest.mark.root

POD_CIDR = "10.244.1.0/24"
ROOT = Path(__file__).parents[2]


class Daemon:
    """The daemon as a process of its own in a node's namespace."""

    def __init__(self, node: Namespace, folder: Path, fabric: Fabric) -> None:
        self.node, self.folder, self.fabric = node, folder, fabric
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        folder = self.folder
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net={self.node.path}", sys.executable, "-m", "net.cni"),
                *("--pod-cidr", POD_CIDR, "--socket", folder / "run/cni.sock", "--state-dir", folder / "state"),
                *("--cni-conf-dir", folder / "conf", "--cni-bin-dir", folder / "bin"),
            ],
            cwd=ROOT,
        )
        eventually(lambda: (folder / "conf/10-raftsman.conflist").exists() and self.answers(), 20)

    def answers(self) -> bool:
        if not (self.folder / "bin/raftsman-cni").exists():
            return False
        return self.call("STATUS", None, cniVersion="1.1.0")[0] == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def call(
        self, command: str, pod: Namespace | None, container: str = "", plugin: str = "raftsman-cni", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Exec the shim as a runtime does; return its exit code and output."""
        environment = {"CNI_COMMAND": command, "PATH": "/usr/bin:/bin", "CNI_PATH": str(self.folder / "bin")}
        if pod is not None or container:
            environment |= {
                "CNI_CONTAINERID": container or (pod.name if pod else ""),
                "CNI_NETNS": pod.path if pod else "",
                "CNI_IFNAME": "lo" if plugin == "loopback" else "eth0",
                "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1",
            }
        configuration = {"cniVersion": "1.0.0", "name": "raftsman", "type": plugin, **more}
        done = subprocess.run(
            [self.folder / "bin" / plugin],
            input=json.dumps(configuration).encode(),
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}


@pytest.fixture
def made() -> Iterator[list[Namespace]]:
    with closing_all() as namespaces:
        yield namespaces


@contextmanager
def started(folder: Path) -> Iterator[Daemon]:
    with closing_all() as namespaces:
        fabric = Fabric()
        node = Namespace("node")
        namespaces.extend([fabric, node])
        fabric.join(node, "192.168.77.11")
        run(f"ip -n {node.name} link set eth0 mtu 1400")
        daemon = Daemon(node, folder, fabric)
        try:
            yield daemon
        finally:
            daemon.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that leave it as it was."""
    with started(tmp_path_factory.mktemp("cni")) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    # What a test leaves behind is dropped before its namespaces go.
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert shared.call("GC", None, cniVersion="1.1.0", **nothing) == (0, {})


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of one's own, to be killed."""
    with started(tmp_path) as daemon:
        yield daemon


def new_pod(made: list[Namespace], role: str = "pod") -> Namespace:
    pod = Namespace(role)
    made.append(pod)
    pod.ip("link set lo down")
    return pod


def address_of(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"])


def host_links(node: Namespace) -> list[str]:
    return [entry["ifname"] for entry in json.loads(node.ip("-j link")) if entry["ifname"].startswith("raft")]


def test_add_wires_a_pod_and_delete_removes_it(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    code, result = daemon.call("ADD", pod)
    assert code == 0
    assert result["cniVersion"] == "1.0.0"
    address, _, length = address_of(result).partition("/")
    assert address.startswith("10.244.1.")
    assert length == "32"
    assert result["ips"][0]["gateway"] == "169.254.1.1"
    assert result["interfaces"][1]["sandbox"] == pod.path
    daemon.node.serve("node", 9001)
    assert pod.ask("192.168.77.11", 9001) == ("node", address)
    pod.serve("pod", 8080)
    assert daemon.node.ask(address, 8080)[0] == "pod"
    assert "mtu 1400" in pod.ip("link show eth0")
    assert "UP" in pod.ip("link show lo")
    assert daemon.call("CHECK", pod, prevResult=result) == (0, {})
    assert daemon.call("DEL", pod) == (0, {})
    assert host_links(daemon.node) == []
    assert f"{address} " not in daemon.node.ip("route")
    assert daemon.call("DEL", pod) == (0, {})
    code, told = daemon.call("CHECK", pod, prevResult=result)
    assert (code, told["code"]) == (1, 3)


def test_add_again_gives_the_same_answer(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    assert daemon.call("ADD", pod) == daemon.call("ADD", pod)
    assert len(host_links(daemon.node)) == 1


def test_a_torn_attempt_is_completed(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    _, first = daemon.call("ADD", pod)
    pod.ip("addr flush dev eth0")
    code, told = daemon.call("CHECK", pod)
    assert (code, told["code"]) == (1, 101)
    assert "lacks the address" in told["msg"]
    assert daemon.call("ADD", pod) == (0, first)
    assert daemon.call("CHECK", pod) == (0, {})


def test_a_pod_cannot_speak_under_another_address(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    daemon.call("ADD", pod)
    daemon.node.serve("node", 9000)
    pod.ip("addr add 10.244.1.99/32 dev eth0")
    with pod.open_socket() as client:
        client.settimeout(0.5)
        client.bind(("10.244.1.99", 0))
        with pytest.raises(TimeoutError):
            client.connect(("192.168.77.11", 9000))


def test_loopback_is_served_too(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    code, result = daemon.call("ADD", pod, plugin="loopback")
    assert (code, address_of(result)) == (0, "127.0.0.1/8")
    assert "UP" in pod.ip("link show lo")


def test_delete_without_a_namespace_frees_the_address(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    daemon.call("ADD", pod)
    name = pod.name
    made.remove(pod)
    pod.close()
    assert daemon.call("DEL", None, container=name) == (0, {})
    assert state_claims(daemon) == []


def state_claims(daemon: Daemon) -> list[dict[str, Any]]:
    text = (daemon.folder / "state/addresses.state").read_text()
    claims: list[dict[str, Any]] = json.loads(text.split("\n", 1)[1])["claims"]
    return claims


@pytest.mark.parametrize(
    ("command", "change", "code"),
    [
        pytest.param("ADD", {"cniVersion": "9.9.9"}, 1, id="unknown version"),
        pytest.param("FETCH", {}, 4, id="unknown command"),
    ],
)
def test_bad_calls_get_the_specifications_codes(
    daemon: Daemon, made: list[Namespace], command: str, change: dict[str, Any], code: int
) -> None:
    exit_code, told = daemon.call(command, new_pod(made), **change)
    assert (exit_code, told["code"]) == (1, code)


def test_a_missing_namespace_is_refused_and_claims_nothing(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    pod.path = "/run/netns/none-such"
    code, told = daemon.call("ADD", pod)
    assert (code, told["code"]) == (1, 8)
    assert host_links(daemon.node) == []


def test_versions_are_told(daemon: Daemon) -> None:
    code, told = daemon.call("VERSION", None)
    assert code == 0
    assert "1.0.0" in told["supportedVersions"]


def test_gc_drops_what_the_runtime_does_not_name(daemon: Daemon, made: list[Namespace]) -> None:
    kept, dropped = new_pod(made), new_pod(made)
    daemon.call("ADD", kept)
    daemon.call("ADD", dropped)
    valid: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": kept.name, "ifname": "eth0"}]}
    assert daemon.call("GC", None, cniVersion="1.1.0", **valid) == (0, {})
    assert host_links(daemon.node) == [host_interface(Attachment(kept.name, "eth0"))]


def test_without_the_daemon_the_runtime_is_told_to_try_again(mortal: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    _, first = mortal.call("ADD", pod)
    mortal.kill()
    code, told = mortal.call("ADD", pod)
    assert (code, told["code"]) == (1, 11)
    mortal.start()
    assert mortal.call("ADD", pod) == (0, first)
    assert mortal.call("DEL", pod) == (0, {})


def test_a_hundred_parallel_adds_get_a_hundred_addresses(daemon: Daemon, made: list[Namespace]) -> None:
    pods = [new_pod(made, f"p{number}") for number in range(100)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pod: daemon.call("ADD", pod), pods))
    assert [code for code, _ in answers] == [0] * 100
    addresses = {address_of(result) for _, result in answers}
    assert len(addresses) == 100
    pods[0].serve("first", 8080)
    assert pods[99].ask(address_of(answers[0][1]).split("/")[0], 8080)[0] == "first"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = [code for code, _ in pool.map(lambda pod: daemon.call("DEL", pod), pods)]
    assert codes == [0] * 100
    assert host_links(daemon.node) == []
    assert state_claims(daemon) == []


def test_kill_in_the_middle_of_adds_leaks_nothing(mortal: Daemon, made: list[Namespace]) -> None:
    pods = [new_pod(made, f"p{number}") for number in range(24)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(mortal.call, "ADD", pod) for pod in pods]
        eventually(lambda: len(host_links(mortal.node)) >= 3)
        mortal.kill()
        answers = [call.result() for call in calls]
    assert any(code for code, _ in answers)
    assert all(told.get("code") == 11 for code, told in answers if code)
    # The runtime gives up on every pod of a failed call, and never says DEL, as after a crash of its own.
    survivors = [pod for pod, (code, _) in zip(pods, answers, strict=True) if code == 0]
    for pod in pods:
        if pod not in survivors:
            made.remove(pod)
            pod.close()
    mortal.start()
    wanted = {host_interface(Attachment(pod.name, "eth0")) for pod in survivors}
    eventually(lambda: {claim["containerId"] for claim in state_claims(mortal)} == {pod.name for pod in survivors})
    eventually(lambda: set(host_links(mortal.node)) == wanted)


def test_host_ports_lead_to_the_pod(mortal: Daemon, made: list[Namespace]) -> None:
    stranger, pod = Namespace("stranger"), new_pod(made)
    made.append(stranger)
    mortal.fabric.join(stranger, "192.168.77.100")
    pod.serve("pod", 80)
    mappings = [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]
    assert mortal.call("ADD", pod, runtimeConfig={"portMappings": mappings})[0] == 0
    assert stranger.ask("192.168.77.11", 8081) == ("pod", "192.168.77.100")
    assert mortal.node.ask("192.168.77.11", 8081)[0] == "pod"
    assert pod.ask("192.168.77.11", 8081)[0] == "pod"
    mortal.kill()
    assert stranger.ask("192.168.77.11", 8081)[0] == "pod"
    mortal.start()
    assert mortal.call("DEL", pod) == (0, {})
    with pytest.raises(ConnectionRefusedError):
        stranger.ask("192.168.77.11", 8081)


def test_an_interface_without_a_claim_is_collected(mortal: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    mortal.call("ADD", pod)
    mortal.kill()
    (mortal.folder / "state/addresses.state").unlink()
    mortal.start()
    eventually(lambda: host_links(mortal.node) == [])


def test_files_are_private(daemon: Daemon) -> None:
    assert os.stat(daemon.folder / "run/cni.sock").st_mode & 0o777 == 0o600
    assert os.stat(daemon.folder / "state/addresses.state").st_mode & 0o777 == 0o600
