"""NetworkPolicy as a person has it: kubectl apply, and the demo's pods are closed to strangers within a second or so."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(300)]
EXAMPLE = str(ROOT / "examples/networkpolicy.yaml")
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "labels": {"app": "guestbook"}},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}
STRANGER = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "stranger"},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "lab.raftsman.dev/busybox:1", "command": ["sleep", "1000"]}],
    },
}


@pytest.fixture
def stranger(lab: Lab) -> Iterator[str]:
    try:
        lab.kubectl("apply", "-f", "-", text=json.dumps(STRANGER))
        lab.kubectl("wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s", timeout_s=90)
        yield "stranger"
    finally:
        lab.kubectl("delete", "pod", "stranger", "--ignore-not-found")
        lab.kubectl("delete", "networkpolicy", "-l", "app=guestbook")


def page(lab: Lab) -> str:
    """Return what the demo says to the world; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{lab.cluster.demo_port}/", timeout=2) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return ""


def reaches_entries(lab: Lab, pod: str) -> bool:
    """Tell whether a pod gets an answer of the Service that keeps the entries."""
    # Not wget's own -T: some builds of busybox crash on it.
    script = "timeout 2 wget -qO- http://$ENTRIES_SERVICE_HOST/cgi-bin/healthz.cgi"
    return lab.run_kubectl("exec", pod, "--", "sh", "-c", script).returncode == 0


def is_ready(pod: dict[str, Any]) -> bool:
    """Tell whether a pod is Ready."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])


def test_the_guestbook_is_closed_and_opened(lab: Lab, stranger: str) -> None:
    web = lab.pods("app=guestbook,tier=web")[0]["metadata"]["name"]
    assert page(lab).startswith("guestbook served by")
    poll("the entries to strangers", lambda: reaches_entries(lab, stranger))
    poll("the entries to the pages", lambda: reaches_entries(lab, web))
    lab.kubectl("apply", "-f", "-", text=json.dumps(DENY))
    poll("the world to be kept out", lambda: not page(lab))
    assert not reaches_entries(lab, stranger)
    lab.kubectl("apply", "-f", EXAMPLE)
    poll("the pages", lambda: page(lab).startswith("guestbook served by"))
    poll("the entries to the pages", lambda: reaches_entries(lab, web))
    assert not reaches_entries(lab, stranger)
    # The kubelets' probes come from the pods' own nodes, and pass.
    poll("ready pods", lambda: all(is_ready(pod) for pod in lab.pods("app=guestbook")))
    lab.kubectl("delete", "networkpolicy", "-l", "app=guestbook")
    poll("the entries to strangers", lambda: reaches_entries(lab, stranger))


def test_what_is_wrong_is_told_as_kubernetes_does(lab: Lab) -> None:
    bad = {
        **DENY,
        "spec": {
            "podSelector": {},
            "ingress": [
                {
                    "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}],
                    "ports": [{"port": 80, "endPort": 79}],
                }
            ],
        },
    }
    done = lab.run_kubectl("apply", "-f", "-", text=json.dumps(bad))
    assert done.returncode == 1
    assert "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`" in done.stderr
    assert 'from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`' in done.stderr
