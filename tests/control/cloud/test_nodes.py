"""The cloud loops: nodes learn from their machines and go with them."""

from pathlib import Path
from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.client.actions import Delete, Patch
from control.cloud.inventory import InventoryProvider, parse
from control.cloud.machine import Machine, ProviderError
from control.cloud.nodes import (
    SHUT_DOWN,
    UNINITIALIZED,
    CloudNodeController,
    CloudNodeLifecycleController,
    follow_machine,
    initialize,
)
from control.cloud.provider import UnknownProviderError, load_provider
from tests.control.controllers.harness import World, until

MACHINE = Machine("inventory://n1", (("InternalIP", "10.0.0.1"),), "m1", "z", "r")


def node(ready: str = "True", *taint_keys: str, **spec: Any) -> Object:
    taints = [{"key": key, "effect": "NoSchedule"} for key in taint_keys]
    return {
        "metadata": {"name": "n1", "uid": "u", "resourceVersion": "7"},
        "spec": {**spec, **({"taints": taints} if taints else {})},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "Hostname", "address": "n1"}],
        },
    }


def test_a_new_node_is_initialized() -> None:
    spec, addresses, _ = initialize(node("True", UNINITIALIZED, "mine"), MACHINE)
    assert isinstance(spec, Patch)
    assert spec.patch["spec"]["providerID"] == "inventory://n1"
    assert [taint["key"] for taint in spec.patch["spec"]["taints"]] == ["mine"]
    assert spec.patch["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z"
    assert isinstance(addresses, Patch)
    assert [entry["type"] for entry in addresses.patch["status"]["addresses"]] == ["InternalIP", "Hostname"]


def test_a_known_node_is_left_alone() -> None:
    known = node(providerID="inventory://n1")
    assert initialize(known, Machine("inventory://n1")) == []


@pytest.mark.parametrize(
    ("ready", "machine", "marked", "expected"),
    [
        ("Unknown", None, False, "delete"),
        ("Unknown", Machine("x", is_shut_down=True), False, "mark"),
        ("Unknown", Machine("x", is_shut_down=True), True, ""),
        ("Unknown", Machine("x"), True, "unmark"),
        ("Unknown", Machine("x"), False, ""),
        ("True", Machine("x"), True, "unmark"),
        ("True", None, False, ""),
    ],
)
def test_a_node_in_trouble_follows_its_machine(
    ready: str, machine: Machine | None, marked: bool, expected: str
) -> None:
    actions = follow_machine(node(ready, *([SHUT_DOWN] if marked else [])), machine, "2026-01-01T00:00:00Z")
    if not expected:
        assert actions == []
    elif expected == "delete":
        assert isinstance(actions[-1], Delete)
    else:
        assert isinstance(actions[0], Patch)
        assert bool(actions[0].patch["spec"]["taints"]) is (expected == "mark")


def test_inventories_are_checked() -> None:
    machines = parse({"machines": [{"name": "n1", "state": "stopped", "addresses": [{"type": "a", "address": "b"}]}]})
    assert machines["n1"] == Machine("inventory://n1", (("a", "b"),), is_shut_down=True)
    cases: list[Any] = [{}, {"machines": [{}]}, {"machines": [{"name": "n", "state": "odd"}]}]
    for broken in cases:
        with pytest.raises(ProviderError):
            parse(broken)


async def test_an_inventory_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "machines.yaml"
    file.write_text("machines: [{name: n1, zone: a}]")
    provider = InventoryProvider(file)
    found = await provider.machine(node())
    assert found is not None
    assert found.zone == "a"
    file.write_text("machines: []")
    assert await provider.machine(node()) is None
    file.write_text("machines: [")
    with pytest.raises(ProviderError, match=r"machines\.yaml"):
        await provider.machine(node())


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(UnknownProviderError, match="there are: inventory"):
        load_provider("nimbus", None)


async def test_the_loops_end_to_end(tmp_path: Path) -> None:
    world = World()
    file = tmp_path / "machines.yaml"
    file.write_text("machines: [{name: n1, zone: a}]")
    provider = InventoryProvider(file)
    world.client.put(NODES, node("True", UNINITIALIZED))
    async with world.running(
        lambda context: [
            CloudNodeController(context, provider),
            CloudNodeLifecycleController(context, provider, 0.01),
        ]
    ):
        await until(lambda: (world.client.find(NODES, "n1") or {})["spec"].get("providerID"))
        assert meta.labels(world.client.find(NODES, "n1") or {})["topology.kubernetes.io/zone"] == "a"
        file.write_text("machines: []")
        assert world.client.find(NODES, "n1") is not None
        await world.client.patch(NODES, "n1", {"status": node("Unknown")["status"]},
                                 subresource="status")  # fmt: skip
        await until(lambda: world.client.find(NODES, "n1") is None)
