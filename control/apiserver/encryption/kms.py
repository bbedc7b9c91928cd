"""A KMS v2 plugin: a process on this machine that encrypts our seeds with a key that we never see.

The plugin is asked when its key changes and when a seed is met that is not known yet, never for a single object: a
value's key is made of a seed. While the plugin is ill, what is known can be read on, and written for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from control.apiserver.encryption import envelope
from control.apiserver.encryption.ciphers import SEED_BYTES, AesGcm, BlockCipher, CipherError, SeededAesGcm
from control.apiserver.encryption.measures import KmsMetrics
from control.apiserver.encryption.transformers import Opened, TransformError
from proto.kms import api_pb2, api_pb2_grpc

log = logging.getLogger(__name__)

HEALTHY_INTERVAL_S = 20.0
ILL_INTERVAL_S = 3.0
WRITE_MAX_S = 180.0
"""How long a seed may be written with after the plugin was last seen well."""
REFUSAL_S = 1.0
SEEDS_MAX = 1000
MESSAGE_BYTES_MAX = 4 << 20
PREFIX = "k8s:enc:kms:v2:"
_VERSIONS = ("v2", "v2beta1")


class KmsError(Exception):
    """The plugin did not do what was asked; the text says what and why."""


def target(endpoint: str) -> str:
    """Return gRPC's name of a unix:// endpoint."""
    path = urlsplit(endpoint).path
    return f"unix-abstract:{path[2:]}" if path.startswith("/@") else f"unix:{path}"


class KmsPlugin:
    """The plugin's three calls."""

    def __init__(self, name: str, endpoint: str, timeout_s: float, metrics: KmsMetrics) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._metrics = metrics
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel = grpc.aio.insecure_channel(target(endpoint), options)
        self._stub = api_pb2_grpc.KeyManagementServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def _call(self, method: str, request: Any) -> Any:
        since = monotonic()
        code = "OK"
        try:
            return await getattr(self._stub, method)(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            code = "".join(word.capitalize() for word in error.code().name.split("_"))
            raise KmsError(f"rpc error: code = {code} desc = {error.details()}") from None
        finally:
            method_name = f"/v2.KeyManagementService/{method}"
            self._metrics.latency.observe(monotonic() - since, self.name, method_name, code)

    async def status(self) -> api_pb2.StatusResponse:
        """Ask how it is and which key it uses."""
        answer: api_pb2.StatusResponse = await self._call("Status", api_pb2.StatusRequest())
        return answer

    async def encrypt(self, uid: str, data: bytes) -> api_pb2.EncryptResponse:
        """Have a seed encrypted."""
        request = api_pb2.EncryptRequest(plaintext=data, uid=uid)
        answer: api_pb2.EncryptResponse = await self._call("Encrypt", request)
        return answer

    async def decrypt(self, uid: str, found: api_pb2.EncryptedObject) -> bytes:
        """Have a seed, or an older server's key, decrypted."""
        request = api_pb2.DecryptRequest(
            ciphertext=found.encryptedDEKSource, uid=uid, key_id=found.keyID, annotations=dict(found.annotations)
        )
        answer: api_pb2.DecryptResponse = await self._call("Decrypt", request)
        return answer.plaintext


@dataclass(frozen=True, slots=True)
class _State:
    """What is written with."""

    cipher: SeededAesGcm
    template: api_pb2.EncryptedObject
    key: envelope.CacheKey


class KmsProvider:
    """The provider of one plugin."""

    def __init__(self, plugin: KmsPlugin, metrics: KmsMetrics, clock: Callable[[], float] = monotonic) -> None:
        self.prefix = f"{PREFIX}{plugin.name}:".encode()
        self._plugin = plugin
        self._metrics = metrics
        self._clock = clock
        self._state: _State | None = None
        self._write_until = 0.0
        self._version = ""
        self._ciphers: OrderedDict[envelope.CacheKey, BlockCipher] = OrderedDict()
        self._refusal: tuple[envelope.CacheKey | None, float, str] = (None, 0.0, "")
        """The seed that the plugin refused last, until when that is believed, and why."""
        self.fault = "the plugin has not been asked yet"
        """What is wrong with the plugin, empty for nothing."""

    # Staying in touch with the plugin.

    async def run(self, recovered: Callable[[], None]) -> None:
        """Ask for the plugin's health and key until cancelled; call ``recovered`` each time that it is well again."""
        while True:
            fault = self.fault
            await asyncio.sleep(ILL_INTERVAL_S if fault else HEALTHY_INTERVAL_S)
            await self.probe()
            if fault and not self.fault:
                recovered()

    async def close(self) -> None:
        """Let go of the plugin."""
        await self._plugin.close()

    async def probe(self) -> None:
        """Ask for the plugin's health and key once, and take a new seed where the key is a new one."""
        try:
            answer = await self._plugin.status()
        except KmsError as error:
            fault = f"failed to perform status section of the healthz check for KMS Provider {self._plugin.name}"
            self._note(f"{fault}, error: {error}")
            return
        faults = self._status_faults(answer)
        if fault := envelope.key_id_fault(answer.key_id):
            code = "empty" if not answer.key_id else "too_long"
            self._metrics.invalid_key_ids.add(self._plugin.name, code)
            faults.append(f'got invalid KMSv2 KeyID hash "{envelope.key_id_hash(answer.key_id)}": {fault}')
        else:
            try:
                await self._rotate(answer.key_id)
            except (KmsError, CipherError) as error:
                faults.append(str(error))
        text = faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]"
        self._note(f"kmsv2 Provider {self._plugin.name} is not healthy, error: {text}" if faults else "")

    def _status_faults(self, answer: api_pb2.StatusResponse) -> list[str]:
        faults = []
        if answer.healthz != "ok":
            faults.append(f"got unexpected healthz status: {answer.healthz}")
        if answer.version not in _VERSIONS:
            faults.append(f"expected KMSv2 API version v2, got {answer.version}")
        else:
            self._version = self._version or answer.version
            if answer.version != self._version:
                faults.append(
                    "KMSv2 API version should not change after the initial status response version"
                    f" {self._version}, got {answer.version}"
                )
        return faults

    def _note(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.error("KMS plugin is ill name=%s error=%s", self._plugin.name, fault)
        elif self.fault and not fault:
            log.info("KMS plugin is well name=%s", self._plugin.name)
            self._refusal = (None, 0.0, "")
        self.fault = fault

    async def _rotate(self, key_id: str) -> None:
        """Write with a seed of this key from now on; what was written before stays readable."""
        until = self._clock() + WRITE_MAX_S
        if self._state is not None and self._state.template.keyID == key_id:
            self._write_until = until
            return
        uid, seed = str(uuid.uuid4()), os.urandom(SEED_BYTES)
        try:
            answer = await self._plugin.encrypt(uid, seed)
        except KmsError as error:
            raise KmsError(f'failed to rotate DEK uid="{uid}": failed to encrypt DEK, error: {error}') from None
        made = api_pb2.EncryptedObject(
            keyID=answer.key_id,
            encryptedDEKSource=answer.ciphertext,
            annotations=dict(answer.annotations),
            encryptedDEKSourceType=envelope.SEED,
        )
        envelope.check(made, sealed=False)
        if answer.key_id != key_id:
            raise KmsError(
                f'failed to rotate DEK uid="{uid}", statusKeyIDHash="{envelope.key_id_hash(key_id)}",'
                f' encryptKeyIDHash="{envelope.key_id_hash(answer.key_id)}"'
            )
        self._state = _State(SeededAesGcm(seed), made, envelope.cache_key(made))
        self._write_until = until
        self._keep(self._state.key, self._state.cipher)

    def _keep(self, key: envelope.CacheKey, cipher: BlockCipher) -> None:
        self._ciphers[key] = cipher
        if len(self._ciphers) > SEEDS_MAX:
            self._ciphers.popitem(last=False)
        self._metrics.fill.set(len(self._ciphers) / SEEDS_MAX, self._plugin.name)

    # The provider.

    async def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt with the seed of the plugin's key."""
        state = self._state
        if state is None:
            raise TransformError(f"the KMS plugin has given no key yet: {self.fault}")
        if self._clock() > self._write_until:
            raise TransformError(
                f'encryptedDEKSource with keyID hash "{envelope.key_id_hash(state.template.keyID)}" expired:'
                f" {self.fault or 'the KMS plugin was not seen well for too long'}"
            )
        try:
            return envelope.encode(state.template, state.cipher.seal(data, context))
        except CipherError as error:
            raise TransformError(str(error)) from None

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Decrypt, asking the plugin for the seed where it is not known."""
        try:
            found = envelope.decode(stored)
            key = envelope.cache_key(found)
            cipher = self._ciphers.get(key)
            if cipher is None:
                cipher = await self._ask(found, key)
                self._keep(key, cipher)
            else:
                self._ciphers.move_to_end(key)
            data = cipher.open(found.encryptedData, context)
        except CipherError as error:
            raise TransformError(str(error)) from None
        current = self._state.template if self._state is not None else None
        stale = current is not None and (
            found.keyID != current.keyID or found.encryptedDEKSourceType != current.encryptedDEKSourceType
        )
        return Opened(data, stale)

    async def _ask(self, found: api_pb2.EncryptedObject, key: envelope.CacheKey) -> BlockCipher:
        refused, until, why = self._refusal
        if refused == key and self._clock() < until:
            # Many values share a seed: a plugin that does not answer must not hold up each of them.
            raise TransformError(why)
        self._metrics.misses.add()
        try:
            plain = await self._plugin.decrypt(str(uuid.uuid4()), found)
        except KmsError as error:
            why = f"failed to decrypt DEK, error: {error}"
            self._refusal = (key, self._clock() + REFUSAL_S, why)
            raise TransformError(why) from None
        try:
            return SeededAesGcm(plain) if found.encryptedDEKSourceType == envelope.SEED else AesGcm(plain)
        except ValueError as error:
            raise TransformError(f"the KMS plugin decrypted to no key: {error}") from None
