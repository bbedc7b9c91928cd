"""Verdicts that are remembered: pods of one template differ in their names alone, and one that passed speaks for all.

What a pod's rules look at is taken as bytes, without the names that each pod gets, and with one word in place of the
one that admission draws for the token's volume: no rule depends on what it is, only on whether it is the same.
"""

from __future__ import annotations

import re
from hashlib import blake2b

import orjson

from control.api.meta import Object

KEPT_MAX = 2048
BYTES_MAX = 16 << 10
_OWN = frozenset({"name", "generateName", "uid", "creationTimestamp", "managedFields", "ownerReferences"})
"""Parts of a pod's metadata that the rules of its spec do not ask for; metadata has rules of its own."""
_TOKEN_VOLUME = re.compile(rb'"kube-api-access-[a-z0-9]{5}"')
_ONE_NAME = b'"\0"'
"""No JSON that we write holds this byte."""
_NAMED_AFTER_POD = (b'"ephemeral"', b'"resourceClaims"')
"""Parts whose rules ask for the pod's name."""


def likeness(pod: Object) -> bytes | None:
    """Return what is the same for all pods that the same rules judge alike; None where a pod stands for itself."""
    metadata = {field: value for field, value in pod["metadata"].items() if field not in _OWN}
    data = orjson.dumps({**pod, "metadata": metadata})
    if len(data) > BYTES_MAX or any(part in data for part in _NAMED_AFTER_POD):
        return None
    if (drawn := _TOKEN_VOLUME.search(data)) is not None:
        data = data.replace(drawn[0], _ONE_NAME)
    return blake2b(data, digest_size=20).digest()


class Verdicts:
    """Remembers who was found without fault."""

    def __init__(self) -> None:
        self._faultless: dict[bytes, None] = {}

    def is_faultless(self, likeness: bytes | None) -> bool:
        """Tell whether one like this passed before."""
        return likeness in self._faultless

    def note(self, likeness: bytes | None) -> None:
        """Remember that one like this has passed; the oldest of too many is forgotten."""
        if likeness is None:
            return
        if len(self._faultless) >= KEPT_MAX:
            del self._faultless[next(iter(self._faultless))]
        self._faultless[likeness] = None
