"""The name of one request, by which its answer, its audit events and what it makes other servers do are found."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from itertools import count
from secrets import randbits

_HEAD = str(uuid.uuid4())[:24].encode()
"""The same for all requests of this process: drawing a whole UUID for each would cost more than its answer's head."""
_NODE_MASK = (1 << 48) - 1
_numbers = count(randbits(48))


def audit_id_of(headers: Mapping[str, tuple[str, ...]]) -> bytes:
    """Return the Audit-ID that a request names, else a new one in the form of a UUID."""
    named = headers.get("audit-id")
    if named is not None and named[0]:
        return named[0].encode("latin-1", "replace")
    return b"%b%012x" % (_HEAD, next(_numbers) & _NODE_MASK)
