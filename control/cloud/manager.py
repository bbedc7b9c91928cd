"""Put the cloud loops together and run them while leading."""

from __future__ import annotations

import logging

from control.client.connect import connect
from control.client.election import Elector
from control.client.events import EventRecorder
from control.client.informer import Informers
from control.client.kubeconfig import load
from control.client.runner import Context, Controller, run_controllers
from control.cloud.config import CloudConfig
from control.cloud.loadbalancer import LoadBalancerController
from control.cloud.nodes import CloudNodeController, CloudNodeLifecycleController
from control.cloud.pool import parse_pool
from control.cloud.provider import load_provider

log = logging.getLogger(__name__)

USER_AGENT = "cloud-controller-manager/raftsman"
COMPONENT = "cloud-controller-manager"


async def run(config: CloudConfig) -> None:
    """Run the cloud controller manager until cancelled."""
    provider = load_provider(config.cloud_provider, config.cloud_config)
    client = connect(load(config.kubeconfig), USER_AGENT)

    async def work() -> None:
        context = Context(client, Informers(client), EventRecorder(client, COMPONENT))
        controllers: list[Controller] = [
            CloudNodeController(context, provider, config.node_status_update_period_s),
            CloudNodeLifecycleController(context, provider, config.node_monitor_period_s),
        ]
        if config.load_balancer_pool:
            controllers.append(LoadBalancerController(context, parse_pool(config.load_balancer_pool)))
        log.info("ready provider=%s", config.cloud_provider)
        await run_controllers(context, controllers)

    try:
        if config.election is None:
            await work()
        else:
            await Elector(client, config.election).run(work)
    finally:
        await client.close()
