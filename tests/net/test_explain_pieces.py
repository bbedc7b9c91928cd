"""The small parts of explanations: sockets, elements' words, log lines, comparisons."""

from __future__ import annotations

import pytest

from net.explain import dump, elements, sockets, things
from net.explain.dump import Dump
from net.explain.things import Chain, Rule, Standing
from net.nftables.elements import DROP, goto
from net.proxy import nftables
from net.proxy.nftables_schema import slot_map

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:0CEA 00000000:0000 0A 00000000:00000000
   2: 0201F40A:1F91 0301F40A:D431 01 00000000:00000000
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A
   1: 0000000000000000FFFF00000201F40A:0051 00000000000000000000000000000000:0000 0A
"""


@pytest.mark.parametrize(
    ("address", "port", "takes"),
    [
        ("10.244.1.2", 8080, True),
        ("127.0.0.1", 3306, True),
        ("10.244.1.2", 3306, False),
        ("10.244.1.2", 8081, False),
        ("10.244.1.2", 80, True),
        ("fd00::1", 80, True),
        ("fd00::1", 8080, False),
        ("10.244.1.2", 81, True),
        ("10.244.1.3", 81, False),
    ],
)
def test_who_waits_at_a_port(address: str, port: int, takes: bool) -> None:
    waiting = [*sockets.parse("TCP", TCP.splitlines()[1:]), *sockets.parse("TCP", TCP6.splitlines()[1:])]
    assert any(one.takes("TCP", address, port) for one in waiting) is takes


@pytest.mark.parametrize(
    ("name", "key", "data", "words"),
    [
        ("service-ips", nftables.place("10.96.0.1", "tcp", 80), goto("cluster-3"), "10.96.0.1 . tcp . 80 : goto cluster-3"),
        ("service-ips", nftables.place("fd96::1", "udp", 53), b"", "fd96::1 . udp . 53"),
        ("service-nodeports", nftables.place("", "tcp", 30080), DROP, "tcp . 30080 : drop"),
        ("endpoints-1", nftables.place("10.96.0.1", "tcp", 80), nftables.target("10.244.1.7", 8080),
         "10.96.0.1 . tcp . 80 : 10.244.1.7 . 8080"),
        ("hairpin-connections", nftables.packed("10.244.1.7") * 2, b"", "10.244.1.7 . 10.244.1.7"),
        ("ingress-4", nftables.packed("10.244.1.7"), goto("ingress-profile-1"), "10.244.1.7 : goto ingress-profile-1"),
        ("port-4-tcp-http", nftables.packed("10.244.1.7") + b"\x1f\x90\0\0", b"", "10.244.1.7 . 8080"),
    ],
)  # fmt: skip
def test_elements_are_written_as_people_do(name: str, key: bytes, data: bytes, words: str) -> None:
    assert elements.words(name, key, data) == words


TABLE = ("ip", "kube-proxy")
KEY = nftables.place("10.96.0.1", "tcp", 80)
ONE, TWO = nftables.target("10.244.1.7", 8080), nftables.target("10.244.2.7", 8080)


def slots(first: bytes, second: bytes, **blocks: tuple[str, ...]) -> Dump:
    held = {(*TABLE, slot_map("", 0)): {KEY: first}, (*TABLE, slot_map("", 1)): {KEY: second}}
    return Dump({TABLE: {f"chain {name}": lines for name, lines in blocks.items()}}, held)


def test_slots_in_another_order_and_spare_chains_are_no_difference() -> None:
    wanted, live = slots(ONE, TWO, services=("a",)), slots(TWO, ONE, services=("a",), **{"cluster-9": ("b",)})
    assert dump.compare(wanted, live) == []
    (found,) = dump.compare(wanted, slots(ONE, ONE, services=("a",)))
    assert found.part == "services"
    assert found.lacks == ("10.96.0.1 . tcp . 80 : 10.244.2.7 . 8080",)
    (found,) = dump.compare(wanted, slots(ONE, TWO, services=("a", "c"), nasty=()))[1:]
    assert (found.what, found.extra) == ("nftables ip kube-proxy chain services", ("c",))
    (found,) = dump.compare(wanted, Dump())
    assert found.lacks == ("(the whole table)",)


def test_only_jumps_to_our_chains_count_in_the_kernels_own() -> None:
    wanted = Dump(iptables={"nat": {"PREROUTING": ("-j KUBE-SERVICES",), "KUBE-SERVICES": ()}})
    live = Dump(iptables={"nat": {"PREROUTING": ("-j DOCKER", "-p tcp -j KUBE-SERVICES"), "KUBE-SERVICES": ()}})
    (found,) = dump.compare(wanted, live)
    assert (found.part, found.lacks, found.extra) == ("services", ("-j KUBE-SERVICES",), ("-p tcp -j KUBE-SERVICES",))


def test_a_chain_says_what_it_lacks_what_is_too_much_and_what_is_in_another_order() -> None:
    standing = Standing(tables={"nat": {"A": ("-j B", "-j C")}})
    assert Chain("nat", "A", ("-j B", "-j C")).missing(standing) == ""
    assert Chain("nat", "A", ("-j B", "-j D")).missing(standing).endswith("lacks the rule: -j D")
    assert Chain("nat", "A", ("-j B",)).missing(standing).endswith("has a rule that nobody wants: -j C")
    assert Chain("nat", "A", ("-j C", "-j B")).missing(standing).endswith("has its rules in another order")
    assert Chain("nat", "Z", ()).missing(standing) == "the kernel has no chain Z in table nat"
    assert Rule("nat", "A", '-j "B"').missing(standing) == ""
    assert things.WantedRoute("10.0.0.1").missing(standing) == "the kernel has no route to 10.0.0.1"
