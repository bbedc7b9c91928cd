"""Which resources an API server serves, for controllers that deal with all kinds."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import orjson

from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import Client

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A resource and what may be done with it."""

    resource: Resource
    verbs: frozenset[str]


async def discover(client: Client) -> tuple[list[Served], bool]:
    """Return the preferred version of each resource, and whether every group answered."""
    groups = [("", "v1", "/api/v1")]
    listing = orjson.loads(await client.request("GET", "/apis"))
    for group in listing.get("groups") or []:
        preferred = group["preferredVersion"]
        groups.append((group["name"], preferred["version"], f"/apis/{preferred['groupVersion']}"))
    found: list[Served] = []
    complete = True
    for group_name, version, path in groups:
        try:
            document = orjson.loads(await client.request("GET", path))
        except ApiError as error:
            log.warning("a group is not discovered group=%s error=%s", group_name, error.message)
            complete = False
            continue
        for entry in document.get("resources") or []:
            if "/" in entry["name"]:
                continue
            resource = Resource(
                entry.get("group") or group_name, entry.get("version") or version, entry["name"], entry["kind"],
                bool(entry.get("namespaced")),
            )  # fmt: skip
            found.append(Served(resource, frozenset(entry.get("verbs") or ())))
    return found, complete
