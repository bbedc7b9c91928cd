"""`raftsman net` on a running cluster: what it says is what happens."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Lab, poll, raftsman

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web-from-nobody"},
    "spec": {"podSelector": {"matchLabels": {"tier": "web"}}, "policyTypes": ["Ingress"]},
}


def explain(lab: Lab, *arguments: str) -> tuple[int, Any]:
    """Return the exit code and the answer of `raftsman net explain -o json`."""
    done = raftsman(lab.state_root, "net", "explain", *arguments, "-o", "json", "--name", lab.name)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def fetch(lab: Lab, pod: str, address: str) -> int:
    """Return the exit code of a real request from a pod."""
    return lab.run_kubectl("exec", pod, "--", "timeout", "5", "wget", "-qO-", f"http://{address}/").returncode


@pytest.fixture
def client(lab: Lab) -> str:
    """The pod that asks."""
    name: str = lab.pods("app=guestbook,tier=entries")[0]["metadata"]["name"]
    return name


def test_an_explained_way_is_the_way_that_a_real_packet_takes(lab: Lab, client: str) -> None:
    def whole() -> Any:
        code, told = explain(lab, client, "web", "--trace")
        assert (code == 0) is told["reachable"]
        return told if code == 0 else None

    told = poll("a way that is whole", whole)
    assert fetch(lab, client, lab.get("service", "web")["spec"]["clusterIP"]) == 0
    counted = json.loads(lab.raftsman("net", "services", "default/web", "-o", "json"))
    fronts = {entry["front"]: sum(entry["connections"].values()) for entry in counted["services"]}
    assert fronts[f"{lab.get('service', 'web')['spec']['clusterIP']}:80"] >= 2
    pods = {pod["status"]["podIP"] for pod in lab.pods("app=guestbook,tier=web")}
    assert {branch["endpoint"].partition(":")[0] for branch in told["branches"]} == pods
    assert {step["checked"] for step in told["steps"]} == {True}
    assert told["trace"]["answered"], told["trace"]
    steps = [event["step"] for event in told["trace"]["events"]]
    for step in told["steps"]:
        if step["hook"] == "prerouting":
            assert step["words"] in steps
    chosen = [step for step in steps if step.startswith("destination becomes")]
    assert len(set(chosen)) == 1
    home = lab.get("pod", client)["spec"]["nodeName"]
    for node in lab.cluster.nodes:
        assert "raftsman-trace" not in lab.on_node(node.name, "nft", "list", "tables").stdout
    assert {event["node"] for event in told["trace"]["events"]} >= {home}


@pytest.fixture
def policy(lab: Lab) -> Iterator[None]:
    """A policy that lets nobody reach the web pods."""
    lab.kubectl("apply", "-f", "-", text=json.dumps(POLICY))
    try:
        yield
    finally:
        lab.kubectl("delete", "networkpolicy", "web-from-nobody")


@pytest.mark.usefixtures("policy")
def test_a_policy_that_denies_is_named_and_a_real_request_fails(lab: Lab, client: str) -> None:
    def denied() -> Any:
        code, told = explain(lab, client, "web")
        # Once it stands on every node, nothing differs from the kernel any more.
        whole = not any(step["findings"] for branch in told["branches"] for step in branch["steps"])
        return told if code == 1 and whole else None

    told = poll("the policy in force", denied)
    assert told["why"].startswith("NetworkPolicy default/web-from-nobody isolates pod default/web-")
    assert fetch(lab, client, lab.get("service", "web")["spec"]["clusterIP"]) != 0


def test_a_difference_is_told_until_it_is_mended(lab: Lab) -> None:
    # A route that the agent does not call its own, in the way of one that it wants.
    peer = lab.get("node", "n2")["spec"]["podCIDR"]
    assert lab.on_node("n1", "ip", "route", "replace", peer, "dev", "lo", "proto", "4").returncode == 0
    try:
        done = raftsman(lab.state_root, "net", "diff", "n1", "--name", lab.name)
        assert done.returncode == 1, done.stderr
        assert f"somebody else's route to {peer} stands in the way" in done.stdout
    finally:
        lab.on_node("n1", "ip", "route", "del", peer, "dev", "lo", "proto", "4")
    # On the node itself, with the agent's own rights, as on a real machine.
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "cli.main", "net", "diff", "--node-local"]

    def mended() -> bool:
        local = lab.on_node("n1", *command, timeout_s=120)
        assert local.returncode in (0, 1), local.stderr
        return local.stdout.strip() == "node n1: the kernel holds what is wanted"

    poll("the agent's own repair", mended)
