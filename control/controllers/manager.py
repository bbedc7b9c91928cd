"""Put the controllers together and run them while leading."""

from __future__ import annotations

import logging
from collections.abc import Callable

from control.client.connect import connect
from control.client.election import Elector
from control.client.events import EventRecorder
from control.client.informer import Informers
from control.client.kubeconfig import load
from control.client.runner import Context, Controller, run_controllers
from control.controllers.bootstraptokens import BootstrapSigner, TokenCleaner
from control.controllers.certificates import (
    Authority,
    CertificateApprover,
    CertificateCleaner,
    CertificateSigner,
)
from control.controllers.config import ControllersConfig
from control.controllers.deployment.controller import DeploymentController
from control.controllers.disruption import DisruptionController, DisruptionTargetController
from control.controllers.endpoints import EndpointsController
from control.controllers.endpointslice import EndpointSliceController
from control.controllers.garbage.collector import GarbageCollector
from control.controllers.namespace import NamespaceController
from control.controllers.namespacedefaults import root_ca_controller, service_account_controller
from control.controllers.nodeipam import NodeIpamController, mask_sizes
from control.controllers.nodelifecycle import NodeLifecycleController
from control.controllers.podeviction import PodCollector, TaintEvictionController
from control.controllers.policystatus import PolicyStatusController
from control.controllers.protection import ClaimProtection, VolumeProtection
from control.controllers.replicaset import ReplicaSetController
from control.controllers.resourcequota import ResourceQuotaController

log = logging.getLogger(__name__)

USER_AGENT = "kube-controller-manager/raftsman"
"""Its first word is the manager of the fields that controllers write, as it is in Kubernetes."""
COMPONENT = "controller-manager"

NAMES = (
    "bootstrap-signer-controller",
    "certificatesigningrequest-approving",
    "certificatesigningrequest-cleaner",
    "certificatesigningrequest-signing",
    "deployment",
    "disruption",
    "disruption-target",
    "endpoints",
    "endpointslice",
    "garbagecollector",
    "namespace",
    "nodeipam",
    "nodelifecycle",
    "pod-garbage-collector",
    "pv-protection",
    "pvc-protection",
    "replicaset",
    "resourcequota",
    "root-ca-certificate-publisher",
    "serviceaccount",
    "taint-eviction-controller",
    "token-cleaner-controller",
    "validatingadmissionpolicy-status-controller",
)


def build(context: Context, config: ControllersConfig) -> list[Controller]:
    """Return the controllers that the configuration asks for."""
    found: list[Controller] = []
    makers: dict[str, Callable[[Context], Controller]] = {
        "replicaset": ReplicaSetController,
        "deployment": DeploymentController,
        "endpointslice": EndpointSliceController,
        "endpoints": EndpointsController,
        "namespace": NamespaceController,
        "serviceaccount": service_account_controller,
        "taint-eviction-controller": TaintEvictionController,
        "certificatesigningrequest-approving": CertificateApprover,
        "certificatesigningrequest-cleaner": CertificateCleaner,
        "garbagecollector": GarbageCollector,
        "bootstrap-signer-controller": BootstrapSigner,
        "token-cleaner-controller": TokenCleaner,
        "disruption": DisruptionController,
        "disruption-target": DisruptionTargetController,
        "pvc-protection": ClaimProtection,
        "pv-protection": VolumeProtection,
        "validatingadmissionpolicy-status-controller": PolicyStatusController,
    }
    for name, make in makers.items():
        if config.wants(name):
            found.append(make(context))
    if config.wants("resourcequota"):
        found.append(ResourceQuotaController(context, config.resource_quota_sync_period_s))
    if config.wants("nodelifecycle"):
        found.append(NodeLifecycleController(context, config.node_lifecycle))
    if config.wants("pod-garbage-collector"):
        found.append(PodCollector(context, config.terminated_pods_max))
    if config.wants("nodeipam") and config.allocate_node_cidrs:
        sizes = {4: config.node_cidr_mask_size_ipv4, 6: config.node_cidr_mask_size_ipv6}
        found.append(NodeIpamController(context, mask_sizes(config.cluster_cidrs, sizes)))
    if config.wants("root-ca-certificate-publisher") and config.root_ca_file is not None:
        found.append(root_ca_controller(context, config.root_ca_file.read_text()))
    signing = (config.cluster_signing_cert_file, config.cluster_signing_key_file)
    if config.wants("certificatesigningrequest-signing") and signing[0] is not None and signing[1] is not None:
        authority = Authority.load(signing[0], signing[1], config.cluster_signing_duration)
        found.append(CertificateSigner(context, authority))
    return found


async def run(config: ControllersConfig) -> None:
    """Run the controller manager until cancelled."""
    client = connect(load(config.kubeconfig), USER_AGENT)

    async def work() -> None:
        # A new term begins with empty caches: what the last one knew may be out of date.
        context = Context(client, Informers(client), EventRecorder(client, COMPONENT))
        controllers = build(context, config)
        log.info("ready controllers=%s", ",".join(sorted(controller.name for controller in controllers)))
        await run_controllers(context, controllers)

    try:
        if config.election is None:
            await work()
        else:
            await Elector(client, config.election).run(work)
    finally:
        await client.close()
