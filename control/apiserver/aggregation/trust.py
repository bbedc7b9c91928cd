"""Tells aggregated API servers whom to believe: the ConfigMap kube-system/extension-apiserver-authentication.

It holds the authority of client certificates, and that of front proxies with the headers they speak in. Several API
servers may have different ones while they are being changed, so each adds its own and leaves the others' until they
have expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.api import status
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS
from control.apiserver.config import ApiServerConfig
from control.apiserver.etcd import StoreError
from control.apiserver.registry import Registry
from control.client.client import Client

log = logging.getLogger(__name__)

NAMESPACE, NAME = "kube-system", "extension-apiserver-authentication"
CLIENT_CA, PROXY_CA = "client-ca-file", "requestheader-client-ca-file"
LISTS = (
    "requestheader-username-headers",
    "requestheader-uid-headers",
    "requestheader-group-headers",
    "requestheader-extra-headers-prefix",
    "requestheader-allowed-names",
)
EXPIRED_SLACK = timedelta(minutes=5)
INTERVAL_S = 60.0
RETRY_S = 1.0


def own_data(config: ApiServerConfig) -> dict[str, str]:
    """Return what this server's configuration says."""
    made: dict[str, str] = {}
    if config.client_ca_file is not None:
        made[CLIENT_CA] = _read(config.client_ca_file)
    if config.requestheader_client_ca_file is not None:
        made[PROXY_CA] = _read(config.requestheader_client_ca_file)
        lists: Iterable[Sequence[str]] = (
            config.requestheader_username_headers,
            config.requestheader_uid_headers,
            config.requestheader_group_headers,
            config.requestheader_extra_headers_prefixes,
            config.requestheader_allowed_names,
        )
        made.update({key: orjson.dumps(list(values)).decode() for key, values in zip(LISTS, lists, strict=True)})
    return made


def _read(path: Path) -> str:
    return path.read_text()


def combined(standing: Mapping[str, str], own: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return what stands with what is ours added: each authority and each word once, expired authorities left out."""
    made = dict(standing)
    for key in (CLIENT_CA, PROXY_CA):
        if own.get(key) or standing.get(key):
            made[key] = _bundle((standing.get(key, ""), own.get(key, "")), now)
    for key in LISTS:
        if key in own:
            words = [*_words(standing.get(key, "")), *_words(own[key])]
            made[key] = orjson.dumps(list(dict.fromkeys(words))).decode()
    return {key: value for key, value in made.items() if value}


def _bundle(bundles: Iterable[str], now: datetime) -> str:
    found: dict[bytes, None] = {}
    for text in bundles:
        try:
            certificates = x509.load_pem_x509_certificates(text.encode()) if text.strip() else []
        except ValueError as error:
            log.warning("a bundle of authorities is not readable and is replaced error=%s", error)
            continue
        for certificate in certificates:
            if certificate.not_valid_after_utc > now - EXPIRED_SLACK:
                found[certificate.public_bytes(Encoding.PEM)] = None
    return b"".join(found).decode()


def _words(text: str) -> list[str]:
    try:
        found = orjson.loads(text) if text else []
    except orjson.JSONDecodeError:
        return []
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


async def keep_trust(config: ApiServerConfig, registry: Registry, client: Client) -> None:
    """Keep the ConfigMap until cancelled."""
    own = own_data(config)
    if not own:
        return
    while True:
        try:
            await _reconcile(own, registry, client)
        except (status.ApiError, StoreError, TimeoutError) as error:
            log.info("%s is not kept yet error=%s", NAME, error)
            await asyncio.sleep(RETRY_S)
            continue
        await asyncio.sleep(INTERVAL_S)


async def _reconcile(own: Mapping[str, str], registry: Registry, client: Client) -> None:
    # Read from the store itself: nothing else here needs every ConfigMap in memory.
    kinds = registry.kinds
    found, _ = await registry.store.get(kinds.key(kinds.of(CONFIG_MAPS), NAMESPACE, NAME))
    held: Object = orjson.loads(found.value) if found is not None else {}
    if found is not None:
        held["metadata"]["resourceVersion"] = str(found.revision)
    wanted = combined(held.get("data") or {}, own, datetime.now(UTC))
    if not held:
        obj: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": wanted}
        await client.create(CONFIG_MAPS, obj, NAMESPACE)
    elif wanted != held.get("data"):
        await client.update(CONFIG_MAPS, {**held, "data": wanted})
