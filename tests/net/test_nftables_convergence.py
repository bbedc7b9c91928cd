"""Whatever happens on the way, the kernel's nftables end where a fresh start would put them: against the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from net.netlink import inside
from net.nftables.door import NftablesSocket
from net.nftables.elements import element
from net.nftables.operations import AddElements, DeleteElements, FlushSet
from net.proxy import nftables_schema as schema
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.nftables import packed, place, render, target
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings
from net.proxy.services import ChangeTracker
from net.proxy.standing import look
from tests.net.topology import Namespace, endpoint_slice, service

pytestmark = pytest.mark.root

SETTINGS = RuleSettings(cluster_cidrs=("10.244.0.0/16",), node_name="n1")
NAMES = st.sampled_from(["a", "b", "c", "d"])
PODS = st.lists(st.sampled_from([(f"10.244.1.{number}", "n1") for number in range(2, 8)]), unique=True)
SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "nodePort": st.sampled_from([30001, 30002]),
        "sessionAffinity": st.just("ClientIP"),
        "externalTrafficPolicy": st.just("Local"),
        "internalTrafficPolicy": st.just("Local"),
        "externalIPs": st.just(["198.51.100.9"]),
    },
)


class World:
    """A namespace, and an applier in it."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.loop = asyncio.new_event_loop()
        with inside(namespace.descriptor):
            self.door = NftablesSocket()
        self.begin()

    def begin(self) -> None:
        self.tracker = ChangeTracker()
        self.book = RuleBook(NodeFacts("n1"))
        self.applier = self.make()

    def make(self) -> NftablesApplier:
        with inside(self.namespace.descriptor):
            return NftablesApplier(SETTINGS)

    def sync(self) -> int:
        changed = self.book.update(self.tracker, self.tracker.take_changes())
        with inside(self.namespace.descriptor):
            result = self.loop.run_until_complete(self.applier.sync(self.book.decided, changed))
        assert not result.refused
        return result.written_bytes

    def put(self, name: str, pods: list[tuple[str, str]], **spec: Any) -> None:
        self.tracker.service_changed(f"default/{name}", service(name, f"10.96.0.{ord(name[0])}", **spec))
        self.tracker.slice_changed(f"default/{name}-abc", endpoint_slice(name, pods))

    def clean(self) -> None:
        self.loop.run_until_complete(self.applier.clean_up())
        self.applier.close()

    def close(self) -> None:
        self.clean()
        self.door.close()
        self.loop.close()

    def check(self) -> None:
        """Compare the kernel with a rendering from nothing; which slot an endpoint has is not told by it."""
        found = look(self.door, self.applier._kernel.table)
        wanted: dict[str, dict[bytes, bytes]] = {}
        contested: set[bytes] = set()
        for ports in self.book.decided.values():
            for name, key, data in render(ports, SETTINGS, {}).entries:
                if wanted.setdefault(name, {}).setdefault(key, data) != data:
                    contested.add(key)
                    wanted[name][key] = min(data, wanted[name][key])
        assert found.shape.text_digest
        for name in schema.LEADING:
            assert found.elements[name] == wanted.get(name, {})
        for space in schema.SPACES:
            for key in {key for name, held in wanted.items() if name.startswith(f"{space}endpoints-") for key in held}:
                if key not in contested:
                    assert slots(found.elements, space, key) == slots(wanted, space, key)
        slotted = {name for name in found.elements if "endpoints-" in name}
        for name in found.elements.keys() - slotted:
            assert found.elements[name] == wanted.get(name, {}), name
        assert {name: len(found.elements[name]) for name in slotted} == {
            name: len(wanted.get(name, ())) for name in slotted
        }


def slots(elements: dict[str, dict[bytes, bytes]], space: str, key: bytes) -> set[bytes]:
    names = [name for name in elements if name.startswith(f"{space}endpoints-")]
    return {elements[name][key] for name in names if key in elements[name]}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    namespace = Namespace("conv")
    try:
        made = World(namespace)
        try:
            yield made
        finally:
            made.close()
    finally:
        namespace.close()


def test_convergence(world: World) -> None:
    class Convergence(RuleBasedStateMachine):
        """Changes, restarts and damage in any order."""

        @rule(name=NAMES, pods=PODS, spec=SPECS)
        def put(self, name: str, pods: list[tuple[str, str]], spec: dict[str, Any]) -> None:
            world.put(name, pods, **spec)

        @rule(name=NAMES)
        def remove_service(self, name: str) -> None:
            world.tracker.service_changed(f"default/{name}", None)

        @rule()
        def sync(self) -> None:
            world.sync()

        @rule(gone=st.sets(NAMES))
        def restart(self, gone: set[str]) -> None:
            world.sync()
            world.applier.close()
            for name in gone:  # while nobody looked
                world.tracker.service_changed(f"default/{name}", None)
            world.applier = world.make()
            world.sync()

        @rule(name=st.sampled_from(["service-ips", "endpoints-0", "endpoints-1", "cluster-ips"]), told=st.booleans())
        def flush(self, name: str, told: bool) -> None:
            if world.applier._kernel.table in world.door.tables():
                world.door.batch([FlushSet(world.applier._kernel.table, name)])
            if told:
                world.applier.forget()

        @rule()
        def delete_table(self) -> None:
            world.loop.run_until_complete(world.applier.clean_up())
            world.applier.forget()

        def teardown(self) -> None:
            world.applier.forget()
            world.sync()
            world.check()
            world.applier.forget()
            assert world.sync() == 0, "a second look writes again"
            world.clean()
            world.begin()

    run_state_machine_as_test(Convergence, settings=settings(max_examples=12, stateful_step_count=12, deadline=None))


def test_remembered_clients_stay_with_their_endpoint(world: World) -> None:
    pods = [(f"10.244.1.{number}", "n1") for number in (2, 3, 4)]
    world.put("sticky", pods, sessionAffinity="ClientIP")
    world.sync()
    table = world.applier._kernel.table
    key = place(f"10.96.0.{ord('s')}", "tcp", 80)
    clients = [packed(f"10.244.9.{number}") + key for number in range(3)]
    stranger = packed("10.244.9.0") + place("10.96.0.200", "tcp", 80)
    entries = [(0, clients[0]), (1, clients[1]), (1, stranger), (2, clients[2])]
    world.door.batch(
        [AddElements(table, f"affinity-{slot}", [element(who, timeout_ms=600_000)]) for slot, who in entries]
    )
    world.put("sticky", [pods[0], pods[2]], sessionAffinity="ClientIP")
    world.sync()
    held = [{found.key: found for found in world.door.elements(table, f"affinity-{slot}")} for slot in range(3)]
    # The second endpoint is gone, and the third took its place, clients and all.
    assert world.door.element_map(table, "endpoints-1")[key] == target("10.244.1.4", 8080)
    assert [set(found) for found in held] == [{clients[0]}, {clients[2], stranger}, set()]
    assert 0 < held[1][clients[2]].expires_ms <= held[1][clients[2]].timeout_ms == 600_000


def test_a_change_that_finds_other_elements_than_remembered_compares_all(world: World) -> None:
    world.put("a", [("10.244.1.2", "n1"), ("10.244.1.3", "n1")])
    world.sync()
    table = world.applier._kernel.table
    key = place(f"10.96.0.{ord('a')}", "tcp", 80)
    world.door.batch([DeleteElements(table, "endpoints-1", [element(key)])])
    world.put("a", [("10.244.1.2", "n1"), ("10.244.1.9", "n1")])
    world.sync()
    assert world.door.element_map(table, "endpoints-1")[key] == target("10.244.1.9", 8080)
