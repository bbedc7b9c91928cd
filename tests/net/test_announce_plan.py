"""Whose turn it is to answer for a load balancer's address, and what is said on the wire."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.announce import frames, plan
from net.announce.plan import Announced, LeaseState, NodeState, Timers

WEB = Announced("default/web", "u", ("192.0.2.10",))
TIMERS = Timers(6.0)
NODES = {name: NodeState(name) for name in ("n1", "n2", "n3")}
ORDER = plan.candidates(WEB, NODES, frozenset())
FIRST, SECOND, THIRD = ORDER


def service(**spec: Any) -> dict[str, Any]:
    ingress = spec.pop("ingress", [{"ip": "192.0.2.10"}])
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"type": "LoadBalancer", **spec},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (service(), WEB),
        (service(externalTrafficPolicy="Local"), Announced("default/web", "u", ("192.0.2.10",), local=True)),
        (service(ingress=[{"ip": "192.0.2.10", "ipMode": "Proxy"}]), None),
        (service(ingress=[{"hostname": "lb.example"}]), None),
        (service(loadBalancerClass="example.com/other"), None),
        (service(type="NodePort"), None),
        ({**service(), "metadata": {"name": "web", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, None),
    ],
    ids=["vip", "local", "proxy", "hostname", "other-class", "other-type", "going"],
)
def test_what_is_announced(obj: dict[str, Any], wanted: Announced | None) -> None:
    assert plan.service_of(obj) == wanted


def node(ready: str = "True", **slots: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    metadata = {"name": "n1", **slots.pop("metadata", {})}
    return {"metadata": metadata, "spec": slots, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (node(), NodeState("n1")),
        (node("False"), NodeState("n1", False)),
        (node("Unknown"), NodeState("n1", False)),
        (node(unschedulable=True), NodeState("n1", True, True)),
        (node(metadata={"labels": {plan.EXCLUDED_LABEL: ""}}), NodeState("n1", False)),
        (node(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), NodeState("n1", False)),
    ],
    ids=["ready", "not-ready", "silent", "cordoned", "excluded", "going"],
)
def test_which_nodes_are_fit(obj: dict[str, Any], wanted: NodeState) -> None:
    assert plan.node_of(obj) == wanted


def test_who_may_answer() -> None:
    assert sorted(ORDER) == ["n1", "n2", "n3"]
    local = Announced("default/web", "u", WEB.addresses, local=True)
    assert plan.candidates(local, NODES, frozenset({SECOND})) == [SECOND]
    assert plan.candidates(local, NODES, frozenset()) == []
    assert plan.candidates(WEB, {**NODES, FIRST: NodeState(FIRST, False)}, frozenset()) == [SECOND, THIRD]
    cordoned = {name: NodeState(name, True, True) for name in NODES}
    assert plan.candidates(WEB, cordoned, frozenset()) == ORDER
    assert plan.candidates(WEB, {**cordoned, THIRD: NodeState(THIRD)}, frozenset()) == [THIRD]


def test_addresses_spread() -> None:
    firsts = [plan.candidates(Announced(f"default/web{n}", "u", ()), NODES, frozenset())[0] for n in range(60)]
    assert min(firsts.count(name) for name in NODES) > 8


HELD = LeaseState(SECOND, 6.0, 100.0)
STEPS = [
    ("free-first", FIRST, ORDER, LeaseState(since=100.0), None, 100.1, "take"),
    ("free-second-waits", SECOND, ORDER, LeaseState(since=100.0), None, 100.1, "none"),
    ("free-second-later", SECOND, ORDER, LeaseState(since=100.0), None, 100.6, "take"),
    ("held-by-another", FIRST, ORDER, HELD, None, 105.9, "none"),
    ("run-out", FIRST, ORDER, HELD, None, 106.1, "take"),
    ("run-out-third-waits", THIRD, ORDER, HELD, None, 106.1, "none"),
    ("run-out-third-later", THIRD, ORDER, HELD, None, 106.6, "take"),
    ("run-out-not-fit", FIRST, [SECOND], HELD, None, 200.0, "none"),
    ("given-back", THIRD, [THIRD], LeaseState("", 1.0, 100.0), None, 100.1, "take"),
    ("ours-fresh", SECOND, ORDER, HELD, 100.0, 101.9, "none"),
    ("ours-due", SECOND, ORDER, HELD, 100.0, 102.0, "renew"),
    ("ours-from-before-a-restart", SECOND, ORDER, HELD, None, 100.0, "renew"),
    ("ours-not-fit", SECOND, [FIRST], HELD, 100.0, 100.1, "release"),
]


@pytest.mark.parametrize("row", STEPS, ids=[row[0] for row in STEPS])
def test_steps(row: tuple[str, str, list[str], LeaseState, float | None, float, str]) -> None:
    _, own, order, lease, renewed, now, wanted = row
    step = plan.step(own, order, lease, renewed, now, TIMERS)
    assert step.wish == wanted
    assert step.look_again_s > 0
    if wanted in ("take", "renew"):
        assert step.look_again_s <= TIMERS.renew_s, "what is held must be renewed in time"


@given(st.floats(1, 60), st.floats(0, 3), st.floats(0, 100))
def test_nobody_begins_before_the_other_ended(duration_s: float, delay_s: float, late_s: float) -> None:
    """The holder counts from before it asked, the others from when they saw it written."""
    timers = Timers(duration_s)
    renewed, seen = 100.0, 100.0 + delay_s
    now = seen + late_s
    taken = plan.step(FIRST, ORDER, LeaseState(SECOND, duration_s, seen), None, now, timers).wish == "take"
    assert not (taken and plan.still_holds(renewed, now, timers))


def test_names_of_leases_are_names_and_differ() -> None:
    names = {plan.lease_name(Announced(key, "u", ())) for key in ("a-b/c", "a/b-c", "a/b.c", "a/" + "x" * 250)}
    assert len(names) == 4
    assert max(map(len, names)) <= 253


OWN, ASKER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def arp_request(source: str, target: str) -> bytes:
    body = frames.ARP.pack(1, 0x0800, 6, 4, 1, ASKER, socket.inet_aton(source), bytes(6), socket.inet_aton(target))
    return frames.BROADCAST + ASKER + b"\x08\x06" + body


def test_arp_is_answered() -> None:
    asked = frames.parse(arp_request("192.0.2.1", "192.0.2.10"))
    assert asked is not None
    assert asked.address == "192.0.2.10"
    frame = frames.answer(asked, OWN)
    assert frame[:14] == ASKER + OWN + b"\x08\x06"
    assert len(frame) == frames.FRAME_MIN
    fields = frames.ARP.unpack_from(frame, 14)
    assert fields[4:] == (2, OWN, socket.inet_aton("192.0.2.10"), ASKER, socket.inet_aton("192.0.2.1"))


def test_announcements_of_others_are_no_questions() -> None:
    assert frames.parse(arp_request("192.0.2.10", "192.0.2.10")) is None
    for frame in frames.announcements("192.0.2.10", OWN) + frames.announcements("2001:db8::1", OWN):
        assert frames.parse(frame) is None


def solicitation(source: str, target: str, hops: int = 255) -> bytes:
    group = frames.solicited_node(target)
    body = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, target) + b"\x01\x01" + ASKER
    packed = socket.inet_pton(socket.AF_INET6, source)
    body = body[:2] + frames._checksum(packed, group, body) + body[4:]
    head = frames.IPV6.pack(0x60000000, len(body), 58, hops, packed, group)
    return frames.multicast_mac(group) + ASKER + b"\x86\xdd" + head + body


def test_solicitations_are_answered() -> None:
    asked = frames.parse(solicitation("2001:db8::9", "2001:db8::10"))
    assert asked is not None
    assert (asked.address, asked.mac) == ("2001:db8::10", ASKER)
    frame = frames.answer(asked, OWN)
    assert frame[:12] == ASKER + OWN
    body = frame[54:86]
    assert (body[0], body[4] & 0xE0, body[26:32]) == (136, 0x60, OWN)
    # A receiver sums the whole, checksum included, to zero.
    assert frames._checksum(frame[22:38], frame[38:54], body) == b"\x00\x00"


def test_somebody_who_looks_for_a_double_is_told_in_public() -> None:
    asked = frames.parse(solicitation("::", "2001:db8::10"))
    assert asked is not None
    frame = frames.answer(asked, OWN)
    assert frame[:6] == bytes.fromhex("333300000001")
    assert frame[38:54] == frames.ALL_NODES


def test_solicitations_from_afar_are_not_heeded() -> None:
    assert frames.parse(solicitation("2001:db8::9", "2001:db8::10", hops=64)) is None


@given(st.binary(max_size=120))
def test_no_frame_does_harm(data: bytes) -> None:
    frames.parse(data)
    frames.parse(bytes(12) + b"\x86\xdd" + data)
    frames.parse(bytes(12) + b"\x08\x06" + data)
