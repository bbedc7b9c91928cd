"""What becomes of pods when the runtime or the whole node dies."""

from __future__ import annotations

from control.api.resources import NODES
from node.config import KubeletConfig
from node.kubelet import Kubelet
from tests.node.inside.conftest import Containerd, NodeApi, clean, container, is_ready, running, until


async def test_containers_outlive_their_runtime(kubelet: Kubelet, api: NodeApi, containerd: Containerd) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    await until(is_ready(api, "web"), what="it is ready")
    before = api.container("web")
    containerd.kill()

    def node_ready() -> str:
        node = api.find(NODES, "n1") or {}
        entries = {entry["type"]: entry["status"] for entry in (node.get("status") or {}).get("conditions", ())}
        return str(entries.get("Ready"))

    await until(lambda: node_ready() == "False", what="the node says that its runtime is gone")
    containerd.start()
    await until(lambda: node_ready() == "True", what="the node is ready again")
    assert api.container("web") == before
    api.run_pod("late", container("exec sleep 1000"))
    await until(is_ready(api, "late"), what="new pods start")
    assert api.container("web") == before


async def test_a_node_that_lost_its_power_starts_its_pods_again(
    config: KubeletConfig, api: NodeApi, containerd: Containerd
) -> None:
    api.run_pod("web", container("exec sleep 1000"))
    api.run_pod("job", container("exec sleep 1000"), restartPolicy="Never")
    async with running(config, api):
        await until(lambda: is_ready(api, "web")() and is_ready(api, "job")(), what="both are ready")
    old_ip = api.status("web")["podIP"]
    containerd.pull_the_plug()
    containerd.start()
    async with running(config, api) as second:
        again = lambda: api.container("web").get("restartCount") == 1 and is_ready(api, "web")()  # noqa: E731
        await until(again, what="it runs again")
        await until(lambda: api.status("job").get("phase") == "Failed", what="what is never restarted has failed")
        assert api.status("web")["podIP"] != old_ip
        await clean(api, second)
