"""``raftsman controlplane``: API server, scheduler, controllers and cloud controllers in one process.

They meet on the wire as they would in processes of their own: each has its kubeconfig and its identity, and reaches the
API server through the hub.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

import control.apiserver.server
import control.cloud.manager
import control.controllers.manager
import control.scheduler.scheduler
from control.apiserver import command as apiserver_command
from control.apiserver.config import ApiServerConfig
from control.client.election import ElectionConfig
from control.client.flags import DURATION
from control.client.options import run_until_signalled
from control.cloud.command import take_pool
from control.cloud.config import CloudConfig
from control.controllers.command import take_mask_sizes
from control.controllers.config import ControllersConfig
from control.controllers.nodelifecycle import NodeLifecycleConfig
from control.scheduler.config import SchedulerConfig

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LISTEN_POLL_S = 0.05
log = logging.getLogger(__name__)


def election(name: str, lease_duration_s: float, *, wanted: bool = True) -> ElectionConfig | None:
    """Return the timers of one component's election, in upstream's proportions; None where there is no election.

    The identity is the machine's name: there is one such process a machine, so that one that is started again after a
    crash takes its own Lease over at once.
    """
    if not wanted:
        return None
    return ElectionConfig(
        name=name,
        identity=socket.gethostname(),
        lease_duration_s=lease_duration_s,
        renew_deadline_s=lease_duration_s * 2 / 3,
        retry_period_s=lease_duration_s * 2 / 15,
    )


async def wait_listening(apiserver: ApiServerConfig) -> None:
    """Wait until the API server in this process takes connections."""
    host = apiserver.bind_address if apiserver.bind_address != "0.0.0.0" else "127.0.0.1"
    port = apiserver.grpc_port if apiserver.grpc_port >= 0 else apiserver.secure_port
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(LISTEN_POLL_S)
        else:
            writer.close()
            return


async def run_all(
    apiserver: ApiServerConfig, scheduler: SchedulerConfig, controllers: ControllersConfig, cloud: CloudConfig
) -> None:
    """Run all four until cancelled; one's failure ends all, and whoever keeps the process starts it again."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(control.apiserver.server.run(apiserver), name="apiserver")
        await wait_listening(apiserver)  # else the others' first tries fail, and they wait before the next
        tasks.create_task(control.scheduler.scheduler.run(scheduler), name="scheduler")
        tasks.create_task(control.controllers.manager.run(controllers), name="controller-manager")
        tasks.create_task(control.cloud.manager.run(cloud), name="cloud-controller-manager")


def _own_options() -> list[click.Option]:
    """Return the flags that are not the API server's."""
    return [
        click.Option(["--scheduler-kubeconfig"], type=FILE, required=True, help="The scheduler's identity."),
        click.Option(["--controller-manager-kubeconfig"], type=FILE, required=True, help="The controllers' identity."),
        click.Option(["--cloud-controller-manager-kubeconfig"], type=FILE, required=True, help="The cloud's identity."),
        click.Option(
            ["--load-balancer-pool"], default="", callback=take_pool, help="Addresses of type LoadBalancer Services."
        ),
        click.Option(["--cluster-cidr"], default="", help="All pods' addresses."),
        click.Option(["--node-cidr-mask-size"], type=int, help="Of a node's part, where there is one range."),
        click.Option(["--node-cidr-mask-size-ipv4"], type=int, help="Of a node's IPv4 part.  [default: 24]"),
        click.Option(["--node-cidr-mask-size-ipv6"], type=int, help="Of a node's IPv6 part.  [default: 64]"),
        click.Option(["--allocate-node-cidrs"], is_flag=True, help="Give each node its part of --cluster-cidr."),
        click.Option(["--cluster-signing-cert-file"], type=FILE, help="The cluster's certificate authority."),
        click.Option(["--cluster-signing-key-file"], type=FILE, help="Its key."),
        click.Option(["--root-ca-file"], type=FILE, help="The authority that pods know the API server by."),
        click.Option(["--node-monitor-period"], type=DURATION, default="5s", show_default=True),
        click.Option(["--node-monitor-grace-period"], type=DURATION, default="50s", show_default=True),
        click.Option(
            ["--leader-elect"], type=bool, default=True, is_flag=False, flag_value=True, show_default=True,
            help="Work only while holding Leases; false where there is one control plane alone.",
        ),
        click.Option(["--leader-elect-lease-duration"], type=DURATION, default="15s", show_default=True),
    ]  # fmt: skip


def _run(log_level: str, **flags: Any) -> None:
    """Run API server, scheduler, controllers and cloud controllers in one process."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    own = {str(option.name): flags.pop(str(option.name)) for option in _own_options()}
    elect = partial(election, lease_duration_s=own["leader_elect_lease_duration"], wanted=own["leader_elect"])
    scheduler = SchedulerConfig(kubeconfig=own["scheduler_kubeconfig"], election=elect("kube-scheduler"))
    cluster_cidrs = tuple(filter(None, own["cluster_cidr"].split(",")))
    sizes = take_mask_sizes(own, cluster_cidrs)
    controllers = ControllersConfig(
        kubeconfig=own["controller_manager_kubeconfig"],
        election=elect("kube-controller-manager"),
        allocate_node_cidrs=own["allocate_node_cidrs"],
        cluster_cidrs=cluster_cidrs,
        node_cidr_mask_size_ipv4=sizes["node_cidr_mask_size_ipv4"],
        node_cidr_mask_size_ipv6=sizes["node_cidr_mask_size_ipv6"],
        node_lifecycle=NodeLifecycleConfig(
            monitor_period_s=own["node_monitor_period"], grace_period_s=own["node_monitor_grace_period"]
        ),
        cluster_signing_cert_file=own["cluster_signing_cert_file"],
        cluster_signing_key_file=own["cluster_signing_key_file"],
        cluster_signing_duration=timedelta(days=365),
        root_ca_file=own["root_ca_file"],
    )
    cloud = CloudConfig(
        kubeconfig=own["cloud_controller_manager_kubeconfig"],
        election=elect("cloud-controller-manager"),
        load_balancer_pool=own["load_balancer_pool"],
    )
    run_until_signalled(run_all(apiserver_command.config_of(flags), scheduler, controllers, cloud))


controlplane = click.Command(
    "controlplane",
    params=[*apiserver_command.command.params, *_own_options()],
    callback=_run,
    help=_run.__doc__,
    epilog="""\b
Example:
  raftsman controlplane --etcd-servers https://10.0.0.1:2379 … (all flags of `raftsman apiserver`) \\
    --scheduler-kubeconfig scheduler.conf --controller-manager-kubeconfig controller-manager.conf \\
    --cloud-controller-manager-kubeconfig cloud.conf --cluster-cidr 10.244.0.0/16 --allocate-node-cidrs
""",
    context_settings={"max_content_width": 110},
)
"""The command: the API server's flags and those of the rest."""
