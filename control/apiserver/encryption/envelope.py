"""What KMS v2 stores: a value under a key that was made of a seed, and the seed as the plugin encrypted it.

Pure: who asks the plugin is ``kms``.
"""

from __future__ import annotations

import hashlib
import re

from google.protobuf.message import DecodeError

from control.apiserver.encryption.ciphers import CipherError
from proto.kms import api_pb2

SEED = api_pb2.HKDF_SHA256_XNONCE_AES_GCM_SEED
ANNOTATION_BYTES_MAX = 32 * 1024
KEY_ID_BYTES_MAX = 1024
SOURCE_BYTES_MAX = 1024
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})+")

CacheKey = tuple[int, bytes, str, tuple[tuple[str, bytes], ...]]


def decode(stored: bytes) -> api_pb2.EncryptedObject:
    """Read what is stored behind the prefix; raise CipherError."""
    found = api_pb2.EncryptedObject()
    try:
        found.ParseFromString(stored)
    except DecodeError as error:
        raise CipherError(f"cannot parse the stored envelope: {error}") from None
    check(found)
    return found


def encode(state: api_pb2.EncryptedObject, data: bytes) -> bytes:
    """Return what to store behind the prefix for one encrypted value."""
    made = api_pb2.EncryptedObject()
    made.CopyFrom(state)
    made.encryptedData = data
    check(made)
    return made.SerializeToString()


def cache_key(found: api_pb2.EncryptedObject) -> CacheKey:
    """Return what a decrypted seed or key is found again by."""
    annotations = tuple(sorted(found.annotations.items()))
    return found.encryptedDEKSourceType, found.encryptedDEKSource, found.keyID, annotations


def key_id_fault(key_id: str) -> str:
    """Return what is wrong with a key's name, empty for nothing."""
    if not key_id:
        return "keyID is empty"
    size = len(key_id.encode())
    if size > KEY_ID_BYTES_MAX:
        return f"keyID is {size} bytes, which exceeds the max size of {KEY_ID_BYTES_MAX}"
    return ""


def check(found: api_pb2.EncryptedObject, *, sealed: bool = True) -> None:
    """Raise CipherError where an envelope is not as it must be; without ``sealed`` it holds no value yet."""
    if found.encryptedDEKSourceType not in api_pb2.EncryptedDEKSourceType.values():
        raise CipherError(f"unknown encryptedDEKSourceType: {found.encryptedDEKSourceType}")
    if sealed and not found.encryptedData:
        raise CipherError("encrypted data is empty")
    size = len(found.encryptedDEKSource)
    if not size:
        raise CipherError("failed to validate encrypted DEK source: encrypted DEK source is empty")
    if size > SOURCE_BYTES_MAX:
        raise CipherError(
            "failed to validate encrypted DEK source:"
            f" encrypted DEK source is {size} bytes, which exceeds the max size of {SOURCE_BYTES_MAX}"
        )
    if fault := key_id_fault(found.keyID):
        raise CipherError(f"failed to validate key id: {fault}")
    if fault := _annotations_fault(found):
        raise CipherError(f"failed to validate annotations: {fault}")


def _annotations_fault(found: api_pb2.EncryptedObject) -> str:
    size = 0
    for name, value in found.annotations.items():
        if not _DOMAIN.fullmatch(name):
            return (
                f'annotations: Invalid value: "{name}": should be a domain with at least two segments separated by dots'
            )
        size += len(name.encode()) + len(value)
    if size > ANNOTATION_BYTES_MAX:
        return f"total size of annotations is {size}, which exceeds the max size of {ANNOTATION_BYTES_MAX}"
    return ""


def key_id_hash(key_id: str) -> str:
    """Return what logs and metrics show in place of a key's name."""
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}" if key_id else ""
