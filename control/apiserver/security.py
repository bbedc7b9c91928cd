"""Puts together everything that judges requests of one API server: the one call that the main road makes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

import orjson

from control.api.meta import Object, name, namespace
from control.api.resources import (
    INGRESS_CLASSES,
    LIMIT_RANGES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NODES,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STORAGE_CLASSES,
    VALIDATING_WEBHOOKS,
    Resource,
)
from control.api.status import ApiError
from control.apiserver.admission import configuration
from control.apiserver.admission.certificates import Certificates, ClusterTrustBundleAttest
from control.apiserver.admission.chain import AdmissionChain, name_of
from control.apiserver.admission.classes import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    RuntimeClass,
)
from control.apiserver.admission.configuration import Settings
from control.apiserver.admission.event_rate_limit import EventRateLimit
from control.apiserver.admission.limit_ranger import LimitRanger
from control.apiserver.admission.namespace_lifecycle import NamespaceLifecycle
from control.apiserver.admission.node_restriction import NodeRestriction
from control.apiserver.admission.optional import AlwaysPullImages, DenyServiceExternalIPs
from control.apiserver.admission.plugin import Plugin
from control.apiserver.admission.pod_defaults import (
    SYSTEM_PRIORITY_CLASSES,
    DefaultTolerationSeconds,
    Priority,
    TaintNodesByCondition,
)
from control.apiserver.admission.pod_security import PodSecurity
from control.apiserver.admission.pod_topology import PodTopologyLabels
from control.apiserver.admission.rbac_escalation import RbacEscalation
from control.apiserver.admission.resource_quota import ResourceQuota
from control.apiserver.admission.service_account import ServiceAccountAdmission
from control.apiserver.admission.storage_protection import StorageObjectInUseProtection
from control.apiserver.allocation.addresses import Addresses
from control.apiserver.allocation.allocator import ServiceAllocator
from control.apiserver.allocation.node_ports import NodePorts
from control.apiserver.allocation.ranges import AddressRange, PortRange
from control.apiserver.allocation.repair import Repair
from control.apiserver.authn.chain import Authentication, TokenAuthenticator
from control.apiserver.authn.front_proxy import FrontProxyHeaders
from control.apiserver.authn.jwt_keys import (
    TokenSigner,
    TokenVerifier,
    VerificationKey,
    load_private_key,
    load_public_keys,
)
from control.apiserver.authn.reviews import AuthenticationReviews
from control.apiserver.authn.token_request import TokenRequests, issuer_documents
from control.apiserver.authn.x509 import CertificateAuthority
from control.apiserver.authz import bootstrap
from control.apiserver.authz.aggregation import RoleAggregation
from control.apiserver.authz.authorizer import FOLLOWED, ModeAuthorizer
from control.apiserver.authz.reviews import AccessReviews
from control.apiserver.config import ApiServerConfig
from control.apiserver.measures import AdmissionMetrics
from control.apiserver.policies.mutating import MutatingPolicies
from control.apiserver.policies.plugin import ValidatingPolicies
from control.apiserver.request import Hub, Judge, PathAnswer, Security
from control.apiserver.streams.kubelets import Kubelets
from control.apiserver.streams.pods import PodStreams
from control.apiserver.streams.proxies import Proxies
from control.apiserver.webhooks.caller import Caller
from control.apiserver.webhooks.plugin import Hooks, MutatingWebhooks, ValidatingWebhooks, Webhooks

logger = logging.getLogger(__name__)

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "default", "raftsman-announce")
_RECONCILE_ATTEMPTS_MAX = 5
JUDGED_BY = (
    NAMESPACES, SERVICE_ACCOUNTS, SECRETS, NODES, PRIORITY_CLASSES, LIMIT_RANGES, STORAGE_CLASSES, INGRESS_CLASSES,
    RUNTIME_CLASSES,
)  # fmt: skip
"""What admission looks at."""
_RETRY_S = 0.5
_ISSUER_CACHED = b"public, max-age=3600"
"""How long others may keep what they verify tokens with."""
_KNOWN_POLL_S = 0.01
_KNOWN_POLLS_MAX = 1000


def secure(hub: Hub) -> Security:
    """Build authentication, authorization, admission and allocation, and register their handlers."""
    config = hub.config
    authorizer = ModeAuthorizer(config.authorization_modes)
    signer, keys = token_keys(config)
    audiences = config.api_audiences or (config.service_account_issuer,)
    tokens = TokenAuthenticator(
        TokenVerifier(keys, (config.service_account_issuer,)),
        audiences,
        hub.lookup,
        hub.client,
        bootstrap=config.enable_bootstrap_token_auth,
        revision=hub.revision_of,
    )
    authentication = Authentication(
        authorities=_authority(config.client_ca_file),
        proxy_authorities=_proxy_authority(config),
        proxy_headers=proxy_headers(config),
        tokens=tokens,
        authorizer=authorizer,
    )
    AccessReviews(authorizer).register(hub.handlers)
    AuthenticationReviews(tokens).register(hub.handlers)
    TokenRequests(hub.client, signer, issuer=config.service_account_issuer, audiences=audiences).register(hub.handlers)
    random = Random()
    kubelets = Kubelets(hub.client, config)
    PodStreams(hub.client, kubelets, authorizer).register(hub.handlers)
    Proxies(hub.client, hub.lookup, kubelets, random).register(hub.handlers)
    _serve_issuer(hub, keys)
    ports = NodePorts(hub.ranges, PortRange(*config.service_node_port_range), random)
    ranges = [AddressRange(ip_network(part)) for part in config.service_cluster_ip_range.split(",")]
    addresses = {found.family: Addresses(hub.client, found, random) for found in ranges}
    allocator = ServiceAllocator(addresses, ports, random)
    repair = Repair(hub.client, ports)
    aggregation = RoleAggregation(hub.lookup, hub.client)
    completing, refusing = Hooks(hub.lookup, MUTATING_WEBHOOKS), Hooks(hub.lookup, VALIDATING_WEBHOOKS)
    caller, admission = Caller(hub.lookup, random), AdmissionMetrics(hub.metrics)
    mutating = MutatingWebhooks(completing, Webhooks(caller, admission, authorizer), hub.complete)
    validating = ValidatingWebhooks(refusing, Webhooks(caller, admission, authorizer))
    policies = ValidatingPolicies(hub.lookup, hub.find, authorizer)
    mutations = MutatingPolicies(hub.lookup, hub.find, authorizer, hub.complete, hub.definition)
    settings = _settings(config)
    quotas = ResourceQuota(hub.lookup, hub.client, random, limited=settings.limited)

    async def start() -> None:
        if not aggregation.following:
            await _fill_caches(hub, authorizer)
            aggregation.follow()
            await completing.follow()
            await refusing.follow()
            await policies.follow()
            await mutations.follow()
            await quotas.follow()
        await _bootstrap_objects(hub)

    async def upkeep() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repair.run())
            tasks.create_task(aggregation.run())

    return Security(
        authenticator=authentication,
        authorizer=authorizer,
        judge=Judge(authentication.proof, authorizer.decide),
        admission=_admission(hub, authorizer, settings, (mutations, mutating, policies, validating, quotas), admission),
        allocators={SERVICES: allocator},
        bootstrap=start,
        run=upkeep,
    )


def _settings(config: ApiServerConfig) -> Settings:
    enable, disable = config.enable_admission_plugins, config.disable_admission_plugins
    return configuration.read(enable, disable, config.admission_control_config_file)


def _serve_issuer(hub: Hub, keys: Sequence[VerificationKey]) -> None:
    """Serve OpenID discovery, with which others verify service account tokens."""
    config = hub.config
    advertised = f"{config.advertise_address or config.bind_address}:{config.secure_port}"
    for path, (kind, document) in issuer_documents(config.service_account_issuer, keys, advertised).items():
        made = PathAnswer(orjson.dumps(document), kind.encode(), _ISSUER_CACHED)

        async def answer(made: PathAnswer = made) -> PathAnswer:
            return made

        hub.handlers.add_path(path, answer)


def token_keys(config: ApiServerConfig) -> tuple[TokenSigner | None, list[VerificationKey]]:
    """The key that signs tokens, and all that verify them: the signing key's own half is always among them."""
    keys = [key for path in config.service_account_key_files for key in load_public_keys(path)]
    if config.service_account_signing_key_file is None:
        return None, keys
    signer = TokenSigner(load_private_key(config.service_account_signing_key_file))
    if all(key.key_id != signer.public.key_id for key in keys):
        keys.append(signer.public)
    return signer, keys


def _authority(path: Path | None) -> CertificateAuthority | None:
    return None if path is None else CertificateAuthority.from_file(path)


def _proxy_authority(config: ApiServerConfig) -> CertificateAuthority | None:
    """The front proxy's authority; one that also signs clients would let each of them be anybody."""
    if config.requestheader_client_ca_file is None:
        return None
    proxy = CertificateAuthority.from_file(config.requestheader_client_ca_file)
    clients = _authority(config.client_ca_file)
    if clients is not None and proxy.shares_issuer_with(clients):
        raise ValueError(
            "--requestheader-client-ca-file and --client-ca-file hold the same authority:"
            " every client could ask as anybody"
        )
    return proxy


def proxy_headers(config: ApiServerConfig) -> FrontProxyHeaders:
    """What front proxies say for whom they ask with."""
    return FrontProxyHeaders(
        config.requestheader_username_headers,
        config.requestheader_uid_headers,
        config.requestheader_group_headers,
        config.requestheader_extra_headers_prefixes,
        config.requestheader_allowed_names,
    )


def _admission(
    hub: Hub,
    authorizer: ModeAuthorizer,
    settings: Settings,
    extensions: tuple[Plugin, ...],
    admission: AdmissionMetrics,
) -> AdmissionChain:
    config = hub.config
    plugins: tuple[Plugin, ...] = (
        NodeRestriction(hub.lookup),
        NamespaceLifecycle(hub.lookup, hub.client),
        ServiceAccountAdmission(hub.lookup, hub.client),
        LimitRanger(hub.lookup),
        TaintNodesByCondition(),
        PodSecurity(hub.lookup, settings.standards),
        Priority(hub.lookup),
        DefaultTolerationSeconds(config.default_not_ready_toleration_s, config.default_unreachable_toleration_s),
        DefaultStorageClass(hub.lookup),
        StorageObjectInUseProtection(),
        PersistentVolumeClaimResize(hub.lookup),
        RuntimeClass(hub.lookup),
        Certificates(authorizer),
        ClusterTrustBundleAttest(authorizer),
        DefaultIngressClass(hub.lookup),
        PodTopologyLabels(hub.lookup),
        RbacEscalation(authorizer, hub.client),
        *(found for name, found in _optional(settings) if name in settings.enabled),
        *extensions,
    )
    return AdmissionChain([each for each in plugins if name_of(each) not in settings.disabled], admission)


def _optional(settings: Settings) -> tuple[tuple[str, Plugin], ...]:
    return (
        ("AlwaysPullImages", AlwaysPullImages()),
        ("DenyServiceExternalIPs", DenyServiceExternalIPs()),
        ("EventRateLimit", EventRateLimit(settings.limits)),
    )


async def _fill_caches(hub: Hub, authorizer: ModeAuthorizer) -> None:
    await _together(hub.lookup.warm(resource) for resource in (*FOLLOWED, *JUDGED_BY))
    # Everything is there: following cannot fail halfway and be begun twice.
    await authorizer.follow(hub.lookup)


async def _bootstrap_objects(hub: Hub) -> None:
    """Make what every cluster starts with, however long the store takes; other API servers may be doing the same."""
    while True:
        try:
            await _make_bootstrap_objects(hub)
        except ApiError as error:
            if error.code < 500:
                raise
            logger.warning("bootstrap waits for the store error=%s", error)
            await asyncio.sleep(_RETRY_S)
        else:
            break
    if "RBAC" in hub.config.authorization_modes:
        await _until_known(hub)


async def _make_bootstrap_objects(hub: Hub) -> None:
    spaces: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}} for space in SYSTEM_NAMESPACES
    ]
    classes: list[Object] = [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": class_name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        }
        for class_name, (value, description) in SYSTEM_PRIORITY_CLASSES.items()
    ]
    await _together(_ensure(hub, NAMESPACES, wanted) for wanted in spaces)
    await _together(_ensure(hub, PRIORITY_CLASSES, wanted) for wanted in classes)
    if "RBAC" in hub.config.authorization_modes:
        await _together(_reconcile(hub, resource, wanted) for resource, wanted in bootstrap.policy())


async def _together(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once: the store takes many writes in the time of one. Raises the first failure of all."""
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _until_known(hub: Hub) -> None:
    """Wait until the authorizer has heard of every role: the first request must not find it half informed."""
    for resource, wanted in bootstrap.policy():
        for _ in range(_KNOWN_POLLS_MAX):
            if hub.lookup.get(resource, name(wanted), namespace(wanted)) is not None:
                break
            await asyncio.sleep(_KNOWN_POLL_S)


async def _ensure(hub: Hub, resource: Resource, wanted: Object) -> None:
    if hub.lookup.get(resource, name(wanted), namespace(wanted)) is not None:
        return
    try:
        await hub.client.create(resource, wanted, namespace(wanted))
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


async def _reconcile(hub: Hub, resource: Resource, wanted: Object) -> None:
    """Create the object, or add what the one that exists lacks."""
    for _ in range(_RECONCILE_ATTEMPTS_MAX):
        try:
            existing = hub.lookup.get(resource, name(wanted), namespace(wanted))
            if existing is None:
                await hub.client.create(resource, wanted, namespace(wanted))
            elif (changed := bootstrap.reconciled(existing, wanted)) is not None:
                await hub.client.update(resource, changed)
        except ApiError as error:
            if error.code != 409:
                raise
            # Another API server was faster, or the cache is behind: look again a moment later.
            await asyncio.sleep(0.05)
            continue
        return
    logger.warning("bootstrap object is contended resource=%s name=%s", resource.plural, name(wanted))
