"""The command line of the controller manager: kube-controller-manager's flags."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click

from control.client.flags import DURATION
from control.client.options import leader_election_options, run_until_signalled, take_election
from control.controllers.config import ControllersConfig
from control.controllers.manager import NAMES, run
from control.controllers.nodeipam import node_mask_sizes
from control.controllers.nodelifecycle import NodeLifecycleConfig

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

EXAMPLES = """\b
Examples:
  The controllers of a cluster:
    raftsman controller-manager --kubeconfig controller-manager.conf \\
      --allocate-node-cidrs --cluster-cidr 10.244.0.0/16 --root-ca-file ca.crt \\
      --cluster-signing-cert-file ca.crt --cluster-signing-key-file ca.key
  All but the garbage collector, noticing dead nodes after ten seconds:
    raftsman controller-manager --kubeconfig controller-manager.conf \\
      --controllers '*,-garbagecollector' --node-monitor-period 1s --node-monitor-grace-period 10s
"""


def _controllers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    wanted = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [part for part in wanted if part != "*" and part.removeprefix("-") not in NAMES]
    if unknown:
        raise click.BadParameter(f"no such controller: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return wanted


def _cidrs(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        versions = [ip_network(part).version for part in parts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if len(set(versions)) != len(versions):
        raise click.BadParameter("one range of each IP family at most")
    return parts


def take_mask_sizes(flags: dict[str, Any], clusters: Sequence[str]) -> dict[str, int]:
    """Take the three flags of the nodes' parts out and return the two settings that follow from them."""
    asked = [flags.pop(f"node_cidr_mask_size{suffix}") for suffix in ("", "_ipv4", "_ipv6")]
    try:
        sizes = node_mask_sizes(clusters, *asked)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return {"node_cidr_mask_size_ipv4": sizes[4], "node_cidr_mask_size_ipv6": sizes[6]}


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.option("--kubeconfig", type=FILE, required=True, help="How to reach the API server, and as whom.")
@click.option(
    "--controllers",
    default="*",
    callback=_controllers,
    show_default=True,
    help="Which to run: '*' for all, 'name', '-name'; comma separated.",
)
@click.option(
    "--allocate-node-cidrs",
    type=bool,
    default=False,
    is_flag=False,
    flag_value=True,
    show_default=True,
    help="Give each node its part of --cluster-cidr.",
)
@click.option("--cluster-cidr", "cluster_cidrs", default="", callback=_cidrs, help="Address ranges of pods.")
@click.option(
    "--node-cidr-mask-size",
    type=int,
    help="Prefix length of a node's part, where --cluster-cidr has one range.  [default: 24; IPv6: 64]",
)
@click.option("--node-cidr-mask-size-ipv4", type=int, help="The same of the IPv4 range.  [default: 24]")
@click.option("--node-cidr-mask-size-ipv6", type=int, help="The same of the IPv6 range.  [default: 64]")
@click.option("--service-cluster-ip-range", default="", help="Addresses of Services; must not overlap the pods'.")
@click.option(
    "--node-monitor-period", type=DURATION, default="5s", show_default=True, help="How often nodes are looked at."
)
@click.option(
    "--node-monitor-grace-period",
    type=DURATION,
    default="50s",
    show_default=True,
    help="How long a node may be silent.",
)
@click.option(
    "--node-startup-grace-period",
    type=DURATION,
    default="1m",
    show_default=True,
    help="How long a new node may be silent.",
)
@click.option(
    "--node-eviction-rate",
    default=0.1,
    show_default=True,
    help="Nodes a second whose pods are evicted in a zone that is well.",
)
@click.option(
    "--secondary-node-eviction-rate",
    default=0.01,
    show_default=True,
    help="The same in a large zone of which much fails.",
)
@click.option("--large-cluster-size-threshold", default=50, show_default=True, help="From here on a zone is large.")
@click.option(
    "--unhealthy-zone-threshold",
    default=0.55,
    show_default=True,
    help="Part of a zone that must fail for the secondary rate.",
)
@click.option(
    "--terminated-pod-gc-threshold",
    "terminated_pods_max",
    default=12500,
    show_default=True,
    help="Finished pods that are kept; 0 keeps all.",
)
@click.option(
    "--resource-quota-sync-period",
    "resource_quota_sync_period_s",
    type=DURATION,
    default="5m",
    show_default=True,
    help="How often ResourceQuotas are counted anew without any news.",
)
@click.option("--cluster-signing-cert-file", type=FILE, help="The cluster's certificate authority.")
@click.option("--cluster-signing-key-file", type=FILE, help="Its key.")
@click.option(
    "--cluster-signing-duration",
    type=DURATION,
    default="8760h",
    show_default=True,
    help="How long certificates last at most.",
)
@click.option("--root-ca-file", type=FILE, help="Authority that pods know the API server by.")
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
@leader_election_options("kube-controller-manager")
def command(log_level: str, **flags: Any) -> None:
    """Run the control loops: workloads, endpoints, nodes, namespaces, certificates, garbage."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    services = flags.pop("service_cluster_ip_range")
    for pods in flags["cluster_cidrs"]:
        for part in filter(None, services.split(",")):
            one, other = ip_network(pods), ip_network(part)
            if one.version == other.version and one.overlaps(other):
                raise click.UsageError(f"--cluster-cidr {pods} overlaps --service-cluster-ip-range {part}")
    if flags["allocate_node_cidrs"] and not flags["cluster_cidrs"]:
        raise click.UsageError("--allocate-node-cidrs needs --cluster-cidr")
    flags |= take_mask_sizes(flags, flags["cluster_cidrs"])
    lifecycle = NodeLifecycleConfig(
        monitor_period_s=flags.pop("node_monitor_period"),
        grace_period_s=flags.pop("node_monitor_grace_period"),
        startup_grace_period_s=flags.pop("node_startup_grace_period"),
        eviction_rate=flags.pop("node_eviction_rate"),
        secondary_eviction_rate=flags.pop("secondary_node_eviction_rate"),
        large_cluster_size=flags.pop("large_cluster_size_threshold"),
        unhealthy_zone_threshold=flags.pop("unhealthy_zone_threshold"),
    )
    duration = timedelta(seconds=flags.pop("cluster_signing_duration"))
    election = take_election(flags)
    config = ControllersConfig(node_lifecycle=lifecycle, cluster_signing_duration=duration, election=election, **flags)
    run_until_signalled(run(config))
