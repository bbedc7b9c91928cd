"""The real shim against the real daemon, in a node's namespace: add, delete, check, crash, collect."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from net.cni.plan import host_interface
from net.ipam.allocator import Attachment
from tests.net.cni_process import Daemon, addresses_of, host_links, new_pod, started, state_claims
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def made() -> Iterator[list[Namespace]]:
    with closing_all() as namespaces:
        yield namespaces


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


def test_behaviour_36_add_wires_a_pod_and_delete_removes_it(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    code, result = daemon.call("ADD", pod)
    assert code == 0
    assert result["cniVersion"] == "1.0.0"
    address, _, length = str(result["ips"][0]["address"]).partition("/")
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


def test_behaviour_36_add_again_gives_the_same_answer(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    assert daemon.call("ADD", pod) == daemon.call("ADD", pod)
    assert len(host_links(daemon.node)) == 1


def test_behaviour_36_a_torn_attempt_is_completed(daemon: Daemon, made: list[Namespace]) -> None:
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
    assert (code, addresses_of(result)) == (0, ["127.0.0.1"])
    assert "UP" in pod.ip("link show lo")


def test_behaviour_36_delete_without_a_namespace_frees_the_address(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    daemon.call("ADD", pod)
    name = pod.name
    made.remove(pod)
    pod.close()
    assert daemon.call("DEL", None, container=name) == (0, {})
    assert state_claims(daemon) == []


@pytest.mark.parametrize(
    ("command", "change", "code"),
    [
        pytest.param("ADD", {"cniVersion": "9.9.9"}, 1, id="unknown version"),
        pytest.param("FETCH", {}, 4, id="unknown command"),
    ],
)
def test_behaviour_36_bad_calls_get_the_specifications_codes(
    daemon: Daemon, made: list[Namespace], command: str, change: dict[str, Any], code: int
) -> None:
    exit_code, told = daemon.call(command, new_pod(made), **change)
    assert (exit_code, told["code"]) == (1, code)


def test_behaviour_36_a_missing_namespace_is_refused_and_claims_nothing(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    pod.path = "/run/netns/none-such"
    code, told = daemon.call("ADD", pod)
    assert (code, told["code"]) == (1, 8)
    assert host_links(daemon.node) == []


def test_behaviour_36_versions_are_told(daemon: Daemon) -> None:
    code, told = daemon.call("VERSION", None)
    assert code == 0
    assert "1.0.0" in told["supportedVersions"]


def test_behaviour_36_gc_drops_what_the_runtime_does_not_name(daemon: Daemon, made: list[Namespace]) -> None:
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


def test_behaviour_37_a_hundred_parallel_adds_get_a_hundred_addresses(daemon: Daemon, made: list[Namespace]) -> None:
    pods = [new_pod(made, f"p{number}") for number in range(100)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pod: daemon.call("ADD", pod), pods))
    assert [code for code, _ in answers] == [0] * 100
    addresses = {address for _, result in answers for address in addresses_of(result)}
    assert len(addresses) == 100
    pods[0].serve("first", 8080)
    assert pods[99].ask(addresses_of(answers[0][1])[0], 8080)[0] == "first"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = [code for code, _ in pool.map(lambda pod: daemon.call("DEL", pod), pods)]
    assert codes == [0] * 100
    assert host_links(daemon.node) == []
    assert state_claims(daemon) == []


def test_behaviour_37_kill_in_the_middle_of_adds_leaks_nothing(mortal: Daemon, made: list[Namespace]) -> None:
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
