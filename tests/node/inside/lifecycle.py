"""Real pods: init containers, sidecars, probes, hooks, grace, adoption, and what dies behind the kubelet's back."""

from __future__ import annotations

import os
import signal
import time

from control.api.resources import CONFIG_MAPS, EVENTS, PODS
from control.client.client import DeleteOptions
from node.config import KubeletConfig
from node.kubelet import Kubelet
from tests.node.inside.conftest import NodeApi, clean, container, is_ready, phase_is, running, until

SERVER = "trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp & wait $!"


def reasons(api: NodeApi, name: str) -> list[str]:
    """The reasons of a pod's Events."""
    return [event["reason"] for event in api.objects(EVENTS) if event["involvedObject"]["name"] == name]


async def test_init_containers_and_sidecars_come_first(kubelet: Kubelet, api: NodeApi) -> None:
    share = {"name": "share", "mountPath": "/share"}
    api.run_pod(
        "web",
        container("cat /share/order > /dev/termination-log; exec sleep 1000", volumeMounts=[share]),
        initContainers=[
            container("echo first >> /share/order", "first", volumeMounts=[share]),
            container(
                "echo side >> /share/order; touch /share/up; exec sleep 1000",
                "side",
                restartPolicy="Always",
                volumeMounts=[share],
                startupProbe={"exec": {"command": ["test", "-e", "/share/up"]}, "periodSeconds": 1},
            ),
            container("echo last >> /share/order", "last", volumeMounts=[share]),
        ],
        volumes=[{"name": "share", "emptyDir": {}}],
    )
    await until(is_ready(api, "web"), what="the pod is ready")
    order = next((kubelet.config.root_dir / "pods").glob("*/volumes/kubernetes.io~empty-dir/share/order")).read_text()
    assert order.split() == ["first", "side", "last"]
    assert api.container("web", "first")["state"]["terminated"]["exitCode"] == 0
    assert api.container("web", "side")["started"]


async def test_readiness_follows_the_probe(kubelet: Kubelet, api: NodeApi) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    api.run_pod("web", container("sleep 1; touch /tmp/ready; exec sleep 1000", readinessProbe=probe))
    await until(phase_is(api, "web", "Running"), what="it runs")
    assert not is_ready(api, "web")()
    await until(is_ready(api, "web"), what="it is ready")
    worker = next(iter(kubelet.workers.values())).worker
    current = worker.machine.slots["main"].current
    assert current is not None
    await kubelet.cri.exec_sync(current.id, ["rm", "/tmp/ready"], 5)
    await until(lambda: not is_ready(api, "web")(), what="it is no longer ready")
    assert "Unhealthy" in reasons(api, "web")


async def test_a_liveness_probe_restarts(kubelet: Kubelet, api: NodeApi) -> None:
    probe = {"httpGet": {"port": 8080, "path": "/nothing"}, "periodSeconds": 1, "failureThreshold": 2}
    api.run_pod("web", container(SERVER, livenessProbe=probe))
    await until(lambda: api.container("web").get("restartCount") == 1, what="it is restarted")
    await until(lambda: "Killing" in reasons(api, "web"), what="the kill is told")


async def test_http_and_tcp_probes_reach_the_pod(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod(
        "web",
        container(
            "echo hi > /tmp/index.html; exec httpd -f -p 8080 -h /tmp",
            ports=[{"name": "http", "containerPort": 8080}],
            readinessProbe={"httpGet": {"port": "http", "path": "/index.html"}, "periodSeconds": 1},
            startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        ),
    )
    await until(is_ready(api, "web"), what="both probes succeed")


async def test_hooks_run_and_grace_is_kept(kubelet: Kubelet, api: NodeApi, config: KubeletConfig) -> None:
    host = config.root_dir / "told"
    host.mkdir(exist_ok=True)
    mount = {"name": "told", "mountPath": "/told"}
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo started > /told/post"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /told/pre; sleep 1"]}},
    }
    command = "trap 'echo term > /told/term; exit 0' TERM; while true; do sleep 0.1; done"
    api.run_pod(
        "web",
        container(command, lifecycle=hooks, volumeMounts=[mount]),
        volumes=[{"name": "told", "hostPath": {"path": str(host), "type": "Directory"}}],
    )
    await until(is_ready(api, "web"), what="it is ready")
    assert (host / "post").read_text() == "started\n"
    began = time.monotonic()
    await api.remove_pod("web", DeleteOptions(grace_period_seconds=10))
    await until(lambda: api.pod("web") is None, what="it is gone")
    assert (host / "pre").read_text() == "stopping\n"
    assert (host / "term").read_text() == "term\n"
    assert 1 <= time.monotonic() - began < 9


async def test_a_deaf_container_is_killed_after_its_grace(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("deaf", container("trap '' TERM; while true; do sleep 0.1; done"))
    await until(is_ready(api, "deaf"), what="it is ready")
    began = time.monotonic()
    await api.remove_pod("deaf", DeleteOptions(grace_period_seconds=3))
    await until(lambda: api.pod("deaf") is None, what="it is gone")
    assert 2.5 <= time.monotonic() - began < 9


async def test_a_forced_deletion_ends_a_deaf_container_at_once(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("deaf", container("trap '' TERM; while true; do sleep 0.1; done"))
    await until(is_ready(api, "deaf"), what="it is ready")
    await api.remove_pod("deaf", DeleteOptions(grace_period_seconds=60))
    await until(lambda: "Killing" in reasons(api, "deaf"), what="the kill has begun")
    began = time.monotonic()
    await api.remove_pod("deaf", DeleteOptions(grace_period_seconds=0))
    await until(lambda: not kubelet.workers, what="its worker ends")
    assert time.monotonic() - began < 8


async def test_a_container_killed_from_outside_is_restarted(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    await until(is_ready(api, "web"), what="it is ready")
    current = next(iter(kubelet.workers.values())).worker.machine.slots["main"].current
    assert current is not None
    pid = await kubelet.cri.container_pid(current.id)
    assert pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: api.container("web").get("restartCount") == 1, what="it is restarted")
    await until(is_ready(api, "web"), what="it is ready again")
    assert api.container("web")["lastState"]["terminated"]["exitCode"] == 137


async def test_a_sandbox_that_dies_is_made_anew(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    await until(is_ready(api, "web"), what="it is ready")
    sandbox = next(iter(kubelet.workers.values())).worker.machine.sandbox
    assert sandbox is not None
    old_ip = api.status("web")["podIP"]
    await kubelet.cri.stop_sandbox(sandbox.id)
    await until(lambda: api.status("web").get("podIP") not in (None, old_ip) and is_ready(api, "web")(), what="anew")
    assert api.container("web")["restartCount"] >= 1


async def test_a_restarted_kubelet_adopts(config: KubeletConfig, api: NodeApi) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    async with running(config, api):
        await until(is_ready(api, "web"), what="it is ready")
        before = api.container("web")
    api.run_pod("late", container("exec sleep 1000"))
    async with running(config, api) as second:
        await until(is_ready(api, "late"), what="the other pod is ready")
        assert api.container("web") == before
        assert is_ready(api, "web")()
        await clean(api, second)


async def test_a_pod_deleted_while_no_kubelet_ran_is_taken_down(config: KubeletConfig, api: NodeApi) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    async with running(config, api):
        await until(is_ready(api, "web"), what="it is ready")
    api.remove(PODS, "web", "default")
    async with running(config, api) as second:
        await until(lambda: second.pleg.healthy_at and not second.pleg.pods, what="the orphan is removed")
        await clean(api, second)


async def test_a_missing_image_backs_off(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("none", {**container("true"), "image": "127.0.0.1:1/none:1"})
    await until(
        lambda: api.container("none").get("state", {}).get("waiting", {}).get("reason") == "ErrImagePull",
        what="the pull fails",
    )
    api.run_pod("never", {**container("true"), "image": "127.0.0.1:1/none:1", "imagePullPolicy": "Never"})
    await until(
        lambda: api.container("never").get("state", {}).get("waiting", {}).get("reason") == "ErrImageNeverPull",
        what="it is never pulled",
    )


async def test_a_missing_config_map_is_told_and_waited_for(kubelet: Kubelet, api: NodeApi) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "colour"}}
    wanted = container("echo $COLOUR > /dev/termination-log", env=[{"name": "COLOUR", "valueFrom": reference}])
    api.run_pod("late", wanted, restartPolicy="Never")
    await until(
        lambda: api.container("late").get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError",
        what="the config error",
    )
    assert api.container("late")["state"]["waiting"]["message"] == 'configmap "settings" not found'
    api.put(CONFIG_MAPS, {"metadata": {"name": "settings", "namespace": "default"}, "data": {"colour": "red"}})
    await until(phase_is(api, "late", "Succeeded"), what="it runs in the end")
    assert api.container("late")["state"]["terminated"]["message"] == "red\n"


async def test_a_program_that_is_not_there_is_told(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("bad", {**container("true"), "command": ["/no/such/program"]}, restartPolicy="Never")
    await until(phase_is(api, "bad", "Failed"), what="it fails")
    ended = api.container("bad")["state"]["terminated"]
    assert ended["exitCode"] == 128
    assert ended["reason"] == "StartError"
