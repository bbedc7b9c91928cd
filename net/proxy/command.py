"""`raftsman proxy`: Services' rules on this node."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Literal

import click
import uvloop

from net.proxy.config import ProxyConfig
from net.proxy.modes import clean_up
from net.proxy.server import run

DEFAULT = ProxyConfig()
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time as Kubernetes' flags write it: 500ms, 1s, 1m30s."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value)
        if "".join(number + unit for number, unit in parts) != value or not parts:
            self.fail(f"{value!r} is not a duration such as 500ms, 1s or 1m30s", param, ctx)
        return sum(float(number) * UNITS_S[unit] for number, unit in parts)


@click.group(
    invoke_without_command=True,
    epilog="Example: raftsman proxy --kubeconfig /etc/raftsman/proxy.kubeconfig --cluster-cidr 10.244.0.0/16",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="How to reach the API server.")
@click.option("--hostname-override", default="", help="The Node's name, if it is not the machine's.")
@click.option("--proxy-mode", type=click.Choice(["nftables", "iptables"]), default=DEFAULT.proxy_mode)
@click.option("--iptables-backend", type=click.Choice(["auto", "legacy", "nft"]), default=DEFAULT.iptables_backend)
@click.option("--cluster-cidr", default="", help="Where pods' addresses come from; else the Node's pod CIDR.")
@click.option("--nodeport-addresses", default="", help="Networks that serve node ports, with commas, or primary.")
@click.option(
    "--masquerade-all",
    "--nftables-masquerade-all",
    "masquerade_all",
    is_flag=True,
    help="Masquerade all traffic to cluster IPs.",
)
@click.option(
    "--iptables-masquerade-bit", "--nftables-masquerade-bit", type=click.IntRange(0, 31), default=DEFAULT.masquerade_bit
)
@click.option("--iptables-min-sync-period", type=Duration(), default="1s")
@click.option("--iptables-sync-period", type=Duration(), default="30s")
@click.option("--nftables-sync-period", type=Duration(), default="5m")
@click.option("--nftables-min-sync-period", type=Duration(), default="10ms")
@click.option("--bind-address", default=DEFAULT.bind_address, help="Where Services' health checks are answered.")
@click.option("--healthz-bind-address", default=DEFAULT.healthz_bind_address, help="Where /healthz is answered.")
@click.option("--metrics-bind-address", default=DEFAULT.metrics_bind_address, help="Where /metrics is answered.")
@click.option("--cleanup", is_flag=True, help="Take all rules of the proxy away and end, as the command cleanup does.")
@click.pass_context
def command(
    context: click.Context,
    kubeconfig: Path | None,
    hostname_override: str,
    proxy_mode: Literal["nftables", "iptables"],
    iptables_backend: Literal["auto", "legacy", "nft"],
    cluster_cidr: str,
    nodeport_addresses: str,
    masquerade_all: bool,
    iptables_masquerade_bit: int,
    iptables_min_sync_period: float,
    iptables_sync_period: float,
    nftables_sync_period: float,
    nftables_min_sync_period: float,
    bind_address: str,
    healthz_bind_address: str,
    metrics_bind_address: str,
    cleanup: bool,
) -> None:
    """Keep this node's rules for Services: cluster IPs, node ports, external and load balancer IPs."""
    if context.invoked_subcommand is not None:
        return
    if kubeconfig is None and not cleanup:
        raise click.UsageError("give --kubeconfig")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = ProxyConfig(
        kubeconfig=kubeconfig,
        hostname_override=hostname_override,
        proxy_mode=proxy_mode,
        iptables_backend=iptables_backend,
        cluster_cidr=cluster_cidr,
        nodeport_addresses=tuple(text.strip() for text in nodeport_addresses.split(",") if text.strip()),
        masquerade_all=masquerade_all,
        masquerade_bit=iptables_masquerade_bit,
        min_sync_period_s=iptables_min_sync_period,
        nftables_sync_period_s=nftables_sync_period,
        nftables_min_sync_period_s=nftables_min_sync_period,
        sync_period_s=iptables_sync_period,
        bind_address=bind_address,
        healthz_bind_address=healthz_bind_address,
        metrics_bind_address=metrics_bind_address,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(clean_up() if cleanup else run(config))


@command.command("cleanup")
def cleanup_command() -> None:
    """Take the proxy's rules of all modes and families away; nothing else is touched.

    \b
    Example: raftsman proxy cleanup
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(clean_up())
