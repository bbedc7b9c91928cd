"""Behaviour 37: the daemon is killed at each step of ADD and of DEL in turn; nothing leaks, no address is given twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from net.cni.plan import host_interface
from net.ipam.allocator import Attachment
from tests.net.cni_process import BOTH, ROOT, host_links
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root

STEPS_MAX = 60
SETS = ("any4", "any6", "self4", "self6")


class Mortal:
    """Daemons in a node's namespace, one after another."""

    def __init__(self, folder: Path, made: list[Namespace]) -> None:
        self.folder, self.made = folder, made
        self.node = Namespace("node")
        made.append(self.node)
        program = ("tests.net.cni_zygote", str(folder), BOTH)
        command = ["nsenter", f"--net={self.node.path}", sys.executable, "-m", *program]
        self._zygote = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pid = 0

    def start(self, deadly: int = 0) -> None:
        """Fork a daemon and wait until it answers."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        (self.folder / "cni.sock").unlink(missing_ok=True)
        self._zygote.stdin.write(f"{deadly}\n")
        self._zygote.stdin.flush()
        self._pid = int(self._zygote.stdout.readline())
        eventually((self.folder / "conf/10-raftsman.conflist").exists)
        eventually(lambda: self.call("VERSION") is not None)

    def kill(self) -> None:
        """Kill the daemon, if it lives still."""
        assert self._zygote.stdout is not None
        if self._pid:
            with suppress(ProcessLookupError):  # it died by itself, as it was told to
                os.kill(self._pid, signal.SIGKILL)
            assert self._zygote.stdout.readline() == "gone\n"
            self._pid = 0

    def close(self) -> None:
        """End daemon and zygote."""
        self.kill()
        self._zygote.communicate(timeout=20)

    def call(self, command: str, pod: Namespace | None = None, **more: Any) -> dict[str, Any] | None:
        """Call as the shim does; None where the daemon died before it answered."""
        variables = {"CNI_COMMAND": command}
        if pod is not None:
            variables |= {"CNI_CONTAINERID": pod.name, "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0"}
        words = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())
        asked = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
        configuration = {"cniVersion": "1.1.0", "name": "n", "type": "raftsman-cni", "runtimeConfig": asked, **more}
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            try:
                client.connect(str(self.folder / "cni.sock"))
                client.sendall(words + b"\0" + json.dumps(configuration).encode())
                client.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := client.recv(65536):
                    answer += piece
            except OSError:
                return None
        if not answer:
            return None
        told: dict[str, Any] = json.loads(answer[1:]) if answer[1:] else {}
        assert answer[:1] == b"0", told
        return told

    def claims(self) -> dict[str, list[str]]:
        """Return the addresses on disk by container."""
        text = (self.folder / "state/addresses.state").read_text().split("\n", 1)[1]
        return {entry["containerId"]: entry["addresses"] for entry in json.loads(text)["claims"]}

    def host_port_elements(self) -> int:
        """Return how many elements the host ports' sets have."""
        listed = self.node.run("nft -j list table inet raftsman-hostports")
        entries = [entry.get("map") or entry.get("set") or {} for entry in json.loads(listed)["nftables"]]
        return sum(len(entry.get("elem") or ()) for entry in entries if entry.get("name") in SETS)

    def pod(self, role: str) -> Namespace:
        """Make a sandbox."""
        made = Namespace(role)
        self.made.append(made)
        return made


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    with closing_all() as made:
        world = Mortal(tmp_path, made)
        try:
            yield world
        finally:
            world.close()


def bystander_of(world: Mortal) -> tuple[Namespace, dict[str, Any]]:
    """Wire a pod that must not notice anything."""
    world.start()
    pod = world.pod("bystander")
    result = world.call("ADD", pod, runtimeConfig={"portMappings": [{"hostPort": 9090, "containerPort": 80}]})
    assert result is not None
    world.kill()
    return pod, result


def assert_alone(world: Mortal, pod: Namespace, result: dict[str, Any]) -> None:
    """Check that the bystander is whole and that nothing of anybody else is left."""
    assert world.call("CHECK", pod, prevResult=result) == {}
    eventually(lambda: list(world.claims()) == [pod.name])
    eventually(lambda: host_links(world.node) == [host_interface(Attachment(pod.name, "eth0"))])
    routes = json.loads(world.node.ip("-j route")) + json.loads(world.node.ip("-j -6 route"))
    ours = [entry["dst"] for entry in routes if entry.get("protocol") in ("83", 83)]
    assert ours == world.claims()[pod.name]
    eventually(lambda: world.host_port_elements() == 4)


@pytest.mark.parametrize("runtime", ["tries again", "gives up"])
def test_behaviour_37_killed_at_each_step_of_add(mortal: Mortal, runtime: str) -> None:
    bystander, held = bystander_of(mortal)
    for deadly in range(1, STEPS_MAX):
        pod = mortal.pod(f"p{deadly}")
        mortal.start(deadly)
        answered = mortal.call("ADD", pod)
        mortal.kill()
        if runtime == "gives up":  # nobody says DEL, and the namespace goes
            mortal.made.remove(pod)
            pod.close()
            mortal.start()
        else:
            mortal.start()
            result = mortal.call("ADD", pod)
            assert result is not None
            addresses = {entry["address"] for entry in result["ips"]}
            assert not addresses & {entry["address"] for entry in held["ips"]}
            assert answered is None or answered == result
            assert mortal.call("CHECK", pod, prevResult=result) == {}
            assert mortal.call("DEL", pod) == {}
        assert_alone(mortal, bystander, held)
        mortal.kill()
        if answered is not None:
            assert deadly > 15, "the steps are not counted"
            return
    raise AssertionError("ADD never came to its end")


def test_behaviour_37_killed_at_each_step_of_del(mortal: Mortal) -> None:
    bystander, held = bystander_of(mortal)
    for deadly in range(1, STEPS_MAX):
        pod = mortal.pod(f"p{deadly}")
        mortal.start()
        assert mortal.call("ADD", pod) is not None
        mortal.kill()
        mortal.start(deadly)
        answered = mortal.call("DEL", pod)
        mortal.kill()
        mortal.start()
        assert mortal.call("DEL", pod) == {}
        assert_alone(mortal, bystander, held)
        mortal.kill()
        if answered is not None:
            assert deadly > 8, "the steps are not counted"
            return
    raise AssertionError("DEL never came to its end")
