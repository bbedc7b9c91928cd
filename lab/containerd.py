"""Renders the configuration of one node's containerd."""

from __future__ import annotations

from pathlib import Path

from lab.images import PAUSE_IMAGE

_TEMPLATE = """\
version = 2
root = "{directory}/containerd"
state = "/run/containerd-state"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = {restrict}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni/bin"
    conf_dir = "{directory}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory}/certs.d"

[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
"""


def render(directory: Path, socket: Path, *, restrict_oom_score_adj: bool, snapshotter: str) -> str:
    """Return config.toml; ``restrict_oom_score_adj`` is for a machine whose root lacks CAP_SYS_RESOURCE."""
    return _TEMPLATE.format(
        directory=directory,
        socket=socket,
        pause=PAUSE_IMAGE,
        restrict="true" if restrict_oom_score_adj else "false",
        snapshotter=snapshotter,
    )
