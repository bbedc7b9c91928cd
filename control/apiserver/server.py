"""Puts one API server together and runs it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from control.api.meta import Object
from control.api.resources import CLUSTER_ROLE_BINDINGS, Resource
from control.apiserver import bootstrap, kinds, objects
from control.apiserver.audit import setup as audit
from control.apiserver.config import ApiServerConfig
from control.apiserver.custom.keeper import DefinitionKeeper
from control.apiserver.etcd import Etcd, StoreError
from control.apiserver.feed import Feed
from control.apiserver.grpc import HubServer
from control.apiserver.keys import Keys
from control.apiserver.loopback import LoopbackClient
from control.apiserver.measures import AccessMetrics, StoreMetrics, watch_caches
from control.apiserver.metrics import Metrics
from control.apiserver.pods import PodSubresources
from control.apiserver.ranges import EtcdRanges
from control.apiserver.registry import Registry, Settings
from control.apiserver.request import Handlers, Hub, Security
from control.apiserver.rest.app import App
from control.apiserver.rest.discovery import Discovery, version_info
from control.apiserver.rest.health import Check, Health
from control.apiserver.rest.openapi import OpenAPI
from control.apiserver.rest.server import bind, serve, tls_context
from control.apiserver.security import secure
from control.apiserver.service import Service

if TYPE_CHECKING:
    from control.apiserver.encryption.keeper import Encryption

log = logging.getLogger(__name__)

COMPACT_INTERVAL_S = 300.0
START_RETRY_S = 0.5


@dataclass(slots=True)
class _Life:
    """What health checks look at."""

    started: bool = False
    ending: bool = False


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
        self.auditor = audit.make(config.audit, self.metrics) if config.audit is not None else None
        self.registry = Registry(self.store, self.feed, Settings(config.event_ttl_s))
        self.handlers = Handlers()
        self.client = LoopbackClient()
        ranges = EtcdRanges(self.store, config.etcd.prefix)
        self.security: Security = secure(
            Hub(config, self.feed, self.client, self.handlers, ranges, self._find, self._complete, self.metrics)
        )
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
        self._life = _Life()
        health = Health(self._live_checks(), {"etcd": self._store_fault, "shutdown": self._ending_fault})
        self.app = App(self.service, Discovery(self.kinds), health, OpenAPI(self.kinds), self.metrics, self.auditor)
        self._measure()

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

    def _measure(self) -> None:
        """Tell of what others keep."""
        watch_caches(self.metrics, self.feed)
        size = self.metrics.gauge("apiserver_storage_size_bytes", "Bytes of the store's file.", ("storage_cluster_id",))
        information = version_info()
        labels = {
            "major": information["major"],
            "minor": information["minor"],
            "git_version": information["gitVersion"],
            "git_commit": information["gitCommit"],
            "git_tree_state": information["gitTreeState"],
            "build_date": information["buildDate"],
            "go_version": information["goVersion"],
            "compiler": information["compiler"],
            "platform": information["platform"],
        }
        build = self.metrics.gauge("kubernetes_build_info", "Which version this is; the value is 1.", tuple(labels))
        build.set(1, *labels.values())

        async def measure_store() -> None:
            try:
                size.set(await self.store.size(), "etcd-0")
            except StoreError as error:
                size.values.clear()
                log.warning("the store does not tell its size error=%s", error)

        self.metrics.before(measure_store)

    def _find(self, api_version: str, kind: str) -> Resource | None:
        served = (each.resource for each in self.kinds.all)
        return next((found for found in served if (found.api_version, found.kind) == (api_version, kind)), None)

    def _complete(self, resource: Resource, obj: Object) -> Object:
        return objects.complete(self.kinds.of(resource), obj, "Ignore", [])

    def _live_checks(self) -> dict[str, Check]:
        checks: dict[str, Check] = {"ping": lambda: ""}
        if self.encryption is not None:
            checks["kms-providers"] = self.encryption.fault
        return checks

    def _store_fault(self) -> str:
        return "" if self.feed.following else "the store does not answer"

    def _ending_fault(self) -> str:
        return "this server is going away" if self._life.ending else ""

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
        hub = (
            HubServer(self.config, self.service, self.app.requests, self.auditor)
            if self.config.grpc_port >= 0
            else None
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                auditing = tasks.create_task(audit.run(self.auditor)) if self.auditor is not None else None
                encrypting = None
                if self.encryption is not None:
                    await self.encryption.start()
                    encrypting = tasks.create_task(self.encryption.run())
                following = tasks.create_task(self.feed.run())
                await self.feed.ready()
                await self._prepare()
                doors = tasks.create_task(self._serve(bound, hub))
                upkeep = [
                    tasks.create_task(self.security.run()),
                    tasks.create_task(self._compact()),
                    tasks.create_task(self.definitions.run()),
                    tasks.create_task(bootstrap.keep_kubernetes_service(self.config, self.store, self.client, bound)),
                ]
                try:
                    await asyncio.shield(doors)
                finally:
                    # Requests end before what they stand on does.
                    self._life.ending = True
                    await asyncio.sleep(self.config.shutdown_delay_s)
                    self.feed.end_watches()
                    doors.cancel()
                    await asyncio.wait([doors])
                    for task in upkeep:
                        task.cancel()
                    await asyncio.wait(upkeep)
                    following.cancel()
                    for last in (auditing, encrypting):
                        # What requests told and stored with is needed until the last of them is over.
                        if last is not None:
                            last.cancel()
        finally:
            bound.close()
            await self.store.close()

    async def _prepare(self) -> None:
        """Make what must be there before the first request, however long the store takes to answer."""
        while True:
            try:
                await self.security.bootstrap()
                await bootstrap.ensure_service_network(self.config, self.client)
                await self.feed.warm(CLUSTER_ROLE_BINDINGS)
                await self.definitions.start()
                return
            except (StoreError, TimeoutError) as error:
                log.warning("bootstrap waits for the store error=%s", error)
            await asyncio.sleep(START_RETRY_S)

    async def _serve(self, bound: socket.socket, hub: HubServer | None) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(self.app, bound, self._tls()))
            if hub is not None:
                await hub.start()
                tasks.create_task(hub.run())
            # What stands now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
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
