"""Names, as a pod's own resolver finds them, in a cluster of three nodes."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.fabric import NAMESPACES
from net.netlink import inside
from tests.e2e.conftest import Lab, poll
from tests.net.dnspeer import Peer, saying

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]
IMAGE = "lab.raftsman.dev/busybox:1"
OBJECTS = f"""
apiVersion: v1
kind: Service
metadata: {{name: webs}}
spec:
  clusterIP: None
  selector: {{app: guestbook, tier: web}}
  ports: [{{name: http, port: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: elsewhere}}
spec: {{type: ExternalName, externalName: www.example.com}}
---
apiVersion: v1
kind: Pod
metadata: {{name: asker, labels: {{app: asker}}}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers:
  - name: asker
    image: {IMAGE}
    command:
    - sh
    - -c
    - |
      i=0
      while :; do
        nslookup web.default.svc.cluster.local > /tmp/said 2>&1 || {{ echo FAILED; cat /tmp/said; }}
        i=$((i+1)); echo asked $i; sleep 0.05
      done
"""


@pytest.fixture(scope="module")
def asker(lab: Lab) -> Iterator[str]:
    """A pod that asks for a Service all the time."""
    lab.kubectl("apply", "-f", "-", text=OBJECTS)
    try:
        lab.kubectl("wait", "--for=condition=Ready", "pod/asker", "--timeout=60s", timeout_s=90)
        yield "asker"
    finally:
        lab.kubectl("delete", "-f", "-", "--wait=false", "--ignore-not-found", text=OBJECTS)


def found(lab: Lab, pod: str, name: str, kind: str = "a") -> list[str]:
    """Return the lines of an answer."""
    done = lab.run_kubectl("exec", pod, "--", "nslookup", f"-type={kind}", name)
    return [line.strip() for line in done.stdout.splitlines()[2:] if line.strip()]


@contextmanager
def upstream_of(lab: Lab, node: str, directory: Path, *lines: str) -> Iterator[Peer]:
    """Let a node's resolver file name a server of ours on the fabric."""
    file = directory / "resolv.conf"
    file.write_text(f"nameserver {lab.cluster.gateway}\n")
    namespace = os.open(NAMESPACES / lab.cluster.namespace, os.O_RDONLY)

    def make(kind: int) -> socket.socket:
        with inside(namespace):
            return socket.socket(socket.AF_INET, kind)

    peer = Peer(saying(*lines), lab.cluster.gateway, make, port=53)
    try:
        done = lab.on_node(node, "mount", "--bind", str(file), "/etc/resolv.conf")
        assert done.returncode == 0, done.stderr
        yield peer
    finally:
        lab.on_node(node, "umount", "/etc/resolv.conf")
        peer.close()
        os.close(namespace)


def test_a_pod_resolves_what_it_needs(lab: Lab, asker: str, tmp_path: Path) -> None:
    file = lab.kubectl("exec", asker, "--", "cat", "/etc/resolv.conf").split("\n")
    assert "nameserver 169.254.20.10" in file
    assert "search default.svc.cluster.local svc.cluster.local cluster.local" in file[0]
    address = lab.get("service", "web")["spec"]["clusterIP"]
    assert f"Address: {address}" in found(lab, asker, "web.default.svc.cluster.local")
    assert f"Address: {address}" in found(lab, asker, "web")
    pods = {pod["status"]["podIP"] for pod in lab.pods("app=guestbook,tier=web")}
    poll(
        "the headless Service's pods",
        lambda: {f"Address: {ip}" for ip in pods} <= set(found(lab, asker, "webs.default.svc.cluster.local")),
    )
    services = found(lab, asker, "_http._tcp.webs.default.svc.cluster.local", "srv")
    assert len([line for line in services if "webs.default.svc.cluster.local" in line]) >= 3, services
    name = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert any("web.default.svc.cluster.local" in line for line in found(lab, asker, name, "ptr"))
    # The Service that charts name: its address stands on each node, and the proxy knows nothing of it.
    server = lab.get("service", "kube-dns", "-n", "kube-system")["spec"]["clusterIP"]
    done = lab.kubectl("exec", asker, "--", "nslookup", "web.default.svc.cluster.local", server)
    assert f"Address: {address}" in done
    with upstream_of(lab, "n2", tmp_path, "www.example.com. A 192.0.2.80", "other.example. A 192.0.2.81"):
        poll("an outside name", lambda: "Address: 192.0.2.81" in found(lab, asker, "other.example"))
        poll("an alias", lambda: "Address: 192.0.2.80" in found(lab, asker, "elsewhere.default.svc.cluster.local"))
    page = lab.kubectl("exec", asker, "--", "wget", "-qO-", "http://web/")
    assert page.startswith("guestbook served by")


DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-asker}
spec:
  podSelector: {matchLabels: {app: asker}}
  policyTypes: [Ingress, Egress]
"""


def test_a_pod_that_may_reach_nothing_still_finds_names(lab: Lab, asker: str) -> None:
    """Policies judge what is forwarded; the node's own DNS is not, so nobody is locked out of names by surprise."""
    fetch = ("exec", asker, "--", "timeout", "2", "wget", "-qO-", "http://web/")
    lab.kubectl("apply", "-f", "-", text=DENY_ALL)
    try:
        poll("the policy", lambda: lab.run_kubectl(*fetch).returncode != 0)
        assert any(line.startswith("Address:") for line in found(lab, asker, "web.default.svc.cluster.local"))
    finally:
        lab.kubectl("delete", "-f", "-", text=DENY_ALL)


def said(lab: Lab) -> str:
    """Return what the asking pod wrote, which its runtime keeps whether or not the node's agent lives."""
    folder = lab.cluster.node_directory(lab.cluster.node("n2")) / "pods"
    return "".join(path.read_text() for path in folder.glob("default_asker_*/asker/*.log"))


def ask_more(lab: Lab, times: int) -> None:
    """Wait until the pod has asked so many more times."""
    before = said(lab).count("asked")
    poll("more answers", lambda: said(lab).count("asked") > before + times)


@pytest.mark.usefixtures("asker")
def test_no_question_fails_while_the_agent_dies_and_comes_back(lab: Lab) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        first, server = lab.pid("n2/node"), lab.pid("n2/dns")
        os.kill(first, number)
        poll("the agent", lambda first=first: lab.pid("n2/node") != first)  # type: ignore[misc]
        ask_more(lab, 30)
        assert lab.pid("n2/dns") == server
    assert "FAILED" not in said(lab), said(lab)[-2000:]


@pytest.mark.usefixtures("asker")
def test_no_question_fails_when_the_server_itself_dies(lab: Lab) -> None:
    # Whoever restarts it has to be there: the agent was started anew a moment ago.
    poll("the agent", lambda: lab.run_kubectl("logs", "asker", "--tail=1").returncode == 0)
    first = lab.pid("n2/dns")
    os.kill(first, signal.SIGKILL)
    poll("another server", lambda: lab.pid("n2/dns") != first)
    ask_more(lab, 20)
    assert "FAILED" not in said(lab), said(lab)[-2000:]
