"""How further control planes get what all of them share: encrypted in a Secret that lives two hours, as in kubeadm.

The key is printed once, on the terminal of whoever made the Secret, and stands nowhere in the cluster.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from control.api import bootstraptokens, meta
from control.api.meta import Object
from control.api.resources import SECRETS
from control.api.status import ApiError
from control.client.client import Client
from lab import pki
from lab.cluster_pki import SHARED_FILES
from lab.state import LabError

SECRET_NAME = "raftsman-certs"
LIFETIME = timedelta(hours=2)
KEY_BYTES = 32
NONCE_BYTES = 12


def generate_key() -> str:
    """Return a new certificate key, as it is typed."""
    return secrets.token_hex(KEY_BYTES)


def read_key(text: str) -> bytes:
    """Return a certificate key's bytes; raises LabError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise LabError(f"--certificate-key takes {2 * KEY_BYTES} hexadecimal digits")
    return key


def encrypt(data: bytes, key: bytes) -> bytes:
    """Return data that only the key's holder can read or change."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, None)


def decrypt(data: bytes, key: bytes) -> bytes:
    """Return what was encrypted; raises LabError."""
    try:
        return AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        raise LabError("the control plane's certificates cannot be decrypted: is --certificate-key right?") from None


def _entry(name: str) -> str:
    return name.replace("/", "-")


async def upload(client: Client, directory: Path, key: bytes, now: datetime) -> None:
    """Store what control planes share; a token without any use ends it, by owning the Secret."""
    token = bootstraptokens.generate()
    owner = await client.create(
        SECRETS,
        bootstraptokens.secret_object(
            token, expiration=now + LIFETIME, description=f"Ends the Secret {SECRET_NAME}.", usages=(), groups=()
        ),
        bootstraptokens.SECRET_NAMESPACE,
    )
    reference = {"apiVersion": "v1", "kind": "Secret", "name": meta.name(owner), "uid": meta.uid(owner)}
    data = {_entry(name): encrypt((directory / name).read_bytes(), key) for name in SHARED_FILES}
    wanted: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SECRET_NAME,
            "namespace": bootstraptokens.SECRET_NAMESPACE,
            "ownerReferences": [reference],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
    try:
        await client.create(SECRETS, wanted, bootstraptokens.SECRET_NAMESPACE)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        await client.update(SECRETS, wanted)


async def download(client: Client, key: bytes) -> Mapping[str, bytes]:
    """Return what control planes share, by the names of its files."""
    try:
        stored = await client.get(SECRETS, SECRET_NAME, bootstraptokens.SECRET_NAMESPACE)
    except ApiError as error:
        if error.code not in (403, 404):
            raise
        raise LabError(
            "the control plane's certificates are not in the cluster (they are kept for two hours); "
            "on a control plane run: raftsman token create --control-plane"
        ) from error
    data = stored.get("data") or {}
    missing = [name for name in SHARED_FILES if _entry(name) not in data]
    if missing:
        raise LabError(f"the Secret kube-system/{SECRET_NAME} lacks {', '.join(missing)}")
    return {name: decrypt(base64.b64decode(data[_entry(name)]), key) for name in SHARED_FILES}


def write(shared: Mapping[str, bytes], directory: Path) -> None:
    """Put what control planes share into this machine's folder."""
    for name, data in shared.items():
        pki.write_private(directory / name, data)


def now() -> datetime:
    """Return the wall clock's time."""
    return datetime.now(UTC)
