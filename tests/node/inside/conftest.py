"""Fixtures of the tests that run inside a node's namespaces: a real containerd, a kubelet, an API server in memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import NODES, PODS, SERVICE_ACCOUNTS, Resource
from control.client.client import DELETE_DEFAULT, Client, DeleteOptions
from lab.images import BUSYBOX_IMAGE, PAUSE_IMAGE, ensure_packed
from node.config import KubeletConfig
from node.cri import Cri
from node.kubelet import Kubelet
from node.server.auth import SUBJECT_ACCESS_REVIEWS
from tests.fakes.fake_client import FakeClient

NODE = "n1"
CNI = Path(__file__).with_name("cni.sh")
CONTAINERD = """\
version = 2
root = "{root}/containerd"
state = "{root}/containerd-state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/cni/bin"
    conf_dir = "{root}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"""


def token_status(number: int) -> Object:
    """What a TokenRequest is answered with."""
    return {"status": {"token": f"token-{number}", "expirationTimestamp": "2100-01-01T00:00:00Z"}}


class NodeApi(FakeClient):
    """The API server in memory, with tokens."""

    tokens = 0
    reviews = 0

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        if resource == SERVICE_ACCOUNTS and subresource == "token":
            self.tokens += 1
            return token_status(self.tokens)
        if resource == SUBJECT_ACCESS_REVIEWS:
            self.reviews += 1
            return {"status": {"allowed": obj["spec"]["user"] == "friend"}}
        return await super().create(resource, obj, namespace, name=name, subresource=subresource)

    def pod(self, name: str) -> Object | None:
        """A pod of the default namespace."""
        return self.find(PODS, name, "default")

    def status(self, name: str) -> dict[str, Any]:
        """A pod's status; empty where there is none."""
        return (self.pod(name) or {}).get("status") or {}

    def container(self, name: str, container: str = "main") -> dict[str, Any]:
        """A container's status."""
        status = self.status(name)
        entries = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        return next((entry for entry in entries if entry["name"] == container), {})

    def run_pod(self, name: str, *containers: Object, **spec: Any) -> Object:
        """Create a pod that is bound to this node."""
        body = {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}, "uid": str(uuid.uuid4())},
            "spec": {
                "nodeName": NODE,
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 5,
                "containers": list(containers),
                **spec,
            },
            "status": {"phase": "Pending"},
        }
        return self.put(PODS, body)

    async def remove_pod(self, name: str, options: DeleteOptions = DELETE_DEFAULT) -> None:
        """Ask for a pod's deletion."""
        await self.delete(PODS, name, "default", options)


def container(command: str, name: str = "main", **more: Any) -> Object:
    """A container that runs a shell command."""
    return {
        "name": name,
        "image": BUSYBOX_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", command],
        **more,
    }


async def until(condition: Callable[[], Any], timeout_s: float = 60.0, what: str = "") -> Any:
    """Poll until a condition holds and return what it says."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {timeout_s:g} s: {what}"
        await asyncio.sleep(0.05)
    return found


def phase_is(api: NodeApi, name: str, phase: str) -> Callable[[], bool]:
    """A condition: the pod's phase."""
    return lambda: api.status(name).get("phase") == phase


def is_ready(api: NodeApi, name: str) -> Callable[[], bool]:
    """A condition: the pod is Ready."""
    return lambda: any(
        entry["type"] == "Ready" and entry["status"] == "True" for entry in api.status(name).get("conditions", ())
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of everything; the wrapper removes it."""
    return Path(os.environ["RAFTSMAN_NODE_TEST"])


class Containerd:
    """A real containerd that can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "containerd.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Write its configuration and its network."""
        for folder in ("cni/bin", "cni/net.d"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("loopback", "raftsman-test"):
            shutil.copy(CNI, self.root / "cni" / "bin" / name)
            (self.root / "cni" / "bin" / name).chmod(0o755)
        conflist = '{"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "raftsman-test"}]}'
        (self.root / "cni" / "net.d" / "10-test.conflist").write_text(conflist)
        snapshotter = "overlayfs" if "overlay" in Path("/proc/filesystems").read_text() else "native"
        text = CONTAINERD.format(root=self.root, pause=PAUSE_IMAGE, snapshotter=snapshotter)
        (self.root / "containerd.toml").write_text(text)

    def start(self) -> None:
        """Start it; whoever dials waits for it."""
        with (self.root / "containerd.log").open("ab") as log:
            command = ["containerd", "--config", str(self.root / "containerd.toml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill it; containers go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def pull_the_plug(self) -> None:
        """Kill it and every process of this namespace but our own and init, as a power cut would."""
        self.kill()
        ours = {1, os.getpid(), os.getppid()}
        for _ in range(5):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) not in ours:
                    try:
                        os.kill(int(entry.name), signal.SIGKILL)
                    except ProcessLookupError:
                        continue
            time.sleep(0.05)

    def import_images(self) -> None:
        """Hand it the packed images once it answers."""
        packed = ensure_packed(Path(os.environ["RAFTSMAN_NODE_CACHE"]))
        command = ["ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(packed)]
        deadline = time.monotonic() + 60
        while True:
            done = None
            if self.socket.exists():
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    return
            said = done.stderr if done is not None else (self.root / "containerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, said
            time.sleep(0.1)


@pytest.fixture(scope="session")
def containerd(root: Path) -> Iterator[Containerd]:
    """A real containerd that answers."""
    found = Containerd(root)
    found.prepare()
    found.start()
    found.import_images()
    yield found
    assert found.process is not None
    found.process.terminate()
    found.process.wait(20)


@pytest.fixture(scope="session")
def endpoint(containerd: Containerd) -> str:
    """Where containerd listens."""
    return f"unix://{containerd.socket}"


@pytest.fixture
def config(root: Path, endpoint: str, tmp_path: Path) -> KubeletConfig:
    """A kubelet's configuration for a test."""
    return KubeletConfig(
        node_name=NODE,
        kubeconfig=tmp_path / "kubeconfig",
        node_ips=("127.0.0.1",),
        container_runtime_endpoint=endpoint,
        root_dir=root / "kubelet",
        cert_dir=tmp_path / "pki",
        pod_logs_dir=root / "pod-logs",
        cluster_dns=("10.96.0.10",),
        address="127.0.0.1",
        port=0,
        rotate_server_certificates=False,
        authorization_mode="AlwaysAllow",
        cgroup_root=os.environ["RAFTSMAN_NODE_CGROUP"],
        node_status_update_frequency_s=2.0,
        housekeeping_period_s=1.0,
        relist_period_s=0.2,
        sync_frequency_s=1.0,
    )


@pytest.fixture
def api() -> NodeApi:
    """An empty API server."""
    return NodeApi()


@asynccontextmanager
async def running(config: KubeletConfig, api: Client) -> AsyncIterator[Kubelet]:
    """A kubelet that runs; leaving stops it and leaves the containers."""
    for folder in (config.root_dir, config.pod_logs_dir, config.cert_dir):
        folder.mkdir(parents=True, exist_ok=True)
    cri = Cri(config.container_runtime_endpoint)
    kubelet = Kubelet(config, api, cri)
    task = asyncio.create_task(kubelet.run())
    try:
        await asyncio.wait_for(kubelet.server.serving.wait(), 20)
        yield kubelet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cri.close()


@pytest.fixture
async def kubelet(config: KubeletConfig, api: NodeApi) -> AsyncIterator[Kubelet]:
    """A kubelet; at the end its pods are deleted and nothing may be left."""
    async with running(config, api) as found:
        await until(lambda: api.find(NODES, NODE), what="the node registers")
        yield found
        await clean(api, found)


async def clean(api: NodeApi, kubelet: Kubelet) -> None:
    """Delete all pods and wait until nothing of them is left."""
    for pod in api.objects(PODS):
        await api.remove_pod(pod["metadata"]["name"], DeleteOptions(grace_period_seconds=1))
    await until(lambda: not api.objects(PODS), 40, "the pods are deleted")
    await until(lambda: not kubelet.workers, 10, "the workers end")
    deadline = time.monotonic() + 10
    while await kubelet.cri.list_sandboxes() or await kubelet.cri.list_containers():
        assert time.monotonic() < deadline, "the runtime is empty"
        await asyncio.sleep(0.05)
    folders = (kubelet.config.root_dir / "pods", kubelet.config.pod_logs_dir)
    await until(lambda: not [entry for folder in folders for entry in folder.glob("*")], 10, "the folders are gone")
