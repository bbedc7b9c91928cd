"""One object as bytes, in each of the representations that may be asked for."""

from __future__ import annotations

import orjson

from control.api.meta import Object
from control.api.protobuf_encoding import CONTENT_TYPE as PROTOBUF
from control.api.protobuf_encoding import encode_body
from control.apiserver.rest.negotiate import SERVED, YAML, not_acceptable


def encoded(body: Object, media_type: str) -> bytes:
    """Return an object's bytes; raises NotAcceptable where it has no protobuf."""
    if media_type == YAML:
        import yaml  # few ask for it

        text = yaml.dump(body, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True)
        return text.encode()
    if media_type == PROTOBUF:
        try:
            return encode_body(body)
        except KeyError:
            raise not_acceptable(SERVED) from None
    return orjson.dumps(body)
