"""Real pods: start, restart, end."""

from __future__ import annotations

from dataclasses import replace

from control.api.resources import LEASES, NODES
from node.config import KubeletConfig
from node.kubelet import Kubelet
from tests.node.inside.conftest import NodeApi, container, is_ready, phase_is, running, until


async def test_a_pod_runs_and_is_told(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container("echo hello; exec httpd -f -p 8080 -h /www"))
    await until(is_ready(api, "web"), what="the pod is ready")
    status = api.status("web")
    assert status["phase"] == "Running"
    assert status["podIP"].startswith("10.88.")
    assert status["hostIP"] == "127.0.0.1"
    assert status["qosClass"] == "BestEffort"
    main = api.container("web")
    assert main["state"]["running"]["startedAt"]
    assert main["ready"]
    assert main["started"]
    assert main["containerID"].startswith("containerd://")
    conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert conditions == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )


async def test_the_node_is_registered_and_ready(kubelet: Kubelet, api: NodeApi) -> None:
    def ready() -> bool:
        node = api.find(NODES, "n1") or {}
        entries = {entry["type"]: entry for entry in (node.get("status") or {}).get("conditions", ())}
        return bool(entries.get("Ready", {}).get("status") == "True")

    await until(ready, what="the node is ready")


async def test_a_container_that_ends_is_restarted_with_back_off(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("crash", container("exit 3"))
    await until(
        lambda: api.container("crash").get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        what="it loops",
    )
    main = api.container("crash")
    assert main["restartCount"] == 1
    assert main["lastState"]["terminated"]["exitCode"] == 3
    assert main["state"]["waiting"]["message"].startswith("back-off 10s restarting failed container=main")


async def test_a_pod_that_succeeds_is_succeeded(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("job", container("echo done > /dev/termination-log"), restartPolicy="Never")
    await until(phase_is(api, "job", "Succeeded"), what="it succeeds")
    ended = api.container("job")["state"]["terminated"]
    assert ended["exitCode"] == 0
    assert ended["reason"] == "Completed"
    assert ended["message"] == "done\n"


async def test_a_node_that_was_given_up_speaks_again(kubelet: Kubelet, api: NodeApi) -> None:
    def ready() -> str:
        node = api.find(NODES, "n1") or {}
        entries = {entry["type"]: entry["status"] for entry in (node.get("status") or {}).get("conditions", ())}
        return str(entries.get("Ready"))

    await until(lambda: ready() == "True", what="the node is ready")
    node = api.find(NODES, "n1") or {}
    for entry in node["status"]["conditions"]:
        entry["status"] = "Unknown"
    api.put(NODES, node)
    await until(lambda: ready() == "True", what="the kubelet repairs its status")


async def test_the_lease_is_renewed(config: KubeletConfig, api: NodeApi) -> None:
    def renewed() -> str:
        lease = api.find(LEASES, "n1", "kube-node-lease") or {}
        return str((lease.get("spec") or {}).get("renewTime", ""))

    async with running(replace(config, node_lease_duration_s=2), api):
        first = await until(renewed, what="the lease is there")
        await until(lambda: renewed() > first, what="it is renewed")
    lease = api.find(LEASES, "n1", "kube-node-lease") or {}
    assert lease["spec"]["holderIdentity"] == "n1"
    assert lease["metadata"]["ownerReferences"][0]["kind"] == "Node"
