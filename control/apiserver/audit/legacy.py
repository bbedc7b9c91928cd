"""The legacy form of an audit event: one line of text, which says less than the event does."""

from __future__ import annotations

import json
from typing import Any

import orjson


def legacy_line(event: bytes) -> bytes:
    """Return an event as a line."""
    found: dict[str, Any] = orjson.loads(event)
    user, lent = found.get("user") or {}, found.get("impersonatedUser")
    status = found.get("responseStatus")
    groups = _listed(user["groups"]) if user.get("username") and user.get("groups") else "<none>"
    lent_groups = _listed(lent["groups"]) if lent and lent.get("groups") is not None else "<lookup>"
    values = {
        "id": found["auditID"],
        "stage": found["stage"],
        "ip": (found.get("sourceIPs") or ["<unknown>"])[0],
        "method": found["verb"],
        "user": user.get("username") or "<none>",
        "groups": groups,
        "as": lent["username"] if lent else "<self>",
        "asgroups": lent_groups,
        "user-agent": found.get("userAgent") or "",
        "namespace": (found.get("objectRef") or {}).get("namespace") or "<none>",
        "uri": found["requestURI"],
        "response": "<deferred>" if status is None else str(status.get("code") or 0),
    }
    told = " ".join(f"{name}={_quoted(value)}" for name, value in values.items())
    return f"{_nanoseconds(found['requestReceivedTimestamp'])} AUDIT: {told}\n".encode()


def _listed(names: list[str]) -> str:
    return ",".join(map(_quoted, names))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _nanoseconds(timestamp: str) -> str:
    """Return a timestamp as Go writes it: no zeros at the end of its fraction."""
    head, _, fraction = timestamp.removesuffix("Z").partition(".")
    fraction = fraction.rstrip("0")
    return f"{head}.{fraction}Z" if fraction else f"{head}Z"
