"""Which of pods' packets are masqueraded, and that a firewall which drops lets them pass."""

from __future__ import annotations

import pytest

from net import chains
from net.routes import masquerade, outside
from net.routes.config import RoutesConfig
from net.routes.peers import Peer
from net.xtables import XtablesError
from tests.fakes.fake_iptables import End, FakeIptables, Packet

N1 = Peer("n1", ("192.168.77.11", "fd00:77::11"), ("10.244.1.0/24", "fd00:244:1::/64"))
N2 = Peer("n2", ("192.168.77.12", "fd00:77::12"), ("10.244.2.0/24", "fd00:244:2::/64"))
JUMPS = masquerade.jumps(True, True)


@pytest.mark.parametrize(
    ("source", "target", "masqueraded"),
    [
        pytest.param("10.244.1.5", "203.0.113.9", True, id="pod to outside"),
        pytest.param("10.244.1.5", "10.244.2.9", False, id="pod to pod"),
        pytest.param("10.244.1.5", "192.168.77.12", False, id="pod to node"),
        pytest.param("10.244.1.5", "224.0.0.251", False, id="pod to group"),
        pytest.param("192.168.77.11", "203.0.113.9", False, id="node to outside"),
        pytest.param("10.244.2.9", "203.0.113.9", False, id="another node's pod"),
    ],
)
@pytest.mark.parametrize("cidrs", [pytest.param((), id="per node"), pytest.param(("10.244.0.0/16",), id="one CIDR")])
def test_behaviour_45_masquerading(source: str, target: str, masqueraded: bool, cidrs: tuple[str, ...]) -> None:
    fake = FakeIptables()
    fake.apply(chains.difference({}, masquerade.rules(N1, [N1, N2], cidrs), JUMPS, masquerade.owned))
    assert fake.trace(Packet(source, target, 80)) == {End("ACCEPT", f"{target}:80", masqueraded)}


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        pytest.param("10.244.1.5", "203.0.113.9", "ACCEPT", id="from a pod"),
        pytest.param("203.0.113.9", "10.244.1.5", "ACCEPT", id="to a pod"),
        pytest.param("203.0.113.9", "198.51.100.7", "DROP", id="of strangers"),
        pytest.param("10.244.1.5", "192.0.2.66", "DROP", id="what another rule forbids"),
    ],
)
def test_pods_packets_pass_a_firewall_that_drops(source: str, target: str, verdict: str) -> None:
    fake = FakeIptables()
    fake.apply("*filter\n-A FORWARD -d 192.0.2.66/32 -j DROP\nCOMMIT\n")
    fake.policies["FORWARD"] = "DROP"
    fake.apply(chains.difference({}, masquerade.rules(N1, [N1, N2]), JUMPS, masquerade.owned))
    assert {end.verdict for end in fake.trace(Packet(source, target, 80))} == {verdict}


async def test_where_nftables_masquerades_iptables_no_longer_does() -> None:
    fake = FakeIptables()
    fake.apply(chains.difference({}, masquerade.rules(N1, [N1, N2]), JUMPS, masquerade.owned))
    standing = chains.parse(await fake.save("nat") + await fake.save("filter"), masquerade.owned)
    wanted = masquerade.rules(N1, [N1, N2], with_masquerade=False)
    fake.apply(chains.difference(standing, wanted, masquerade.jumps(False, True), masquerade.owned))
    assert masquerade.MASQUERADE not in await fake.save("nat")
    assert masquerade.FORWARD in await fake.save("filter")


def test_the_table_leaves_out_what_lies_in_something_else() -> None:
    text = masquerade.table(N1, [N1, N2], ("10.244.0.0/16", "fd00:244::/48"))
    assert "elements = { 10.244.0.0/16, 192.168.77.11/32, 192.168.77.12/32, 224.0.0.0/4 }" in text
    assert "elements = { fd00:77::11/128, fd00:77::12/128, fd00:244::/48, ff00::/8 }" in text
    overlapping = masquerade.table(Peer("n1", ("10.244.1.1",), ("10.244.1.0/24",)), [], ("10.244.0.0/16",))
    assert "10.244.1.1" not in overlapping


async def test_a_node_without_iptables_uses_nftables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(*_: object) -> None:
        raise XtablesError("iptables is not installed: install the package iptables")

    monkeypatch.setattr("net.xtables.open_door", missing)
    monkeypatch.setattr("net.nftables.door.is_supported", lambda: True)
    opened = await outside.open_doors(RoutesConfig())
    assert opened.uses_nftables
    assert opened.families == {}
    monkeypatch.setattr("net.nftables.door.is_supported", lambda: False)
    with pytest.raises(XtablesError, match="install the package iptables"):
        await outside.open_doors(RoutesConfig())
