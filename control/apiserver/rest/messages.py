"""Objects as protobuf messages, made once for all who ask for them while the object stands."""

from __future__ import annotations

from collections import OrderedDict

from control.api.protobuf_encoding import definition_of, message
from control.apiserver.cache import Entry
from control.apiserver.kinds import Kind

BYTES_MAX = 32 << 20
"""What is remembered, the objects' JSON that it keeps alive included."""


class Messages:
    """The messages that were asked for last."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._made: OrderedDict[Entry, bytes] = OrderedDict()
        self._bytes_max = bytes_max
        self.size = 0

    def of(self, kind: Kind, entry: Entry) -> bytes:
        """Return an object's message, in the version in which it is stored."""
        found = self._made.get(entry)
        if found is not None:
            self._made.move_to_end(entry)
            return found
        found = message(entry.object(), definition_of(kind.resource.api_version, kind.resource.kind))
        self._made[entry] = found
        self.size += len(entry.data) + len(found)
        while self.size > self._bytes_max and self._made:
            old, gone = self._made.popitem(last=False)
            self.size -= len(old.data) + len(gone)
        return found

    def has(self, entry: Entry) -> bool:
        """Tell whether an object's message is there already."""
        return entry in self._made
