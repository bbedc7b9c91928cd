"""The iptables interpreter does what iptables does."""

from __future__ import annotations

import pytest

from net.xtables import XtablesError
from tests.fakes.fake_iptables import End, FakeIptables, Packet


def table(*lines: str, name: str = "nat") -> str:
    return "\n".join([f"*{name}", *lines, "COMMIT", ""])


def test_named_chains_are_flushed_and_others_stay() -> None:
    fake = FakeIptables()
    fake.apply(table(":A - [0:0]", ":B - [0:0]", "-A A -j ACCEPT", "-A B -j DROP"))
    fake.apply(table(":A - [0:0]", "-A A -j RETURN"))
    assert [rule.text for rule in fake.tables["nat"]["A"]] == ["-j RETURN"]
    assert [rule.text for rule in fake.tables["nat"]["B"]] == ["-j DROP"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["-A NONE -j ACCEPT"], id="unknown chain"),
        pytest.param([":A - [0:0]", "-A A -j NONE"], id="jump to nowhere"),
        pytest.param([":A - [0:0]", "-A PREROUTING -j A", "-X A"], id="delete a chain in use"),
        pytest.param([":A - [0:0]", "-A A -m sorcery -j ACCEPT"], id="unknown match"),
        pytest.param([":A - [0:0]", "-A A --dport 80 -j ACCEPT"], id="port without protocol"),
        pytest.param([":A - [0:0]", "-A A -s 10.0.0.1/8 -j ACCEPT"], id="host bits in a network"),
        pytest.param([":" + "A" * 29 + " - [0:0]"], id="long chain name"),
        pytest.param(["-D PREROUTING -j ACCEPT"], id="delete an absent rule"),
    ],
)
def test_errors_leave_the_table_as_it_was(lines: list[str]) -> None:
    fake = FakeIptables()
    fake.apply(table(":KEPT - [0:0]"))
    with pytest.raises(XtablesError, match="line"):
        fake.apply(table(":NEW - [0:0]", *lines))
    assert set(fake.tables["nat"]) == {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "KEPT"}


def test_a_trace_follows_chance_both_ways() -> None:
    fake = FakeIptables()
    one = "-A PREROUTING -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1:1"
    fake.apply(table(one, "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.2:2"))
    assert fake.trace(Packet("9.9.9.9", "8.8.8.8", 80)) == {End("ACCEPT", "10.0.0.1:1"), End("ACCEPT", "10.0.0.2:2")}


def test_marks_travel_from_dispatch_to_postrouting() -> None:
    fake = FakeIptables()
    fake.apply(
        table(
            "-A PREROUTING -j MARK --set-xmark 0x4000/0x4000",
            "-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A POSTROUTING -j MASQUERADE --random-fully",
        )
    )
    assert fake.trace(Packet("9.9.9.9", "8.8.8.8", 80)) == {End("ACCEPT", "8.8.8.8:80", True)}
    assert fake.trace(Packet("9.9.9.9", "8.8.8.8", 80, from_node=True)) == {End("ACCEPT", "8.8.8.8:80", False)}


@pytest.mark.parametrize(
    ("packet", "chain"),
    [
        pytest.param(Packet("9.9.9.9", "192.168.77.11", 80), "INPUT", id="to the node"),
        pytest.param(Packet("9.9.9.9", "8.8.8.8", 80), "FORWARD", id="through the node"),
        pytest.param(Packet("192.168.77.11", "8.8.8.8", 80, from_node=True), "OUTPUT", id="from the node"),
    ],
)
def test_each_way_meets_its_own_filter(packet: Packet, chain: str) -> None:
    fake = FakeIptables()
    fake.apply(table(f"-A {chain} -j DROP", name="filter"))
    assert fake.trace(packet) == {End("DROP")}


async def test_saves_can_be_restored() -> None:
    fake, other = FakeIptables(), FakeIptables()
    fake.apply(table(":A - [0:0]", '-A A -m comment --comment "two words" -j ACCEPT', "-A PREROUTING -j A"))
    saved = await fake.save("nat")
    other.apply(saved.replace("*nat", "*nat"))
    assert await other.save("nat") == saved
