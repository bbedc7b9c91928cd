"""Reads an EncryptionConfiguration (apiserver.config.k8s.io/v1) as strictly as kube-apiserver does."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from control.api.validation.faults import Faults
from control.apiserver.config import ConfigurationError
from control.apiserver.keys import GroupResource
from control.client.flags import parse_duration

API_VERSION, KIND = "apiserver.config.k8s.io/v1", "EncryptionConfiguration"
KMS_TIMEOUT = "3s"
EVERYTHING: GroupResource = ("*", "*")
_KEY_BYTES = {"aescbc": (16, 24, 32), "aesgcm": (16, 24, 32), "secretbox": (32,)}
_PROVIDERS = ("kms", "aesgcm", "aescbc", "secretbox", "identity")
_WITHOUT_API = ("apiserveripinfo", "serviceipallocations", "servicenodeportallocations")
_NOT_ONE = (
    "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
    "more than one provider specified in a single element, should split into different list elements",
)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider: of keys, of a plugin, or identity."""

    kind: str
    keys: tuple[tuple[str, bytes], ...] = ()
    """(name, secret); the first one writes."""
    name: str = ""
    endpoint: str = ""
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """Resources and the providers that write (the first) and read (all) them."""

    resources: tuple[GroupResource, ...]
    providers: tuple[ProviderSettings, ...]


def read(path: Path) -> tuple[tuple[ResourceSettings, ...], str]:
    """Return a file's settings and its hash; raise ConfigurationError."""
    about = f"encryption provider configuration file {str(path)!r}".replace("'", '"')
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"error reading {about}: {error.strerror}") from None
    if not data.strip():
        raise ConfigurationError(f"{about} is empty")
    try:
        document = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return parse(document), f"sha256:{hashlib.sha256(data).hexdigest()}"
    except yaml.YAMLError as error:
        raise ConfigurationError(f"error decoding {about}: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{about}: {error}") from None


def parse(document: Any) -> tuple[ResourceSettings, ...]:
    """Return a document's settings; raise ConfigurationError with everything that is wrong."""
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise ConfigurationError(f"expected apiVersion {API_VERSION} and kind {KIND}")
    reader = _Reader()
    found = reader.configuration(document)
    if reader.unknown:
        raise ConfigurationError(f"strict decoding error: {', '.join(reader.unknown)}")
    if reader.faults:
        texts = [f"{cause.field}: {cause.message}" for cause in reader.faults.causes]
        raise ConfigurationError(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    _check_masks(found)
    return found


def group_resource(text: str) -> GroupResource:
    """Read "secrets", "deployments.apps", "*.apps", "*." (the core group) or "*.*"."""
    resource, _, group = text.partition(".")
    return group, resource


def _shown(found: GroupResource) -> str:
    group, resource = found
    return f"{resource}.{group}" if group or resource == "*" else resource


def _check_masks(settings: Sequence[ResourceSettings]) -> None:
    """Refuse what stands behind a wildcard that has taken it already."""
    seen: set[GroupResource] = set()
    for entry in settings:
        for resource in entry.resources:
            for mask in ((resource[0], "*"), EVERYTHING):
                if mask in seen and mask != resource:
                    raise ConfigurationError(
                        f'resource "{_shown(resource)}" is masked by earlier rule "{_shown(mask)}"'
                    )
            if resource[1] == "*" and resource in seen:
                raise ConfigurationError(
                    f'resource "{_shown(resource)}" is masked by earlier rule "{_shown(resource)}"'
                )
        seen.update(entry.resources)


class _Reader:
    """Collects what is wrong on the way."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.unknown: list[str] = []
        self._plugins: set[str] = set()

    def _map(self, value: Any, path: str, known: Sequence[str]) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.faults.type_invalid(path, value, "must be an object")
            return {}
        prefix = f"{path}." if path else ""
        self.unknown += [f'unknown field "{prefix}{name}"' for name in value if name not in known]
        return value

    def _list(self, value: Any, path: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.faults.type_invalid(path, str(value), "must be a list")
            return []
        return value

    def configuration(self, document: Mapping[str, Any]) -> tuple[ResourceSettings, ...]:
        """Read the whole document."""
        self._map(document, "", ("apiVersion", "kind", "resources"))
        entries = self._list(document.get("resources"), "resources")
        if not entries and not self.faults:
            self.faults.required("resources", "at least one resources is required")
        return tuple(self._entry(entry, f"resources[{index}]") for index, entry in enumerate(entries))

    def _entry(self, value: Any, path: str) -> ResourceSettings:
        entry = self._map(value, path, ("resources", "providers"))
        resources_path, providers_path = f"{path}.resources", f"{path}.providers"
        texts = [str(text) for text in self._list(entry.get("resources"), resources_path)]
        if not texts:
            self.faults.required(resources_path, f"at least one {resources_path} is required")
        self._check_overlap(texts, resources_path)
        for index, text in enumerate(texts):
            if fault := _resource_fault(text):
                self.faults.invalid(f"{resources_path}[{index}]", text, fault)
        providers = self._list(entry.get("providers"), providers_path)
        if not providers:
            self.faults.required(providers_path, f"at least one {providers_path} is required")
        made = tuple(self._provider(found, f"{providers_path}[{index}]") for index, found in enumerate(providers))
        return ResourceSettings(tuple(group_resource(text) for text in texts), made)

    def _check_overlap(self, texts: list[str], path: str) -> None:
        found = [group_resource(text) for text in texts]
        if len(set(found)) != len(found):
            self.faults.invalid(path, texts, "the same resource cannot be specified multiple times")
        different = set(found)
        groups_taken = {group for group, resource in different if resource == "*"}
        if (EVERYTHING in different and len(different) > 1) or any(
            resource != "*" and group in groups_taken for group, resource in different
        ):
            self.faults.invalid(
                path,
                texts,
                "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed"
                " as they will be masked",
            )

    def _provider(self, value: Any, path: str) -> ProviderSettings:
        provider = self._map(value, path, _PROVIDERS)
        chosen = [kind for kind in _PROVIDERS if kind in provider]
        if len(chosen) != 1:
            self.faults.invalid(path, {}, _NOT_ONE[bool(chosen)])
            return ProviderSettings("identity")
        kind = chosen[0]
        if kind == "identity":
            self._map(provider[kind], f"{path}.identity", ())
            return ProviderSettings(kind)
        if kind == "kms":
            return self._kms(provider[kind], f"{path}.kms")
        keys_path = f"{path}.{kind}.keys"
        keys = self._list(self._map(provider[kind], f"{path}.{kind}", ("keys",)).get("keys"), keys_path)
        if not keys:
            self.faults.required(keys_path, "at least one keys is required")
        made = tuple(self._key(found, f"{keys_path}[{index}]", _KEY_BYTES[kind]) for index, found in enumerate(keys))
        return ProviderSettings(kind, made)

    def _key(self, value: Any, path: str, sizes: tuple[int, ...]) -> tuple[str, bytes]:
        key = self._map(value, path, ("name", "secret"))
        name, text = str(key.get("name") or ""), str(key.get("secret") or "")
        if not name:
            self.faults.required(f"{path}.name", "name is a mandatory field for a key")
        if not text:
            self.faults.required(f"{path}.secret", "secret is a mandatory field for a key")
            return name, b""
        try:
            secret = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            self.faults.invalid(f"{path}.secret", "REDACTED", "secrets must be base64 encoded")
            return name, b""
        if len(secret) not in sizes:
            known = " ".join(str(size) for size in sizes)
            text = f"secret is not of the expected length, got {len(secret)}, expected one of [{known}]"
            self.faults.invalid(f"{path}.secret", "REDACTED", text)
        return name, secret

    def _kms(self, value: Any, path: str) -> ProviderSettings:
        kms = self._map(value, path, ("apiVersion", "name", "cachesize", "endpoint", "timeout"))
        version, name = str(kms.get("apiVersion") or "v1"), str(kms.get("name") or "")
        if version == "v1":
            text = "KMSv1 is deprecated and not served here. Use KMSv2 instead."
            self.faults.invalid(f"{path}.apiVersion", version, text)
        elif version != "v2":
            text = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"
            self.faults.invalid(f"{path}.apiVersion", version, text)
        elif "cachesize" in kms:
            self.faults.invalid(f"{path}.cachesize", kms["cachesize"], "cachesize is not supported in v2")
        if not name:
            self.faults.required(f"{path}.name", "name is a mandatory field for a provider")
        if ":" in name:
            self.faults.invalid(f"{path}.name", name, f"invalid KMS provider name {name}, must not contain ':'")
        if name in self._plugins:
            self.faults.invalid(f"{path}.name", name, f"duplicate KMS provider name {name}, names must be unique")
        self._plugins.add(name)
        timeout_s = self._timeout(kms, f"{path}.timeout")
        return ProviderSettings("kms", (), name, self._endpoint(kms, f"{path}.endpoint"), timeout_s)

    def _timeout(self, kms: Mapping[str, Any], path: str) -> float:
        text = str(kms.get("timeout") or KMS_TIMEOUT)
        try:
            found = parse_duration(text.removeprefix("-"))
        except ValueError as error:
            self.faults.invalid(path, text, str(error))
            return 0.0
        if found <= 0 or text.startswith("-"):
            self.faults.invalid(path, text, "timeout should be a positive value")
        return found

    def _endpoint(self, kms: Mapping[str, Any], path: str) -> str:
        endpoint = str(kms.get("endpoint") or "")
        if not endpoint:
            self.faults.invalid(path, "", "endpoint is a mandatory field for a kms")
        elif (scheme := urlsplit(endpoint).scheme) != "unix":
            text = f'unsupported scheme "{scheme}" for KMS provider, only unix is supported'
            self.faults.invalid(path, endpoint, text)
        return endpoint


def _resource_fault(text: str) -> str:
    """Return why a resource cannot be named so, empty where it can."""
    group, resource = group_resource(text)
    if text.lower() != text:
        return "resource name should not contain capital letters"
    if text == "*":
        return "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
    if text in _WITHOUT_API:
        return "resources which do not have REST API/s cannot be encrypted"
    if group == "events.k8s.io":
        return (
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd."
            " Use 'events' instead in the config file"
        )
    if group == "extensions":
        return "'extensions' group has been removed and cannot be used for encryption"
    if group == "*" and resource != "*":
        return "encrypting the same resource across groups is not supported"
    return ""
