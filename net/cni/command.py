"""`raftsman cni`: the daemon that wires this node's pods."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

import click
import uvloop

from net.cni.config import CniConfig
from net.cni.server import run

DEFAULT = CniConfig()


@click.command(
    epilog="Example: raftsman cni --kubeconfig /etc/raftsman/cni.kubeconfig --hostname-override n1",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="How to reach the API server.")
@click.option("--hostname-override", default="", help="The Node's name, if it is not the machine's.")
@click.option("--cni-conf-dir", type=click.Path(path_type=Path), default=DEFAULT.cni_conf_dir)
@click.option("--cni-bin-dir", type=click.Path(path_type=Path), default=DEFAULT.cni_bin_dir)
@click.option("--socket", type=click.Path(path_type=Path), default=DEFAULT.socket, help="The shims' way to the daemon.")
@click.option("--state-dir", type=click.Path(path_type=Path), default=DEFAULT.state_dir)
@click.option("--pod-cidr", default="", help="The pods' addresses, one range a family, where no API server says them.")
@click.option("--cni-mode", type=click.Choice(["ptp", "bridge"]), default=DEFAULT.cni_mode, help="Cables, or a bridge.")
@click.option("--mtu", default=DEFAULT.mtu, help="The pods' MTU; 0 takes the uplink's.")
def command(
    kubeconfig: Path | None,
    hostname_override: str,
    cni_conf_dir: Path,
    cni_bin_dir: Path,
    socket: Path,
    state_dir: Path,
    pod_cidr: str,
    cni_mode: Literal["ptp", "bridge"],
    mtu: int,
) -> None:
    """Wire this node's pods by CNI: addresses from the Node's pod CIDR, a veth pair each."""
    if kubeconfig is None and not pod_cidr:
        raise click.UsageError("give --kubeconfig, or --pod-cidr to run without an API server")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = CniConfig(
        kubeconfig=kubeconfig,
        hostname_override=hostname_override,
        cni_conf_dir=cni_conf_dir,
        cni_bin_dir=cni_bin_dir,
        socket=socket,
        state_dir=state_dir,
        pod_cidr=pod_cidr,
        cni_mode=cni_mode,
        mtu=mtu,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config))
