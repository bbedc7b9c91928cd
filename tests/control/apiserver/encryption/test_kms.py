"""KMS v2 with a plugin in a process of its own: seeds, new keys, a plugin that is ill, gone or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from control.apiserver.encryption import envelope
from control.apiserver.encryption.ciphers import AesGcm, CipherError
from control.apiserver.encryption.kms import REFUSAL_S, WRITE_MAX_S, KmsPlugin, KmsProvider, target
from control.apiserver.encryption.measures import KmsMetrics
from control.apiserver.encryption.transformers import Opened, TransformError
from control.apiserver.metrics import Metrics
from proto.kms import api_pb2
from tests.control.apiserver.encryption.plugins import PluginProcess

CONTEXT = b"/registry/secrets/default/x"


class Clock:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginProcess]:
    made = PluginProcess(tmp_path_factory.mktemp("kms"))
    made.start()
    yield made
    made.stop()


@asynccontextmanager
async def provider(process: PluginProcess, clock: Clock | None = None, **state: Any) -> AsyncIterator[KmsProvider]:
    """Make a provider that has asked the plugin once."""
    process.set(**{"key": "1", **state})
    metrics = KmsMetrics(Metrics())
    made = KmsProvider(KmsPlugin("plugin", process.endpoint, 3.0, metrics), metrics, clock or Clock())
    await made.probe()
    try:
        yield made
    finally:
        await made.close()


async def test_values_are_stored_with_what_the_plugin_made_of_the_seed(process: PluginProcess) -> None:
    async with provider(process) as one:
        assert one.fault == ""
        assert one.prefix == b"k8s:enc:kms:v2:plugin:"
        stored = await one.seal(b"value", CONTEXT)
        found = api_pb2.EncryptedObject.FromString(stored)
        assert found.keyID == "1"
        assert found.encryptedDEKSourceType == api_pb2.HKDF_SHA256_XNONCE_AES_GCM_SEED
        assert dict(found.annotations) == {"wrapped.plugin.example": b"1"}
        assert b"value" not in stored
        assert await one.open(stored, CONTEXT) == Opened(b"value", False)
        with pytest.raises(TransformError, match="message authentication failed"):
            await one.open(stored, b"/registry/secrets/default/y")


async def test_the_plugin_is_asked_once_for_each_seed_not_for_each_value(process: PluginProcess) -> None:
    async with provider(process) as writer, provider(process) as reader:
        before = len(process.calls())
        stored = [await writer.seal(b"%d" % index, CONTEXT) for index in range(20)]
        assert [(await reader.open(each, CONTEXT)).data for each in stored] == [b"%d" % index for index in range(20)]
        assert process.calls()[before:] == ["Decrypt 1"]


async def test_a_new_key_makes_a_new_seed_and_old_values_stale(process: PluginProcess) -> None:
    async with provider(process) as one:
        old = await one.seal(b"value", CONTEXT)
        process.set(key="2")
        await one.probe()
        new = await one.seal(b"value", CONTEXT)
        assert api_pb2.EncryptedObject.FromString(new).keyID == "2"
        assert await one.open(old, CONTEXT) == Opened(b"value", True)
        assert await one.open(new, CONTEXT) == Opened(b"value", False)


async def test_an_ill_plugin_can_be_written_with_for_a_while_and_read_on(process: PluginProcess) -> None:
    clock = Clock()
    async with provider(process, clock) as one:
        stored = await one.seal(b"value", CONTEXT)
        process.set(key="1", healthz="the vault is sealed")
        clock.now += WRITE_MAX_S - 1
        await one.probe()
        assert (
            one.fault
            == "kmsv2 Provider plugin is not healthy, error: got unexpected healthz status: the vault is sealed"
        )
        await one.seal(b"value", CONTEXT)
        process.stop()
        try:
            clock.now += WRITE_MAX_S + 1
            await one.probe()
            assert "failed to perform status section of the healthz check for KMS Provider plugin" in one.fault
            with pytest.raises(TransformError, match=r'encryptedDEKSource with keyID hash "sha256:.*" expired'):
                await one.seal(b"value", CONTEXT)
            assert await one.open(stored, CONTEXT) == Opened(b"value", False)
        finally:
            process.start()
        process.set(key="1")
        async with asyncio.timeout(20):
            while one.fault:
                await asyncio.sleep(0.05)
                await one.probe()
        await one.seal(b"value", CONTEXT)


async def test_without_a_key_nothing_is_written(tmp_path: Path) -> None:
    metrics = KmsMetrics(Metrics())
    one = KmsProvider(KmsPlugin("plugin", f"unix://{tmp_path}/none.sock", 1.0, metrics), metrics)
    await one.probe()
    assert "code = Unavailable" in one.fault
    with pytest.raises(TransformError, match="the KMS plugin has given no key yet"):
        await one.seal(b"value", CONTEXT)
    await one.close()


async def test_a_revoked_key_is_told_and_not_asked_for_each_value(process: PluginProcess) -> None:
    clock = Clock()
    async with provider(process) as writer, provider(process, clock) as reader:
        stored = await writer.seal(b"value", CONTEXT)
        process.set(key="1", revoked=["1"])
        before = len(process.calls())
        for _ in range(3):
            with pytest.raises(TransformError) as raised:
                await reader.open(stored, CONTEXT)
            assert str(raised.value) == (
                "failed to decrypt DEK, error: rpc error: code = FailedPrecondition desc = key 1 is revoked"
            )
        assert process.calls()[before:] == ["Decrypt 1"]
        process.set(key="1")
        clock.now += REFUSAL_S + 0.1
        assert (await reader.open(stored, CONTEXT)).data == b"value"


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"version": "v1"}, "expected KMSv2 API version v2, got v1"),
        ({"key": ""}, 'got invalid KMSv2 KeyID hash "": keyID is empty'),
        ({"key": "k" * 1025}, "keyID is 1025 bytes, which exceeds the max size of 1024"),
    ],
    ids=["version", "no key", "long key"],
)
async def test_plugins_that_say_nonsense_are_ill(process: PluginProcess, state: dict[str, Any], fault: str) -> None:
    async with provider(process, None, **state) as one:
        assert fault in one.fault


async def test_keys_of_older_servers_are_read(process: PluginProcess) -> None:
    key = bytes(range(32))
    async with provider(process) as one:
        answer = await one._plugin.encrypt("uid", key)
        stored = api_pb2.EncryptedObject(
            encryptedData=AesGcm(key).seal(b"value", CONTEXT),
            keyID=answer.key_id,
            encryptedDEKSource=answer.ciphertext,
            annotations=dict(answer.annotations),
        )
        assert await one.open(stored.SerializeToString(), CONTEXT) == Opened(b"value", True)


ENVELOPES: dict[str, tuple[api_pb2.EncryptedObject, str]] = {
    "no data": (api_pb2.EncryptedObject(), "encrypted data is empty"),
    "no source": (api_pb2.EncryptedObject(encryptedData=b"x"), "encrypted DEK source is empty"),
    "long source": (
        api_pb2.EncryptedObject(encryptedData=b"x", encryptedDEKSource=bytes(1025)),
        "encrypted DEK source is 1025 bytes, which exceeds the max size of 1024",
    ),
    "no key": (api_pb2.EncryptedObject(encryptedData=b"x", encryptedDEKSource=b"x"), "keyID is empty"),
    "annotation": (
        api_pb2.EncryptedObject(encryptedData=b"x", encryptedDEKSource=b"x", keyID="1", annotations={"panda": b""}),
        'annotations: Invalid value: "panda": should be a domain with at least two segments separated by dots',
    ),
    "large annotation": (
        api_pb2.EncryptedObject(
            encryptedData=b"x", encryptedDEKSource=b"x", keyID="1", annotations={"a.b": bytes(32 * 1024)}
        ),
        "total size of annotations is 32771, which exceeds the max size of 32768",
    ),
    "type": (
        api_pb2.EncryptedObject(
            encryptedData=b"x",
            encryptedDEKSource=b"x",
            keyID="1",
            encryptedDEKSourceType=cast("api_pb2.EncryptedDEKSourceType.ValueType", 7),
        ),
        "unknown encryptedDEKSourceType: 7",
    ),
}


@pytest.mark.parametrize("case", ENVELOPES)
def test_envelopes_that_are_none_are_told(case: str) -> None:
    made, text = ENVELOPES[case]
    with pytest.raises(CipherError) as raised:
        envelope.decode(made.SerializeToString())
    assert text in str(raised.value)


def test_bytes_that_are_no_envelope_are_told() -> None:
    with pytest.raises(CipherError, match="cannot parse the stored envelope"):
        envelope.decode(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [("unix:///run/kms.sock", "unix:/run/kms.sock"), ("unix:///@kms", "unix-abstract:kms")],
)
def test_endpoints(endpoint: str, wanted: str) -> None:
    assert target(endpoint) == wanted


async def test_a_plugin_that_is_well_again_is_asked_at_once(process: PluginProcess) -> None:
    async with provider(process) as writer, provider(process) as reader:
        stored = await writer.seal(b"value", CONTEXT)
        process.set(key="1", revoked=["1"], healthz="ill")
        await reader.probe()
        with pytest.raises(TransformError, match="key 1 is revoked"):
            await reader.open(stored, CONTEXT)
        process.set(key="1")
        await reader.probe()
        assert (await reader.open(stored, CONTEXT)).data == b"value"
