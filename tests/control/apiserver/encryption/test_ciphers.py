"""Stored bytes: what others wrote is read, what we write is read again, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.apiserver.encryption.ciphers import AesCbc, AesGcm, BlockCipher, CipherError, Secretbox, SeededAesGcm

KEY = bytes(range(32))
CIPHERS: dict[str, BlockCipher] = {
    "aesgcm": AesGcm(KEY),
    "aescbc": AesCbc(KEY),
    "secretbox": Secretbox(KEY),
    "seeded": SeededAesGcm(KEY),
}
AUTHENTICATED = ("aesgcm", "secretbox", "seeded")
CONTEXT = b"/registry/secrets/default/x"

KUBERNETES_GCM = (
    b"\x9f'\xc8\xfc\xea\x8aX\xc4g\xd8\xe47\xdb\xf2\xd8YU\xf9\xb4\xbd\x91/N\xf9g\xd7\x88\xa0\xcb\x07y}\xac\n?\n\x08E`"
    b"\\\xa8Z\xc8V+J\xe1"
)
"""Recorded from kube-apiserver's own transformer."""
NACL_KEY = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
NACL_NONCE = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37"
NACL_SEALED = (
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a"
    "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
    "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74"
    "e355a5"
)
NACL_PLAIN = (
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129"
    "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705"
)


def test_values_of_kube_apiserver_are_read() -> None:
    assert AesGcm(b"snorlax_awesomes").open(KUBERNETES_GCM, b"bamboo") == b"pandas are the best"


def test_boxes_of_nacl_are_read() -> None:
    box = Secretbox(bytes.fromhex(NACL_KEY))
    assert box.open(bytes.fromhex(NACL_NONCE + NACL_SEALED), b"").hex() == NACL_PLAIN


def test_keys_are_derived_as_rfc_5869_expands_them() -> None:
    seed = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    derived = SeededAesGcm(seed)._derive(info)
    assert derived.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_cbc_is_that_of_nist() -> None:
    # SP 800-38A, F.2.5: one block of CBC-AES256; ours has a block of padding behind it, so only its start is compared.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    vector = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    sealed = bytes.fromhex("f58c4c04d6e5f1ba779eabfb5f7bfbd6")
    cipher = AesCbc(key)
    with pytest.raises(CipherError):
        cipher.open(vector + sealed, b"")
    padded = cipher.seal(plain, b"")
    assert len(padded) == 48
    assert cipher.open(padded, b"") == plain


@pytest.mark.parametrize("name", CIPHERS)
@given(data=st.binary(max_size=100), context=st.binary(max_size=40))
def test_what_is_sealed_is_opened(name: str, data: bytes, context: bytes) -> None:
    cipher = CIPHERS[name]
    sealed = cipher.seal(data, context)
    assert cipher.open(sealed, context) == data
    assert sealed != cipher.seal(data, context)


@pytest.mark.parametrize("name", AUTHENTICATED)
@given(data=st.data())
def test_what_was_changed_is_not_opened(name: str, data: Any) -> None:
    cipher = CIPHERS[name]
    sealed = bytearray(cipher.seal(b"value", CONTEXT))
    where = data.draw(st.integers(0, len(sealed) - 1))
    sealed[where] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CipherError):
        cipher.open(bytes(sealed), CONTEXT)


@pytest.mark.parametrize("name", CIPHERS)
@given(stored=st.binary(max_size=120))
def test_any_bytes_are_answered_by_an_error_alone(name: str, stored: bytes) -> None:
    cipher = CIPHERS[name]
    try:
        opened = cipher.open(stored, CONTEXT)
    except CipherError:
        return
    # CBC does not authenticate: of 256 random ends one looks like padding.
    assert name == "aescbc"
    assert len(opened) < len(stored)


@pytest.mark.parametrize("name", ["aesgcm", "seeded"])
def test_values_are_bound_to_their_key(name: str) -> None:
    sealed = CIPHERS[name].seal(b"value", CONTEXT)
    with pytest.raises(CipherError, match="message authentication failed"):
        CIPHERS[name].open(sealed, b"/registry/secrets/default/y")


def test_short_seeds_are_refused() -> None:
    with pytest.raises(CipherError, match="invalid seed length 16 used for key generation"):
        SeededAesGcm(bytes(16))
