"""An address for a Service, reached from outside the cluster, and kept when the node that answers for it dies."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab.fabric import NAMESPACES
from tests.e2e.conftest import Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: outside-web}
spec:
  type: LoadBalancer
  selector: {app: guestbook, tier: web}
  ports: [{name: http, port: 8000, targetPort: http}]
"""


@pytest.fixture
def address(lab: Lab) -> Iterator[str]:
    """The address of a Service in front of the guestbook, answered for by a worker."""
    lab.kubectl("label", "node", "n1", f"{EXCLUDED}=true")
    lab.kubectl("apply", "-f", "-", text=SERVICE)
    try:
        yield poll("an address", lambda: given(lab))
    finally:
        lab.kubectl("delete", "service", "outside-web", "--timeout=30s")
        lab.kubectl("label", "node", "n1", f"{EXCLUDED}-")


def given(lab: Lab) -> str:
    """Return the Service's address; empty before it has one."""
    ingress: list[dict[str, Any]] = lab.get("service", "outside-web")["status"]["loadBalancer"].get("ingress") or [{}]
    return str(ingress[0].get("ip") or "")


def holder(lab: Lab) -> str:
    """Return the node that answers."""
    found = lab.get("leases", "-n", "raftsman-announce")["items"]
    return str(found[0]["spec"].get("holderIdentity") or "") if found else ""


def page(lab: Lab, address: str) -> str:
    """Fetch the page from the fabric, which is outside the cluster; empty where nobody answers in time."""
    inside = ["nsenter", f"--net={NAMESPACES / lab.cluster.namespace}"]
    command = [*inside, "timeout", "2", "busybox", "wget", "-qO-", f"http://{address}:8000/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout


def seen_mac(lab: Lab, address: str) -> str:
    """Return the Ethernet address that the outside has for an address, or gets when it asks."""
    page(lab, address)
    command = ["ip", "-n", lab.cluster.namespace, "neigh", "show", address]
    words = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def test_an_address_is_reached_from_outside_and_outlives_its_node(lab: Lab, address: str) -> None:
    assert address.startswith(str(lab.cluster.fabric.network_address).rpartition(".")[0])
    poll("the page", lambda: page(lab, address).startswith("guestbook served by"))
    first = poll("a node that answers", lambda: holder(lab))
    assert first in ("n2", "n3")
    before = seen_mac(lab, address)
    lab.raftsman("node", "kill", first)
    try:
        other = {"n2": "n3", "n3": "n2"}[first]
        poll("the other node", lambda: holder(lab) == other, 30)
        poll("its Ethernet address", lambda: seen_mac(lab, address) not in ("", before), 30)
        poll("the page again", lambda: page(lab, address).startswith("guestbook served by"), 60)
    finally:
        lab.raftsman("node", "start", first)


def test_an_address_is_given_back(lab: Lab) -> None:
    lab.kubectl("apply", "-f", "-", text=SERVICE)
    first = poll("an address", lambda: given(lab))
    lab.kubectl("patch", "service", "outside-web", "-p", '{"spec":{"type":"ClusterIP"}}')
    poll("nothing left of it", lambda: not given(lab))
    poll("the lease's end", lambda: not lab.get("leases", "-n", "raftsman-announce")["items"])
    metadata = lab.get("service", "outside-web")["metadata"]
    assert not metadata.get("finalizers")
    lab.kubectl("patch", "service", "outside-web", "-p", '{"spec":{"type":"LoadBalancer"}}')
    assert poll("an address again", lambda: given(lab)) == first
    poll("events", lambda: "EnsuredLoadBalancer" in lab.kubectl("get", "events"))
    lab.kubectl("delete", "service", "outside-web", "--timeout=30s")
