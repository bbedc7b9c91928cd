"""Policies and their bindings, as the server's caches tell of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver.request import Lookup

log = logging.getLogger(__name__)


class _Binding(Protocol):
    @property
    def policy(self) -> str: ...


P = TypeVar("P")
B = TypeVar("B", bound=_Binding)


class Bound(Generic[P, B]):
    """Knows which policies are bound; one that cannot be read is left out, and the log says why."""

    def __init__(
        self,
        lookup: Lookup,
        resources: tuple[Resource, Resource],
        policy_of: Callable[[Object], P],
        binding_of: Callable[[Object], B],
    ) -> None:
        self._lookup = lookup
        self._resources = resources
        self._policy_of = policy_of
        self._binding_of = binding_of
        self._policies: dict[str, P] = {}
        self._bindings: dict[str, B] = {}

    async def follow(self) -> None:
        """Know policies and bindings from now on."""
        for resource, changed in zip(self._resources, (self._policy_changed, self._binding_changed), strict=True):
            self._lookup.subscribe(resource, changed)
            await self._lookup.warm(resource)

    def _policy_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        self._policies.pop(name, None)
        if new is None:
            return
        try:
            self._policies[name] = self._policy_of(new)
        except (KeyError, TypeError, ValueError) as error:
            log.error("policy cannot be read name=%s error=%s", name, error)

    def _binding_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            self._bindings.pop(name, None)
        else:
            self._bindings[name] = self._binding_of(new)

    def __bool__(self) -> bool:
        return bool(self._bindings)

    def __iter__(self) -> Iterator[tuple[P, B]]:
        """Yield what is bound, by the bindings' names."""
        for _, binding in sorted(self._bindings.items()):
            policy = self._policies.get(binding.policy)
            if policy is not None:
                yield policy, binding
