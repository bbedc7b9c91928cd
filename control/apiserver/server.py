"""Puts one API server together and runs it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from control.api.meta import Object
from control.api.resources import CLUSTER_ROLE_BINDINGS, Resource
from control.apiserver import bootstrap, kinds, objects
from control.apiserver.aggregation import trust
from control.apiserver.aggregation.aggregator import Aggregator
from control.apiserver.aggregation.backends import Backends
from control.apiserver.aggregation.forwarding import Forwarding
from control.apiserver.aggregation.proxy import Proxy
from control.apiserver.checks import Life, health_of
from control.apiserver.config import ApiServerConfig
from control.apiserver.custom.conversion import Conversions
from control.apiserver.custom.keeper import DefinitionKeeper
from control.apiserver.etcd import Etcd, StoreError
from control.apiserver.feed import Feed
from control.apiserver.flow.gate import FlowGate
from control.apiserver.flow.inflight import InFlightGate
from control.apiserver.flow.keeper import FlowKeeper
from control.apiserver.flow.measures import measure
from control.apiserver.grpc import HubServer
from control.apiserver.identity import IdentityLease
from control.apiserver.keys import Keys
from control.apiserver.loopback import LoopbackClient
from control.apiserver.measures import AccessMetrics, StoreMetrics, tell_build, watch_caches, watch_store
from control.apiserver.metrics import Metrics
from control.apiserver.pods import PodSubresources
from control.apiserver.ranges import EtcdRanges
from control.apiserver.registry import Registry, Settings
from control.apiserver.request import Handlers, Hub, RequestInfo, Security
from control.apiserver.rest.app import App
from control.apiserver.rest.discovery import Discovery, version_info
from control.apiserver.rest.health import Check
from control.apiserver.rest.openapi import OpenAPI
from control.apiserver.rest.prompt import PromptGets
from control.apiserver.rest.server import bind, serve, tls_context
from control.apiserver.security import proxy_headers, secure
from control.apiserver.service import Service
from control.apiserver.webhooks.caller import Caller

if TYPE_CHECKING:
    from control.apiserver.audit.auditor import Auditor
    from control.apiserver.encryption.keeper import Encryption

log = logging.getLogger(__name__)

COMPACT_INTERVAL_S = 300.0
START_RETRY_S = 0.5
GARBAGE_OBJECTS = 20_000
"""How many objects more than before make the collector look: requests leave few cycles, and it walks through all."""
WAITING_SHARE = 0.25
"""How much of its time a request may wait for a seat."""


class ApiServer:
    """One instance: stateless but for its caches."""

    def __init__(self, config: ApiServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.kinds = kinds.load(config.etcd.prefix)
        keys = Keys(self.kinds)
        notes = StoreMetrics(self.metrics, keys)
        self.encryption: Encryption | None = None
        self.store = self._store(notes, keys)
        self.feed = Feed(self.store, self.kinds)
        if self.encryption is not None:
            self.encryption.on_change = self.feed.reload_sealed
        self.auditor = self._auditor()
        self.registry = Registry(self.store, self.feed, Settings(config.event_ttl_s))
        self.handlers = Handlers()
        self.client = LoopbackClient()
        ranges = EtcdRanges(self.store, config.etcd.prefix)
        self.security: Security = secure(
            Hub(
                config,
                self.feed,
                self.client,
                self.handlers,
                ranges,
                self._find,
                self._complete,
                lambda resource: self.kinds.of(resource).served.definition,
                self.metrics,
                self.feed.revision_of,
            )
        )
        self.registry.conversions = Conversions(Caller(self.feed, Random()))
        self.registry.admission = self.security.admission
        self.registry.allocators = self.security.allocators
        self.service = Service(
            config,
            self.registry,
            self.handlers,
            self.security.authenticator,
            self.security.authorizer,
            AccessMetrics(self.metrics),
        )
        self.client.service = self.service
        PodSubresources(self.registry).install(self.handlers)
        self.definitions = DefinitionKeeper(self.feed, self.client)
        self.flow = self._open_gate()
        self._identity: IdentityLease | None = None
        self._life = Life()
        health = health_of(config, self.store, self.feed, self._life, self._hooks(), self._more_checks())
        discovery, documents = Discovery(self.kinds), OpenAPI(self.kinds)
        self.aggregator = self._aggregate(discovery)
        documents.others = lambda: self.aggregator.openapi
        documents.others_served = lambda: self.aggregator.served
        documents.others_v2 = self.aggregator.swagger
        self.service.routes = self.aggregator.routes
        judge = self.security.judge
        self.app = App(self.service, discovery, health, documents, self.metrics, self.auditor, self.aggregator, judge)
        # Audit tells of stages that such answers do not have.
        self.prompt = PromptGets(self.service, judge, self.app.requests) if judge and self.auditor is None else None
        watch_caches(self.metrics, self.feed)
        watch_store(self.metrics, self.store)
        tell_build(self.metrics, version_info())

    def _aggregate(self, discovery: Discovery) -> Aggregator:
        config = self.config
        backends = Backends(self.feed, Random(), config.proxy_client_cert_file, config.proxy_client_key_file)
        self.forwarding = Forwarding(backends, config.request_timeout_s)
        redirects = not config.aggregator_reject_forwarding_redirect
        proxy = Proxy(backends, proxy_headers(config), config.request_timeout_s, redirects=redirects)
        return Aggregator(self.feed, self.client, self.kinds, backends, proxy, discovery.publish)

    def _store(self, notes: StoreMetrics, keys: Keys) -> Etcd:
        """Return the door to the store, with encryption where that is configured."""
        config = self.config
        if config.encryption_provider_config is None:
            return Etcd(config.etcd, notes)
        # Imported where it is configured: ciphers are heavy.
        from control.apiserver.encryption.keeper import Encryption
        from control.apiserver.encryption.store import EncryptedEtcd

        self.encryption = Encryption(
            config.encryption_provider_config,
            reload=config.encryption_provider_config_automatic_reload,
            metrics=self.metrics,
        )
        return EncryptedEtcd(config.etcd, notes, keys, self.encryption)

    def _auditor(self) -> Auditor | None:
        if self.config.audit is None:
            return None
        from control.apiserver.audit import setup

        return setup.make(self.config.audit, self.metrics)

    def _more_checks(self) -> dict[str, Check]:
        encryption = self.encryption
        if encryption is None:
            return {}

        async def plugins() -> str:
            return encryption.fault()

        return {"kms-providers": plugins}

    def _open_gate(self) -> FlowKeeper | None:
        """Set who limits what is served at once; return who keeps that, where there is somebody."""
        config = self.config
        reads, writes = config.max_requests_inflight, config.max_mutating_requests_inflight
        if not config.enable_priority_and_fairness:
            self.service.gate = InFlightGate(reads, writes)
            return None
        gate = FlowGate(reads + writes, config.request_timeout_s * WAITING_SHARE, self._count)
        self.service.gate = gate
        measure(self.metrics, gate)
        return FlowKeeper(gate, self.feed, self.client)

    def _count(self, info: RequestInfo) -> int:
        kind = self.kinds.find(info.group, info.version, info.resource)
        return self.feed.count(kind, info.namespace) if kind is not None else 0

    def _hooks(self) -> dict[str, Callable[[], bool]]:
        """Return what happens once after the start, under upstream's names, and whether it has."""
        life = self._life

        def prepared() -> bool:
            return life.prepared

        hooks: dict[str, Callable[[], bool]] = {
            "start-system-namespaces-controller": prepared,
            "scheduling/bootstrap-system-priority-classes": prepared,
            "crd-informer-synced": prepared,
            "start-apiextensions-controllers": prepared,
            "start-service-ip-repair-controllers": prepared,
            "bootstrap-controller": prepared,
            "start-kube-apiserver-identity-lease-controller": lambda: (
                self._identity is not None and self._identity.held
            ),
        }
        if "RBAC" in self.config.authorization_modes:
            hooks["rbac/bootstrap-roles"] = prepared
        if (flow := self.flow) is not None:
            hooks["priority-and-fairness-config-consumer"] = lambda: flow.following
            hooks["priority-and-fairness-filter"] = lambda: flow.following
            hooks["priority-and-fairness-config-producer"] = lambda: flow.complete
        return hooks

    def _find(self, api_version: str, kind: str) -> Resource | None:
        served = (each.resource for each in self.kinds.all)
        return next((found for found in served if (found.api_version, found.kind) == (api_version, kind)), None)

    def _complete(self, resource: Resource, obj: Object, validation: str = "Ignore") -> Object:
        return objects.complete(self.kinds.of(resource), obj, validation, [])

    def _tls(self) -> ssl.SSLContext | None:
        config = self.config
        if config.tls_cert_file is None or config.tls_private_key_file is None:
            return None
        authorities = (config.client_ca_file, config.requestheader_client_ca_file)
        return tls_context(
            config.tls_cert_file, config.tls_private_key_file, tuple(path for path in authorities if path is not None)
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        bound = bind(self.config.bind_address, self.config.secure_port)
        requests, auditor = self.app.requests, self.auditor
        served = self.config.grpc_port >= 0
        hub = HubServer(self.config, self.service, requests, auditor, self.forwarding) if served else None
        address = f"{bootstrap.advertised_address(self.config)}:{bound.getsockname()[1]}"
        identity = self._identity = IdentityLease(self.client, address)
        try:
            async with asyncio.TaskGroup() as tasks:
                auditing = tasks.create_task(self.auditor.run()) if self.auditor is not None else None
                encrypting = None
                if self.encryption is not None:
                    await self.encryption.start()
                    encrypting = tasks.create_task(self.encryption.run())
                following = tasks.create_task(self.feed.run())
                await self.feed.ready()
                await self._prepare()
                self._life.prepared = True
                doors = tasks.create_task(self._serve(bound, hub))
                announced = [
                    tasks.create_task(bootstrap.keep_kubernetes_service(self.config, self.store, self.client, bound)),
                    tasks.create_task(identity.run()),
                ]
                upkeep = [
                    tasks.create_task(self.security.run()),
                    tasks.create_task(self._compact()),
                    tasks.create_task(self.definitions.run()),
                    tasks.create_task(self.aggregator.run()),
                    tasks.create_task(trust.keep_trust(self.config, self.registry, self.client)),
                ]
                if self.flow is not None:
                    upkeep.append(tasks.create_task(self.flow.run()))
                try:
                    await asyncio.shield(doors)
                finally:
                    await self._end(doors, announced, upkeep)
                    following.cancel()
                    for last in (auditing, encrypting):
                        # What requests told and stored with is needed until the last of them is over.
                        if last is not None:
                            last.cancel()
        finally:
            bound.close()
            await self.store.close()

    async def _end(
        self, doors: asyncio.Task[None], announced: list[asyncio.Task[None]], upkeep: list[asyncio.Task[None]]
    ) -> None:
        """End so that no client is surprised: told of first, gone last, and requests before what they stand on."""
        self._life.ending = True
        log.info("ending: requests are served for another %.0f s", self.config.shutdown_delay_s)
        for task in announced:
            task.cancel()
        await asyncio.sleep(self.config.shutdown_delay_s)
        self.feed.end_watches()
        doors.cancel()
        await asyncio.wait([doors, *announced])
        for task in upkeep:
            task.cancel()
        await asyncio.wait(upkeep)

    async def _prepare(self) -> None:
        """Make what must be there before the first request, however long the store takes to answer."""
        while True:
            try:
                await self.security.bootstrap()
                await bootstrap.ensure_service_network(self.config, self.client)
                await self.feed.warm(CLUSTER_ROLE_BINDINGS)
                await self.definitions.start()
                await self.aggregator.start()
                return
            except (StoreError, TimeoutError) as error:
                log.warning("bootstrap waits for the store error=%s", error)
            await asyncio.sleep(START_RETRY_S)

    async def _serve(self, bound: socket.socket, hub: HubServer | None) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(self.app, bound, self._tls(), lambda: self.app.in_flight > 0, self.prompt))
            if hub is not None:
                await hub.start()
                tasks.create_task(hub.run())
            # What stands now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
            gc.enable()
            log.info("ready address=%s port=%s grpc=%s", *bound.getsockname()[:2], hub.port if hub else "none")

    async def _compact(self) -> None:
        version, revision = 0, 0
        while True:
            try:
                version, revision = await self.store.compact(version, revision)
            except StoreError as error:
                log.warning("compaction failed error=%s", error)
            await asyncio.sleep(COMPACT_INTERVAL_S)


async def run(config: ApiServerConfig) -> None:
    """Run one API server until cancelled."""
    await ApiServer(config).run()
