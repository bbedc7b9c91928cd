"""What an infrastructure provider is asked, and how one is found.

A provider is a class with a constructor `(config_file: Path | None)` and the methods below, registered as an entry
point of the group `raftsman.cloud_providers` under the name that `--cloud-provider` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from control.api.meta import Object
from control.cloud.inventory import InventoryProvider
from control.cloud.machine import Machine

ENTRY_POINT_GROUP = "raftsman.cloud_providers"


class Provider(Protocol):
    """Knows the machines that nodes run on."""

    async def machine(self, node: Object) -> Machine | None:
        """Return the machine of a node, None when there is none any more; raises ProviderError when it cannot tell."""
        ...


@dataclass(frozen=True)
class UnknownProviderError(Exception):
    """No provider has this name."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"no cloud provider named {self.name!r}; there are: {', '.join(self.known)}"


BUILT_IN: dict[str, Callable[[Path | None], Provider]] = {"inventory": InventoryProvider}


def load_provider(name: str, config_file: Path | None) -> Provider:
    """Return the provider of a name: a built-in one, or an installed package's."""
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name in BUILT_IN:
        return BUILT_IN[name](config_file)
    if name not in found:
        raise UnknownProviderError(name, tuple(sorted({*BUILT_IN, *found})))
    make = cast("Callable[[Path | None], Provider]", found[name].load())
    return make(config_file)
