"""Which provider writes a resource's values, and which one reads a stored value: by the prefix that it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from control.apiserver.encryption.ciphers import BlockCipher, CipherError
from control.apiserver.keys import GroupResource

ENCRYPTED_PREFIX = b"k8s:enc:"


class TransformError(Exception):
    """A value cannot be read or written as it is configured; the text says why."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored value as it was before it was stored."""

    data: bytes
    stale: bool
    """Whether it would be written differently now: by another provider or with another key."""


class Provider(Protocol):
    """One entry of a configuration's list of providers."""

    prefix: bytes
    """What its values begin with; empty for identity."""

    async def seal(self, data: bytes, context: bytes) -> bytes:
        """Return what follows the prefix; raise TransformError."""
        ...

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Read what follows the prefix; raise TransformError."""
        ...


class Identity:
    """Stores values as they are, and does not take for such what is encrypted."""

    prefix = b""

    async def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the value itself."""
        return data

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Return the value itself, unless it is another provider's."""
        if stored.startswith(ENCRYPTED_PREFIX):
            raise TransformError("identity transformer tried to read encrypted data")
        return Opened(stored, False)


class Keyring:
    """A provider of named keys: the first writes, all read."""

    def __init__(self, prefix: bytes, keys: Sequence[tuple[str, BlockCipher]], missing: str) -> None:
        self.prefix = prefix
        self._keys = [(f"{name}:".encode(), cipher) for name, cipher in keys]
        self._missing = missing

    async def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the first key's name and what it makes of the value."""
        name, cipher = self._keys[0]
        return name + cipher.seal(data, context)

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Read with the key that is named, of several of one name with the first that fits."""
        faults: list[str] = []
        for index, (name, cipher) in enumerate(self._keys):
            if not stored.startswith(name):
                continue
            try:
                return Opened(cipher.open(stored[len(name) :], context), index != 0)
            except CipherError as error:
                faults.append(str(error))
        raise TransformError(_together(faults) or self._missing)


class Transformer:
    """All providers of one resource: the first writes, all read."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self.providers = tuple(providers)
        self.write_prefix = self.providers[0].prefix.decode() or "identity"
        """What metrics call the provider that writes."""

    def prefix_of(self, stored: bytes) -> str:
        """Return what metrics call the provider that wrote a value."""
        for provider in self.providers:
            if provider.prefix and stored.startswith(provider.prefix):
                return provider.prefix.decode()
        return "unknown" if stored.startswith(ENCRYPTED_PREFIX) else "identity"

    async def seal(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes to store."""
        provider = self.providers[0]
        return provider.prefix + await provider.seal(data, context)

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Read stored bytes by whichever provider wrote them."""
        faults: list[str] = []
        for index, provider in enumerate(self.providers):
            if not stored.startswith(provider.prefix):
                continue
            try:
                found = await provider.open(stored[len(provider.prefix) :], context)
            except TransformError as error:
                # Of two providers of one kind with different keys either may be meant; and identity's no is no fault.
                if provider.prefix:
                    faults.append(str(error))
                continue
            return Opened(found.data, found.stale or index != 0)
        raise TransformError(_together(faults) or "no matching prefix found")


class _Unlisted(Transformer):
    """The transformer of resources that no configuration names: values stand as they are."""

    async def open(self, stored: bytes, context: bytes) -> Opened:
        """Return the value itself, unless it was encrypted when a configuration still named its resource."""
        return await self.providers[0].open(stored, context)


IDENTITY = _Unlisted([Identity()])


class Transformers:
    """Every resource's transformer: its own, its group's, everybody's, or none."""

    def __init__(self, by_resource: dict[GroupResource, Transformer]) -> None:
        self._by_resource = by_resource

    def of(self, resource: GroupResource) -> Transformer:
        """Return a resource's transformer."""
        found = self._by_resource
        return found.get(resource) or found.get((resource[0], "*")) or found.get(("*", "*")) or IDENTITY


def _together(faults: list[str]) -> str:
    """Return several faults as one text, as Kubernetes does: equal ones once."""
    different = list(dict.fromkeys(faults))
    return different[0] if len(different) == 1 else f"[{', '.join(different)}]" if different else ""
