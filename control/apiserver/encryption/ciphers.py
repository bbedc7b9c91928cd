"""Bytes to stored bytes and back, by one key each; formats are kube-apiserver's to the byte.

Pure but for the random numbers that each encryption takes. ``context`` is the store's key of the value: ciphers that
authenticate bind the value to it, so that nobody can put one object's bytes in the place of another's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK_BYTES = 16
NONCE_BYTES = 12
SECRETBOX_NONCE_BYTES = 24
SECRETBOX_TAG_BYTES = 16
SEED_BYTES = 32
INFO_BYTES = 32
_DERIVED_MAX = 4096
_TOO_SHORT = "the stored data was shorter than the required size"


class CipherError(Exception):
    """Stored bytes cannot be read with this key; the text says why."""


class BlockCipher(Protocol):
    """One key's way of writing and reading."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        ...

    def open(self, stored: bytes, context: bytes) -> bytes:
        """Return what was sealed; raise CipherError."""
        ...


class AesGcm:
    """aesgcm: a random nonce, then what AES-GCM makes of the value and its context."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, context)

    def open(self, stored: bytes, context: bytes) -> bytes:
        """Return what was sealed."""
        if len(stored) < NONCE_BYTES:
            raise CipherError(_TOO_SHORT)
        try:
            return self._aead.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise CipherError("cipher: message authentication failed") from None


class AesCbc:
    """aescbc: a random vector, then AES-CBC with PKCS#7 padding; it does not authenticate."""

    def __init__(self, key: bytes) -> None:
        self._algorithm = algorithms.AES(key)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        vector = os.urandom(BLOCK_BYTES)
        padding = BLOCK_BYTES - len(data) % BLOCK_BYTES
        encryptor = Cipher(self._algorithm, modes.CBC(vector)).encryptor()
        return vector + encryptor.update(data + bytes([padding]) * padding) + encryptor.finalize()

    def open(self, stored: bytes, context: bytes) -> bytes:
        """Return what was sealed."""
        if len(stored) < BLOCK_BYTES:
            raise CipherError(_TOO_SHORT)
        vector, sealed = stored[:BLOCK_BYTES], stored[BLOCK_BYTES:]
        if len(sealed) % BLOCK_BYTES:
            raise CipherError("the stored data is not a multiple of the block size")
        decryptor = Cipher(self._algorithm, modes.CBC(vector)).decryptor()
        padded = decryptor.update(sealed) + decryptor.finalize()
        padding = padded[-1] if padded else 0
        if not padding or padding > len(padded):
            raise CipherError("invalid PKCS7 data (empty or not padded)")
        if padded[-padding:] != bytes([padding]) * padding:
            raise CipherError("invalid padding on input")
        return padded[:-padding]


class Secretbox:
    """secretbox: a random nonce, then XSalsa20 with Poly1305; it knows no context."""

    def __init__(self, key: bytes) -> None:
        # Imported where it is configured: few servers use it.
        from nacl import exceptions, secret

        self._box: Any = secret.SecretBox(key)
        self._error: type[Exception] = exceptions.CryptoError

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        return bytes(self._box.encrypt(data, os.urandom(SECRETBOX_NONCE_BYTES)))

    def open(self, stored: bytes, context: bytes) -> bytes:
        """Return what was sealed."""
        if len(stored) < SECRETBOX_NONCE_BYTES + SECRETBOX_TAG_BYTES:
            raise CipherError(_TOO_SHORT)
        try:
            return bytes(self._box.decrypt(stored))
        except self._error:
            # kube-apiserver's own text for this is about an output array; it means the same.
            raise CipherError("output array was not large enough for encryption") from None


class SeededAesGcm:
    """KMS v2's way: of one seed a key of its own for each value, named by random bytes in front of it."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) < SEED_BYTES:
            raise CipherError(f"invalid seed length {len(seed)} used for key generation")
        self._seed = seed
        self._derived: OrderedDict[bytes, AesGcm] = OrderedDict()

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        info = os.urandom(INFO_BYTES)
        return info + AesGcm(self._derive(info)).seal(data, context)

    def open(self, stored: bytes, context: bytes) -> bytes:
        """Return what was sealed."""
        if len(stored) < INFO_BYTES:
            raise CipherError(_TOO_SHORT)
        info = stored[:INFO_BYTES]
        cipher = self._derived.get(info)
        if cipher is None:
            cipher = self._derived[info] = AesGcm(self._derive(info))
            if len(self._derived) > _DERIVED_MAX:
                self._derived.popitem(last=False)
        return cipher.open(stored[INFO_BYTES:], context)

    def _derive(self, info: bytes) -> bytes:
        """Return HKDF-Expand of SHA-256: one round yields exactly the bytes that a key has."""
        return hmac.digest(self._seed, info + b"\x01", hashlib.sha256)
