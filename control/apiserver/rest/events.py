"""A watch's events on their way out: as lines of JSON or framed protobuf, one after the other or one a message."""

from __future__ import annotations

import orjson

from control.api.meta import Object
from control.api.printers.table import IncludeObject
from control.api.protobuf_encoding import CONTENT_TYPE as PROTOBUF
from control.api.protobuf_encoding import encode_body, encode_event, frame
from control.apiserver.cache import Batch, Delivery
from control.apiserver.convert import convert
from control.apiserver.kinds import Kind
from control.apiserver.rest import table
from control.apiserver.rest.negotiate import MediaType


class Events:
    """How one watch wants its events."""

    def __init__(self, kind: Kind, media: MediaType, include: IncludeObject, converts: bool) -> None:
        self._kind = kind
        self._media = media
        self._include = include
        self._changes = bool(media.transform) or converts
        self._columns = True
        self.binary = media.type == PROTOBUF
        self.content_type = f"{media.type};stream=watch".encode() if self.binary else media.type.encode()

    def stream(self, batch: Batch) -> bytes:
        """Return events as parts of a stream."""
        if self.binary:
            return b"".join([frame(message) for message in self.messages(batch)])
        return b"".join(self.messages(batch)) if self._changes else batch.lines

    def messages(self, batch: Batch) -> list[bytes]:
        """Return each event as a message for itself."""
        if self.binary:
            return [self._encoded(delivery) for delivery in batch]
        return [self._line(delivery) if self._changes else delivery.line for delivery in batch]

    def _line(self, delivery: Delivery) -> bytes:
        if delivery.type == "ERROR":
            return delivery.line
        return b'{"type":"%s","object":%s}\n' % (delivery.type.encode(), orjson.dumps(self._shown(delivery)))

    def _encoded(self, delivery: Delivery) -> bytes:
        if delivery.type == "ERROR" or not self._changes:
            return delivery.encoded
        return encode_event(delivery.type, encode_body(self._shown(delivery)))

    def _shown(self, delivery: Delivery) -> Object:
        obj: Object = orjson.loads(delivery.data)
        if delivery.type != "BOOKMARK":
            obj = convert(obj, self._kind.resource)
        version = self._media.version
        if self._media.transform == "Table":
            # A bookmark has a row too: what it says stands in the metadata of that row's object.
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            obj = table.table(self._kind, [obj], metadata, self._include, version, self._columns)
            self._columns = False
        elif self._media.transform == "PartialObjectMetadata":
            obj = table.partial(obj, version)
        return obj
