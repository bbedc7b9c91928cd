"""The built-in provider: machines as they stand in a file, for bare metal, virtual machines and the lab.

    machines:
    - name: n1
      providerID: inventory://rack-1/n1     # inventory://n1 where it is missing
      zone: rack-1
      region: home
      instanceType: m720q
      addresses: [{type: InternalIP, address: 10.0.0.11}]
      state: running                        # or stopped

The file is read anew when it changes. Without a file every node is taken for a machine of its own name, so that
nodes are initialized and none is ever declared gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from control.api import meta
from control.api.meta import Object
from control.cloud.machine import Machine, ProviderError

SCHEME = "inventory"


def parse(document: Any) -> dict[str, Machine]:
    """Return the machines of an inventory by name; raises ProviderError."""
    entries = document.get("machines") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ProviderError("expected a map with a list named machines")
    machines: dict[str, Machine] = {}
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not name:
            raise ProviderError(f"machines[{index}]: name is missing")
        state = entry.get("state", "running")
        if state not in ("running", "stopped"):
            raise ProviderError(f"machines[{index}]: state must be running or stopped, not {state!r}")
        machines[str(name)] = Machine(
            provider_id=str(entry.get("providerID") or f"{SCHEME}://{name}"),
            addresses=tuple((str(found["type"]), str(found["address"])) for found in entry.get("addresses") or []),
            instance_type=str(entry.get("instanceType") or ""),
            zone=str(entry.get("zone") or ""),
            region=str(entry.get("region") or ""),
            is_shut_down=state == "stopped",
        )
    return machines


class InventoryProvider:
    """Answers from the inventory file."""

    def __init__(self, config_file: Path | None) -> None:
        self._file = config_file
        self._read_at: tuple[int, int] | None = None
        self._machines: dict[str, Machine] = {}

    async def machine(self, node: Object) -> Machine | None:
        """Return the machine of a node by its name."""
        if self._file is None:
            return Machine(provider_id=f"{SCHEME}://{meta.name(node)}")
        return self._current(self._file).get(meta.name(node))

    def _current(self, file: Path) -> dict[str, Machine]:
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._read_at:
                self._machines = parse(yaml.safe_load(file.read_text()))
                self._read_at = stamp
        except (OSError, yaml.YAMLError, ProviderError) as error:
            raise ProviderError(f"{file}: {error}") from None
        return self._machines
