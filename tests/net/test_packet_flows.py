"""Every packet-flow case with real packets: each mode of the proxy, both IP families, all behaviours of dispatch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from net.proxy.applier import Applier
from tests.net.packet_cases import CASES, DROPPED, KEPT, MASKED, REFUSED, UNKNOWN, UNSERVED, Case, Flow
from tests.net.packet_world import MODES, World, batch, built, front_address, node_port, service_object, slice_objects

pytestmark = pytest.mark.root
REFUSALS = {"TCP": (ConnectionRefusedError,), "UDP": (ConnectionRefusedError, PermissionError)}
"""A node's own datagram that its own rules reject is refused to the sender before it ever left."""
TRIES_MAX = 80
TRIES_MORE = 4
DROPPED_AFTER_S = 0.2


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with built(request.param) as made:
        for case in CASES:
            made.add(service_object(case, made.addresses), *slice_objects(case, made.addresses))
            if case.balanced.startswith("own"):
                own = [front_address(case.name, "balancer", version) for version in (4, 6)]
                batch(made.machines["node_1"], [f"addr add {address} dev lo" for address in own])
        made.sync()
        yield made


@pytest.mark.parametrize("ip_version", [4, 6])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_flows(world: World, case: Case, ip_version: int) -> None:
    # At once, as waiting for what must not arrive takes most of the time.
    with ThreadPoolExecutor(len(case.flows)) as threads:
        for done in [threads.submit(check, world, case, flow, ip_version) for flow in case.flows]:
            done.result()


def test_behaviour_24_a_restart_with_the_same_state_writes_nothing(world: World) -> None:
    # Every kind of rule is there, so each must be spelled as the kernel spells it, in both families.
    before = [rules.applier for rules in world.rules]
    try:
        for rules in world.rules:
            rules.applier = world.new_applier(rules)
        assert world.sync() == 0
    finally:
        for rules, applier in zip(world.rules, before, strict=True):
            rules.node.call(close(rules.applier))
            rules.applier = applier


async def close(applier: Applier) -> None:
    applier.close()


def place(world: World, case: Case, flow: Flow, ip_version: int) -> tuple[str, int]:
    """Return address and port that a flow goes to."""
    if flow.to in ("cluster", "external", "balancer"):
        return front_address(case.name, flow.to, ip_version), flow.port
    port = next(port for port in case.ports if (port.port, port.protocol) == (flow.port, flow.protocol))
    if flow.to == "loopback":
        return {4: "127.0.0.1", 6: "::1"}[ip_version], node_port(case, port)
    return world.addresses[flow.to, ip_version], node_port(case, port)


def check(world: World, case: Case, flow: Flow, ip_version: int) -> None:
    """Send packets until the flow's expectation is met, or broken."""
    address, port = place(world, case, flow, ip_version)
    told = f"{flow} at {address} port {port}"
    reach = flow.reach
    if reach == UNKNOWN:
        reach = REFUSED if world.mode == "nftables" else UNSERVED
    if reach == REFUSED:
        # A refusal that were ICMP would be limited in rate, and come a second late to most of these.
        for _ in range(10 if flow.protocol == "TCP" else 1):
            with pytest.raises(REFUSALS[flow.protocol]):
                world.ask(flow.client, address, port, flow.protocol)
    elif reach == DROPPED:
        with pytest.raises(TimeoutError):
            world.ask(flow.client, address, port, flow.protocol, DROPPED_AFTER_S)
    elif reach == UNSERVED:
        with pytest.raises(OSError) as caught:
            world.ask(flow.client, address, port, flow.protocol, DROPPED_AFTER_S)
        assert not isinstance(caught.value, ConnectionRefusedError), told
    else:
        check_answers(world, flow, address, port, told)


def check_answers(world: World, flow: Flow, address: str, port: int, told: str) -> None:
    """Ask until every wanted pod answered, and a few times more; nobody else may."""
    wanted, met = set(flow.reach), set[str]()
    own = world.addresses[flow.client, 6 if ":" in address else 4]
    more = 0
    for _ in range(TRIES_MAX):
        name, seen = world.ask(flow.client, address, port, flow.protocol)
        assert name in wanted, f"{told}: {name} answers"
        assert flow.source != KEPT or seen == own, f"{told}: {name} sees {seen}, not {own}"
        assert flow.source != MASKED or seen != own, f"{told}: {name} sees {seen}"
        met.add(name)
        more += met == wanted
        if more > TRIES_MORE:
            return
    raise AssertionError(f"{told}: only {sorted(met)} answered")
