"""A lookup over a handful of objects, as policies have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from control.api.meta import Object
from control.api.resources import Resource


class Caches:
    """A lookup over a handful of objects."""

    def __init__(self, *held: tuple[Resource, Object]) -> None:
        self.held = list(held)

    async def warm(self, resource: Resource) -> None:
        pass

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        return next((obj for obj in self.list(resource, namespace) if obj["metadata"]["name"] == name), None)

    def list(self, resource: Resource, namespace: str = "") -> Iterator[Object]:
        for kind, obj in self.held:
            if kind == resource and (not namespace or obj["metadata"].get("namespace", "") in ("", namespace)):
                yield obj

    def subscribe(self, resource: Resource, listener: Any) -> None:
        for obj in self.list(resource):
            listener(None, obj)
