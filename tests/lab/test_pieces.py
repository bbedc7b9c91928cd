"""The lab's pure pieces: images, configurations, certificates, forwarding."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from lab import cluster_pki, components, containerd, images, nodes, pki, processes, site, state
from lab.forwarder import Forwarder, parse_forward
from lab.images import Layout
from lab.site import Timers


def test_layout_is_what_containerd_reads(tmp_path: Path) -> None:
    layout = Layout()
    layout.add_image("example/one:2", b"\0" * 1024, ["/bin/one"])
    layout.write(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as archive:
        names = set(archive.getnames())
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        manifest = json.load(archive.extractfile("blobs/sha256/" + index["manifests"][0]["digest"][7:]))  # type: ignore[arg-type]
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "example/one:2"
    for entry in (manifest["config"], *manifest["layers"]):
        assert "blobs/sha256/" + entry["digest"][7:] in names


@pytest.mark.root
def test_same_programs_pack_to_same_bytes(tmp_path: Path) -> None:
    first, second = images.ensure_packed(tmp_path / "a"), images.ensure_packed(tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert images.ensure_packed(tmp_path / "a") == first


def test_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(state.LabError, match="apt-get install busybox-static"):
        images.ensure_packed(tmp_path)


@pytest.mark.parametrize("restrict", [True, False])
def test_containerd_configuration_is_toml(restrict: bool) -> None:
    import tomllib

    text = containerd.render(Path("/d"), Path("/d/s.sock"), restrict_oom_score_adj=restrict, snapshotter="overlayfs")
    cri = tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is restrict
    assert cri["cni"]["bin_dir"] == "/d/cni/bin"


def test_boot_script_is_shell(tmp_path: Path) -> None:
    import subprocess

    cluster = state.plan("c", 0, tmp_path, 3, 1)
    node = cluster.nodes[0]
    commands = components.commands(cluster, node, nodes.socket(cluster, node), Timers())
    assert list(commands) == ["containerd", "store", "controlplane", "node"]
    text = nodes.boot_script(cluster, node, commands)
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert text.rstrip().endswith("exec catatonit -P")


@pytest.mark.parametrize(("control_planes", "elects"), [(1, "false"), (3, "true")])
def test_only_several_control_planes_elect_leaders(tmp_path: Path, control_planes: int, elects: str) -> None:
    cluster = state.plan("c", 0, tmp_path, 3, control_planes)
    command = components.controlplane_command(site.of_lab(cluster, cluster.nodes[0], tmp_path / "x", Timers()))
    assert command[command.index("--leader-elect") + 1] == elects


def test_certificates_name_who_they_are_for(tmp_path: Path) -> None:
    cluster = state.plan("c", 0, tmp_path, 3, 1).with_changes(api_port=1234)
    cluster_pki.make(cluster)
    cluster_pki.write_kubeconfigs(cluster)
    served = x509.load_pem_x509_certificate((cluster.pki / "apiserver.crt").read_bytes())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", cluster.first_service_address, "10.77.0.11"]
    peer = x509.load_pem_x509_certificate((cluster.pki / "etcd/n2/peer.crt").read_bytes())
    names = peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["raftsman://member/n2"]
    loose = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not loose


def test_private_file_is_private(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "deep" / "key", b"secret")
    assert (tmp_path / "deep" / "key").stat().st_mode & 0o777 == 0o600


def test_forward_text() -> None:
    assert parse_forward("6443=10.0.0.1:1,10.0.0.2:2") == (6443, [("10.0.0.1", 1), ("10.0.0.2", 2)])


async def test_forwarder_carries_both_ways_and_passes_the_end_on() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.read() + b">")
        writer.close()
        await writer.wait_closed()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        alive = server.sockets[0].getsockname()[1]
        forwarder = Forwarder([("127.0.0.1", dead), ("127.0.0.1", alive)])
        front = await asyncio.start_server(forwarder.serve, "127.0.0.1", 0)
        async with server, front, asyncio.timeout(10):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
                writer.write(b"x" * 100_000)
                writer.write_eof()
                assert await reader.read() == b"<" + b"x" * 100_000 + b">"
                writer.close()
                await writer.wait_closed()


def _poll(seen: Callable[[], int]) -> int:
    """Return what is seen once there is something; an empty answer goes to the assertion."""
    deadline = time.monotonic() + 30
    while not (found := seen()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found
    return found


@pytest.mark.root
def test_a_dying_init_is_no_running_node(tmp_path: Path) -> None:
    """PID 1 waits for all of its namespace; whoever has a child there and does not ask for it holds the end up."""
    mark = {**os.environ, processes.CLUSTER_MARK: str(tmp_path)}
    outer = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "600"], env=mark)
    guest = None
    try:
        init = _poll(lambda: processes.child(outer.pid))
        node = state.NodeSpec("n1", 1)
        cluster = state.Cluster("x", 0, tmp_path, (node,), init_pids={"n1": init})
        _poll(lambda: nodes.is_running(cluster, node))
        guest = subprocess.Popen(["nsenter", "-t", str(init), "-p", "sleep", "600"])
        _poll(lambda: processes.child(guest.pid))
        guest.send_signal(signal.SIGSTOP)
        os.kill(init, signal.SIGKILL)
        _poll(lambda: "zap_pid_ns" in Path(f"/proc/{init}/stack").read_text())
        assert not nodes.is_running(cluster, node)
    finally:
        if guest is not None:
            guest.send_signal(signal.SIGCONT)
            guest.kill()
            guest.wait()
        outer.kill()
        outer.wait()
