"""The encryption that is in force: read from its file at the start, and again where the file changes.

A file that cannot be used, or whose plugins do not answer, changes nothing: what was in force stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from control.apiserver.config import ConfigurationError
from control.apiserver.encryption import configuration
from control.apiserver.encryption.ciphers import AesCbc, AesGcm, BlockCipher, Secretbox
from control.apiserver.encryption.configuration import ProviderSettings, ResourceSettings
from control.apiserver.encryption.kms import KmsPlugin, KmsProvider
from control.apiserver.encryption.measures import EncryptionMetrics
from control.apiserver.encryption.transformers import Identity, Keyring, Provider, Transformer, Transformers
from control.apiserver.keys import GroupResource
from control.apiserver.metrics import Metrics

log = logging.getLogger(__name__)

RELOAD_INTERVAL_S = 2.0
RETRY_INTERVAL_S = 30.0
"""What could not be read is tried again after this: a plugin may have failed for a moment."""
PLUGIN_GRACE_S = 10.0
"""How long a plugin that is no longer configured can still be asked by requests under way."""
_CIPHERS: dict[str, tuple[Callable[[bytes], BlockCipher], str]] = {
    "aesgcm": (AesGcm, "AES"),
    "aescbc": (AesCbc, "AES"),
    "secretbox": (Secretbox, "Secretbox"),
}


class Encryption:
    """The transformers of one server, and the plugins behind them."""

    def __init__(self, path: Path, *, reload: bool, metrics: Metrics, interval_s: float = RELOAD_INTERVAL_S) -> None:
        self.metrics = EncryptionMetrics(metrics)
        self._path = path
        self._reload = reload
        self._interval_s = interval_s
        self._identity = f"sha256:{hashlib.sha256(socket.gethostname().encode()).hexdigest()}"
        settings, self.hash = configuration.read(path)
        self._refused = ""
        self.transformers, self._plugins = self._build(settings)
        self.metrics.config.set(1, self._identity, self.hash)
        self.on_change: Callable[[], None] = lambda: None
        """Called when other values may have become readable."""

    def _build(self, settings: tuple[ResourceSettings, ...]) -> tuple[Transformers, list[KmsProvider]]:
        plugins: list[KmsProvider] = []
        by_resource: dict[GroupResource, list[Provider]] = {}
        for entry in settings:
            providers = [self._provider(found, plugins) for found in entry.providers]
            for resource in entry.resources:
                by_resource.setdefault(resource, []).extend(providers)
        return Transformers({name: Transformer(found) for name, found in by_resource.items()}), plugins

    def _provider(self, settings: ProviderSettings, plugins: list[KmsProvider]) -> Provider:
        if settings.kind == "identity":
            return Identity()
        if settings.kind == "kms":
            metrics = self.metrics.kms
            plugin = KmsPlugin(settings.name, settings.endpoint, settings.timeout_s, metrics)
            plugins.append(KmsProvider(plugin, metrics))
            return plugins[-1]
        make, called = _CIPHERS[settings.kind]
        keys = [(name, make(secret)) for name, secret in settings.keys]
        missing = f"no matching key was found for the provided {called} transformer"
        return Keyring(f"k8s:enc:{settings.kind}:v1:".encode(), keys, missing)

    # Plugins.

    def fault(self) -> str:
        """Return what is wrong with the plugins, empty for nothing: the check kms-providers."""
        faults = [f"kms-provider-{index}: {plugin.fault}" for index, plugin in enumerate(self._plugins) if plugin.fault]
        return faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]" if faults else ""

    async def start(self) -> None:
        """Ask all plugins for their keys, so that the first request finds them; an ill one does not hold us up."""
        for plugin in self._plugins:
            await plugin.probe()

    async def run(self) -> None:
        """Stay in touch with the plugins, and with the file where that is wished, until cancelled."""
        plugins = self._plugins
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [tasks.create_task(plugin.run(self._recovered)) for plugin in plugins]
                tasks.create_task(self._retry())
                while True:
                    await asyncio.sleep(self._interval_s)
                    if not self._reload or not await self._reloaded():
                        continue
                    for loop in loops:
                        loop.cancel()
                    tasks.create_task(_close_later(plugins))
                    plugins = self._plugins
                    loops = [tasks.create_task(plugin.run(self._recovered)) for plugin in plugins]
        finally:
            for plugin in self._plugins:
                with suppress(asyncio.CancelledError):
                    await plugin.close()

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(RETRY_INTERVAL_S)
            self.on_change()

    def _recovered(self) -> None:
        self.on_change()

    # The file.

    async def _reloaded(self) -> bool:
        """Take the file's settings where they are new; tell whether that was so."""
        try:
            settings, found = configuration.read(self._path)
        except ConfigurationError as error:
            self._refuse(str(error))
            return False
        if found == self.hash:
            self._refused = ""
            return False
        transformers, plugins = self._build(settings)
        for plugin in plugins:
            await plugin.probe()
        faults = [plugin.fault for plugin in plugins if plugin.fault]
        if faults:
            for plugin in plugins:
                await plugin.close()
            self._refuse(faults[0])
            return False
        self.metrics.config.values.pop((self._identity, self.hash), None)
        self.metrics.config.set(1, self._identity, found)
        self.transformers, self._plugins, self.hash, self._refused = transformers, plugins, found, ""
        self._count("success")
        log.info("encryption configuration reloaded path=%s hash=%s", self._path, found)
        self.on_change()
        return True

    def _refuse(self, fault: str) -> None:
        """Count and log a file that cannot be used, once for each fault of it."""
        if fault == self._refused:
            return
        self._refused = fault
        self._count("failure")
        log.error("encryption configuration cannot be used, the one before stays in force error=%s", fault)

    def _count(self, outcome: str) -> None:
        self.metrics.reloads.add(self._identity, outcome)
        self.metrics.reloaded.set(time.time(), self._identity, outcome)


async def _close_later(plugins: list[KmsProvider]) -> None:
    try:
        await asyncio.sleep(PLUGIN_GRACE_S)
    finally:
        for plugin in plugins:
            await plugin.close()
