"""A rolling update under a client; with preStop it sees no failure, without it does."""

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


def manifests(name: str, port: int, *, pre_stop: bool) -> str:
    """A Deployment whose server ends on SIGTERM at once, and its Service."""
    labels = {"app": name}
    container: dict[str, Any] = {
        "name": "web", "image": "lab.raftsman.dev/busybox:1",
        "command": ["sh", "-c", "echo $VERSION > /www/index.html; exec catatonit -- httpd -f -p 8080 -h /www"],
        "env": [{"name": "VERSION", "value": "one"}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }  # fmt: skip
    if pre_stop:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": 3}}}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 10, "containers": [container]}},
        },
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080, "nodePort": port}]},
    }  # fmt: skip
    return "\n---\n".join(json.dumps(manifest) for manifest in (deployment, service))


@dataclass
class Load:
    """A client that asks without pause from inside the fabric."""

    lab: Lab
    port: int
    answers: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    """The nodes through which an answer came."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(30)

    def _run(self) -> None:
        from lab.forwarder import enter_network_namespace

        enter_network_namespace(self.lab.cluster.namespace)  # this thread alone
        addresses = [self.lab.cluster.address(node) for node in self.lab.cluster.nodes]
        number = 0
        while not self._stop.is_set():
            number += 1
            address = addresses[number % len(addresses)]
            try:
                body = fetch(address, self.port)
                self.answers[body] = self.answers.get(body, 0) + 1
                self.answered.add(address)
            except OSError as error:
                self.failures.append(f"{time.monotonic():.3f} {address} {error!r}")


def fetch(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise OSError(f"no 200: {answer[:80]!r}")
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


def roll(lab: Lab, name: str, load: Load) -> None:
    """Update, wait, undo, wait; the client must have seen both versions."""
    lab.kubectl("set", "env", f"deployment/{name}", "VERSION=two")
    lab.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout_s=150)
    poll("the new version", lambda: load.answers.get("two", 0) > 20)
    lab.kubectl("rollout", "undo", f"deployment/{name}")
    lab.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout_s=150)
    seen = load.answers.get("one", 0)
    poll("the old version", lambda: load.answers.get("one", 0) > seen + 20)


@pytest.mark.parametrize(("pre_stop", "port"), [(True, 30181), (False, 30182)], ids=["with preStop", "without preStop"])
def test_rolling_update_and_undo(lab: Lab, pre_stop: bool, port: int) -> None:
    name = f"roll-{port}"
    lab.kubectl("apply", "-f", "-", text=manifests(name, port, pre_stop=pre_stop))
    try:
        lab.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout_s=150)
        with Load(lab, port) as load:
            poll("answers through each node", lambda: len(load.answered) == len(lab.cluster.nodes))
            load.failures.clear()  # rules of the new Service may have been on their way
            if pre_stop:
                roll(lab, name, load)
                assert not load.failures
            else:
                for _ in range(5):
                    roll(lab, name, load)
                    if load.failures:
                        break
                assert load.failures, "without preStop some request must fail, or the test above shows nothing"
    finally:
        lab.kubectl("delete", "deployment,service", name)
