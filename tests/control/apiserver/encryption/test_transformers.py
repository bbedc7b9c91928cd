"""Which provider writes and which ones read."""

from __future__ import annotations

import asyncio

import pytest

from control.apiserver.encryption.ciphers import AesCbc, AesGcm
from control.apiserver.encryption.transformers import (
    IDENTITY,
    Identity,
    Keyring,
    Opened,
    Transformer,
    TransformError,
    Transformers,
)

CONTEXT = b"/registry/secrets/default/x"
ONE, TWO = bytes(32), bytes([1] * 32)
MISSING = "no matching key was found for the provided AES transformer"


def gcm(*keys: tuple[str, bytes]) -> Keyring:
    return Keyring(b"k8s:enc:aesgcm:v1:", [(name, AesGcm(key)) for name, key in keys], MISSING)


def cbc(*keys: tuple[str, bytes]) -> Keyring:
    return Keyring(b"k8s:enc:aescbc:v1:", [(name, AesCbc(key)) for name, key in keys], MISSING)


def sealed_by(transformer: Transformer) -> bytes:
    return asyncio.run(transformer.seal(b"value", CONTEXT))


def opened_by(transformer: Transformer, stored: bytes) -> Opened:
    return asyncio.run(transformer.open(stored, CONTEXT))


def test_the_first_provider_and_its_first_key_write() -> None:
    stored = sealed_by(Transformer([gcm(("two", TWO), ("one", ONE)), Identity()]))
    assert stored.startswith(b"k8s:enc:aesgcm:v1:two:")


READERS = {
    "the same": (Transformer([gcm(("one", ONE))]), False),
    "its key is the second": (Transformer([gcm(("two", TWO), ("one", ONE))]), True),
    "its provider is the second": (Transformer([Identity(), gcm(("one", ONE))]), True),
    "behind another cipher": (Transformer([cbc(("one", ONE)), gcm(("one", ONE))]), True),
    "one provider twice, its key in the second": (Transformer([gcm(("two", TWO)), gcm(("one", ONE))]), True),
    "one name twice, the second fits": (Transformer([gcm(("one", TWO), ("one", ONE))]), True),
}


@pytest.mark.parametrize("case", READERS)
def test_every_provider_reads_and_what_is_not_the_first_ones_is_stale(case: str) -> None:
    reader, stale = READERS[case]
    stored = sealed_by(Transformer([gcm(("one", ONE))]))
    assert opened_by(reader, stored) == Opened(b"value", stale)


UNREADABLE = {
    "no such key": (Transformer([gcm(("two", TWO))]), MISSING),
    "another key of the name": (Transformer([gcm(("one", TWO))]), "cipher: message authentication failed"),
    "no such provider": (Transformer([cbc(("one", ONE))]), "no matching prefix found"),
    "identity alone": (Transformer([Identity()]), "no matching prefix found"),
    "resource is not listed": (IDENTITY, "identity transformer tried to read encrypted data"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_nobody_can_read_is_told_as_kube_apiserver_tells_it(case: str) -> None:
    reader, text = UNREADABLE[case]
    with pytest.raises(TransformError) as raised:
        opened_by(reader, sealed_by(Transformer([gcm(("one", ONE))])))
    assert str(raised.value) == text


def test_plain_values_are_read_where_identity_is_listed_alone() -> None:
    assert opened_by(Transformer([gcm(("one", ONE)), Identity()]), b"{}") == Opened(b"{}", True)
    with pytest.raises(TransformError, match="no matching prefix found"):
        opened_by(Transformer([gcm(("one", ONE))]), b"{}")


def test_a_resource_has_its_own_its_groups_everybodys_or_no_transformer() -> None:
    own, group, core, everybody = (Transformer([gcm((name, ONE))]) for name in ("a", "b", "c", "d"))
    found = Transformers({("", "secrets"): own, ("apps", "*"): group, ("", "*"): core, ("*", "*"): everybody})
    assert found.of(("", "secrets")) is own
    assert found.of(("apps", "deployments")) is group
    assert found.of(("", "configmaps")) is core
    assert found.of(("batch", "jobs")) is everybody
    assert Transformers({("", "secrets"): own}).of(("", "configmaps")) is IDENTITY
