"""The demo, as an unmodified kubectl and real packets see it."""

import json
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import Lab, poll

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]
NODES = ("n1", "n2", "n3")


def served_by(text: str) -> str:
    """Return the pod that a page names."""
    words = text.splitlines()[0].split()
    assert words[:3] == ["guestbook", "served", "by"], text
    return words[3]


def test_web_is_ready_on_every_node(lab: Lab) -> None:
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout_s=90)
    pods = lab.pods("app=guestbook,tier=web")
    assert len(pods) == 3
    assert {pod["spec"]["nodeName"] for pod in pods} == set(NODES)
    assert len({pod["status"]["podIP"] for pod in pods}) == 3
    states = [condition for pod in pods for condition in pod["status"]["conditions"] if condition["type"] == "Ready"]
    assert [condition["status"] for condition in states] == ["True"] * 3


def test_cluster_ip_from_a_pod_and_from_a_node_spreads(lab: Lab) -> None:
    address = lab.get("service", "web")["spec"]["clusterIP"]
    pods = {pod["metadata"]["name"] for pod in lab.pods("app=guestbook,tier=web")}
    client = lab.pods("app=guestbook,tier=entries")[0]["metadata"]["name"]
    script = f"for i in $(seq 40); do wget -qO- http://{address}/ | head -n 1; done"
    from_pod = lab.kubectl("exec", client, "--", "sh", "-c", script).splitlines()
    seen = Counter(served_by(line) for line in from_pod)
    assert seen.keys() == pods
    assert min(seen.values()) >= 3, seen
    for node in NODES:
        done = lab.on_node(node, "busybox", "wget", "-qO-", f"http://{address}/")
        assert done.returncode == 0, done.stderr
        assert served_by(done.stdout) in pods


def test_node_port_through_every_node(lab: Lab) -> None:
    pods = {pod["metadata"]["name"] for pod in lab.pods("app=guestbook,tier=web")}
    for node in lab.cluster.nodes:
        url = f"http://{lab.cluster.address(node)}:30080/"
        seen = set()
        for _ in range(30):
            done = lab.on_node("n1" if node.name != "n1" else "n2", "busybox", "wget", "-qO-", url)
            assert done.returncode == 0, done.stderr
            seen.add(served_by(done.stdout))
        assert seen == pods


def test_entries_go_through_the_backing_service(lab: Lab) -> None:
    base = f"http://127.0.0.1:{lab.cluster.demo_port}/"
    with urllib.request.urlopen(f"{base}?say=hello%20there", timeout=10) as answer:
        assert "hello there" in answer.read().decode()

    def everywhere() -> bool:
        with urllib.request.urlopen(base, timeout=10) as answer:
            return "hello there" in answer.read().decode()

    assert all(everywhere() for _ in range(6))


@pytest.mark.parametrize("suite", ["sid", "trixie"])
def test_kubectl_commands(lab: Lab, kubectl_versions: dict[str, Path], suite: str) -> None:
    program = kubectl_versions[suite]

    def kubectl(*arguments: str, text: str | None = None) -> str:
        return lab.kubectl(*arguments, program=program, text=text)

    assert [line.split()[1] for line in kubectl("get", "nodes", "--no-headers").splitlines()] == ["Ready"] * 3
    wide = kubectl("get", "pods", "-o", "wide", "-l", "tier=web")
    assert wide.split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert wide.count("1/1") == 3
    assert "kind: List" in kubectl("get", "deployments", "-o", "yaml")
    assert "guestbook" in kubectl("describe", "pods", "-l", "tier=web")
    assert "Endpoints:" in kubectl("describe", "service", "web")
    assert "deployments" in kubectl("api-resources")
    assert "replicas" in kubectl("explain", "deployment.spec")
    assert "Server Version" in kubectl("version")
    pod = lab.pods("tier=web")[0]["metadata"]["name"]
    assert pod in kubectl("exec", pod, "--", "hostname")

    name = f"try-{suite}"
    manifest = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "c", "image": "lab.raftsman.dev/busybox:1",
                        "command": ["sh", "-c", "echo started; exec sleep 1000"],
                    }],
                },
            },
        },
    }  # fmt: skip
    try:
        assert "created" in kubectl("apply", "-f", "-", text=json.dumps(manifest))
        assert "unchanged" in kubectl("apply", "-f", "-", text=json.dumps(manifest))
        assert "scaled" in kubectl("scale", f"deployment/{name}", "--replicas=2")
        assert "successfully rolled out" in kubectl("rollout", "status", f"deployment/{name}", "--timeout=50s")
        logs = poll("logs", lambda: kubectl("logs", f"deployment/{name}"))
        assert "started" in logs
    finally:
        assert "deleted" in kubectl("delete", "deployment", name)
    poll("the end of its pods", lambda: not lab.get("pods", "-l", f"app={name}")["items"])


def test_watch_shows_changes_as_they_come(lab: Lab) -> None:
    import subprocess

    environment = {"KUBECONFIG": str(lab.cluster.kubeconfig), "HOME": str(lab.state_root)}
    watch = subprocess.Popen(
        [lab.kubectl_program, "get", "configmaps", "--watch-only", "-o", "name"],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        # The watch begins at some moment; objects are made until the first of them is told.
        made = 0
        import selectors

        selector = selectors.DefaultSelector()
        selector.register(watch.stdout, selectors.EVENT_READ)

        def told() -> str | None:
            nonlocal made
            lab.kubectl("create", "configmap", f"watched-{made}")
            made += 1
            return watch.stdout.readline() if selector.select(1) else None  # type: ignore[union-attr]

        assert poll("an event", told).startswith("configmap/watched-")
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()  # type: ignore[union-attr]
        lab.kubectl("delete", "configmap", *[f"watched-{number}" for number in range(made)])
