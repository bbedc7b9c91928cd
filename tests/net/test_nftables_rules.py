"""nftables mode without a kernel: schema text, elements, claims, steps, and where remembered clients go."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from net.nftables.elements import DROP, chain_of
from net.nftables.operations import AddElements, DeleteElements, Table
from net.proxy import nftables_schema as schema
from net.proxy.affinity import Move, moves
from net.proxy.claims import Claims, Difference, Elements, difference, whole_difference
from net.proxy.nftables import REJECT, arranged, node_entries, place, render, source_ranges, target
from net.proxy.nftables_schema import Spread
from net.proxy.rules import NodeFacts, PortRules, RuleSettings, decide
from net.proxy.services import Endpoint, PortName, ServicePort
from net.proxy.steps import FIRST_STEP, transactions

GOLDEN = Path(__file__).parents[1] / "golden/net/nftables.rules"
SETTINGS = RuleSettings(cluster_cidrs=("10.244.0.0/16",), node_name="n1")
SIX = replace(SETTINGS, ip_version=6, cluster_cidrs=("fd00:244::/32",))
WEB = PortName("default/web", "http", "TCP")
KEY, NODE_PORT_KEY = place("10.96.0.1", "tcp", 80), place("", "tcp", 30080)
HERE, THERE = Endpoint("10.244.1.2", 8080, "n1"), Endpoint("10.244.2.3", 8080, "n2")


def rules(*endpoints: Endpoint, **port: object) -> PortRules:
    return decide(ServicePort(WEB, "10.96.0.1", 80, **port), endpoints, NodeFacts("n1"))  # type: ignore[arg-type]


def rendered(found: PortRules, config: RuleSettings = SETTINGS) -> dict[tuple[str, bytes], bytes]:
    return {(name, key): data for name, key, data in render([found], config, {}).entries}


def test_golden_schema() -> None:
    """`GOLDEN_REWRITE=1 pytest` writes the file anew; the difference is then for people to judge."""
    spreads = [Spread("cluster", 1), Spread("cluster", 3), Spread("nodeport-local", 2, 10800), Spread("external", 1)]
    written = "".join(schema.text(config, schema.blocks(config, spreads)) for config in (SETTINGS, SIX))
    if os.environ.get("GOLDEN_REWRITE"):
        GOLDEN.write_text(written)
    assert written == GOLDEN.read_text()


def test_the_schema_does_not_know_services() -> None:
    needed = render([rules(HERE, THERE)], SETTINGS, {}).spreads
    assert needed == {Spread("cluster", 2)}
    assert Spread("cluster", 16) in schema.provisioned(needed)
    assert not any("10.96" in text or "web" in text for text in schema.blocks(SETTINGS, needed).values())


@pytest.mark.parametrize("spread", [Spread("cluster", 3), Spread("nodeport-inside", 12, 300), Spread("local", 1)])
def test_a_spread_is_known_by_its_chain(spread: Spread) -> None:
    assert schema.parse_spread(spread.chain) == spread
    assert schema.parse_spread("services") is None


def test_more_spreads_only_add_blocks() -> None:
    few = schema.blocks(SETTINGS, schema.provisioned([Spread("cluster", 3)]))
    more = schema.blocks(
        SETTINGS, schema.provisioned([Spread("cluster", 40), Spread("external", 3, 600), Spread("external", 3)])
    )
    assert {head: more[head] for head in few} == few


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param(
            rules(HERE, THERE),
            {
                ("service-ips", KEY): "cluster-2",
                ("endpoints-0", KEY): target("10.244.1.2", 8080),
                ("endpoints-1", KEY): target("10.244.2.3", 8080),
                ("hairpin-connections", bytes((10, 244, 1, 2)) * 2): b"",
            },
            id="cluster IP",
        ),
        pytest.param(rules(), {("no-endpoint-services", KEY): REJECT, ("cluster-ips", KEY[:4]): b""}, id="refused"),
        pytest.param(
            rules(THERE, internal_local=True), {("no-endpoint-services", KEY): DROP}, id="dropped, as none is here"
        ),
        pytest.param(
            rules(HERE, THERE, node_port=30080, external_local=True),
            {
                ("service-nodeports", NODE_PORT_KEY): "nodeport-local-1",
                ("nodeport-local-endpoints-0", NODE_PORT_KEY): target("10.244.1.2", 8080),
                ("service-nodeports-inside", NODE_PORT_KEY): "nodeport-inside-2",
                ("nodeport-endpoints-1", NODE_PORT_KEY): target("10.244.2.3", 8080),
            },
            id="Local, and the short way",
        ),
        pytest.param(
            rules(THERE, external_ips=("198.51.100.1",), affinity_timeout_s=600),
            {
                ("service-ips", place("198.51.100.1", "tcp", 80)): "external-1-sticky-600",
                ("service-ips", KEY): "cluster-1-sticky-600",
            },
            id="external and sticky",
        ),
    ],
)
def test_elements(found: PortRules, wanted: dict[tuple[str, bytes], bytes | str]) -> None:
    have = rendered(found)
    for where, data in wanted.items():
        assert (chain_of(have[where]) if isinstance(data, str) else have[where]) == data


def test_source_ranges_do_not_overlap() -> None:
    found = list(source_ranges(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"]))
    assert [first.hex() for first, _ in found] == ["0a000000", "c0000207", "20010db8" + "0" * 24]


def test_chosen_node_addresses() -> None:
    assert node_entries(SETTINGS) == ()
    chosen = replace(SETTINGS, node_port_cidrs=("192.0.2.0/24",), node_addresses=("192.0.2.1",))
    assert node_entries(chosen) == (("nodeport-ips", bytes((192, 0, 2, 1)), b""),)


@given(
    st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), unique=True, max_size=4),
    st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), unique=True, min_size=1, max_size=5),
)
def test_endpoints_keep_their_slots(standing: list[bytes], wanted: list[bytes]) -> None:
    padded = [standing[slot] if slot < len(standing) else None for slot in range(len(wanted))]
    found = arranged(padded, wanted)
    assert sorted(found) == sorted(wanted)
    for slot, data in enumerate(padded):
        assert data not in wanted or found[slot] == data


ENTRIES = st.lists(
    st.tuples(st.sampled_from(["s", "t"]), st.sampled_from([b"1", b"2", b"3"]), st.sampled_from([b"x", b"y"])),
    max_size=5,
    unique_by=lambda entry: entry[:2],
)
CHANGES = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), ENTRIES.map(tuple), max_size=4)


def oracle(services: dict[str, tuple[tuple[str, bytes, bytes], ...]]) -> Elements:
    found: Elements = {}
    for entries in services.values():
        for name, key, data in entries:
            held = found.setdefault(name, {})
            held[key] = min(data, held.get(key, data))
    return found


def full(elements: Elements) -> Elements:
    return {name: held for name, held in elements.items() if held}


@given(st.lists(CHANGES, max_size=8), st.data())
@settings(max_examples=50)
def test_claims_end_where_all_wishes_together_lead(steps: list[dict[str, tuple[tuple[str, bytes, bytes], ...]]], data: st.DataObject) -> None:  # fmt: skip
    claims, services = Claims(), dict[str, tuple[tuple[str, bytes, bytes], ...]]()
    kernel: Elements = {}
    for changes in steps:
        staged = claims.stage(changes)
        if data.draw(st.booleans()):
            continue  # refused: nothing of it may be left
        todo = difference(staged, kernel)
        carry_out(todo, kernel)
        claims.adopt(staged)
        services = {name: entries for name, entries in {**services, **changes}.items() if entries}
        assert full(claims.wanted) == oracle(services)
        assert full(kernel) == oracle(services)
    stranger: Elements = {"s": {b"1": b"?", b"9": b"z"}, "u": {b"5": b""}}
    carry_out(whole_difference(claims.stage({}), claims.wanted, stranger), stranger)
    assert full(stranger) == oracle(services)


def carry_out(todo: Difference, kernel: Elements) -> None:
    """Do what the kernel would, and complain where it would."""
    for name, keys in todo.deleted.items():
        for key in keys:
            del kernel[name][key]
    for name, pairs in todo.added.items():
        for key, data in pairs:
            assert key not in kernel.setdefault(name, {})
            kernel[name][key] = data


def test_a_small_difference_is_one_transaction() -> None:
    table = Table("ip", "kube-proxy")
    todo = Difference({"endpoints-1": [KEY]}, {"endpoints-1": [(KEY, target("10.244.1.9", 80))]})
    ((operations, size),) = transactions(table, todo, {"endpoints-1": {KEY: b""}})
    assert size == 2
    assert [type(operation) for operation in operations] == [DeleteElements, AddElements]
    assert list(transactions(table, Difference(), {})) == []


def test_an_empty_table_is_filled_in_steps_and_slots_come_first() -> None:
    count = 3000
    keys = [place(f"10.96.{number >> 8}.{number & 255}", "tcp", 80) for number in range(count)]
    todo = Difference(
        {"endpoints-0": [b"old1"]},
        {
            "service-ips": [(key, REJECT) for key in keys],
            "endpoints-0": [*((key, target("10.244.1.2", 80)) for key in keys), (b"old1", b"new1")],
        },
    )
    held = Counter({"endpoints-0": 1})
    order: list[str] = []
    for operations, _ in transactions(Table("ip", "kube-proxy"), todo, {"endpoints-0": {b"old1": b""}}):
        for operation in operations:
            if isinstance(operation, AddElements):
                assert len(operation.elements) <= max(FIRST_STEP, held[operation.set_name])
                held[operation.set_name] += len(operation.elements)
                order.append(operation.set_name)
    assert held == {"endpoints-0": count + 2, "service-ips": count}
    assert order.index("service-ips") > max(place for place, name in enumerate(order[:-1]) if name == "endpoints-0")


def test_remembered_clients_move_with_their_endpoint() -> None:
    before = {"endpoints-0": b"a", "endpoints-1": b"b", "endpoints-2": b"c"}
    after = {"endpoints-0": b"a", "endpoints-1": b"c"}
    found = moves([("", KEY)], lambda name, _: before.get(name), lambda name, _: after.get(name))
    assert found == [Move("", KEY, ((1, None), (2, 1)))]
    assert moves([("", KEY)], lambda name, _: before.get(name), lambda name, _: before.get(name)) == []
