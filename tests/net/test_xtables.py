"""The door to the iptables programs: which back end, and what a refusal says. Needs root."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from net import chains, xtables
from net.xtables import Backend, IptablesDoor, XtablesError
from tests.net.topology import Fabric, Node, closing_all

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[Node]:
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        member = Node(1, fabric)
        made.append(member)
        yield member


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_the_back_end_with_our_chains_is_used(node: Node, backend: Backend) -> None:
    other = "nft" if backend == "legacy" else "legacy"
    node.run(f"iptables-{other} -A INPUT -s 192.0.2.1 -j ACCEPT")
    node.run(f"iptables-{other} -A INPUT -s 192.0.2.2 -j ACCEPT")
    assert node.call(xtables.detect()) == other
    node.run(f"iptables-{backend} -t nat -N KUBE-SERVICES")
    assert node.call(xtables.detect()) == backend


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_a_kubelets_hint_outweighs_all_else(node: Node, backend: Backend, program: str) -> None:
    other = "nft" if backend == "legacy" else "legacy"
    for number in range(3):
        node.run(f"iptables-{other} -t nat -N KUBE-SVC-{number}")
    assert node.call(xtables.detect()) == other
    node.run(f"{program}-{backend} -t mangle -N KUBE-IPTABLES-HINT")
    assert node.call(xtables.detect()) == backend
    assert node.call(xtables.open_door("auto", 6)) == IptablesDoor(backend, 6)


def test_behaviour_30_a_busy_lock_is_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    door, text = IptablesDoor("legacy"), "*nat\n:MINE - [0:0]\nCOMMIT\n"
    node.call(door.restore(text.replace("MINE", "FIRST")))
    monkeypatch.setattr(xtables, "LOCK_WAIT_S", 1)
    with Path("/run/xtables.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(XtablesError) as caught:
            node.call(door.restore(text))
        assert caught.value.is_passing, "who is told so tries again"
        monkeypatch.setattr(xtables, "LOCK_WAIT_S", 60)
        waiting = asyncio.run_coroutine_threadsafe(door.restore(text), node.loop)
        assert not waiting.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        waiting.result(60)
    assert node.call(door.chain_stands("nat", "MINE"))


def test_looking_leaves_no_trace(node: Node) -> None:
    node.call(xtables.detect())
    # The legacy tables come into being when they are named, and nft would warn of them ever after.
    assert node.run("cat /proc/self/net/ip_tables_names") == ""


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_refusal_quotes_the_line(node: Node, backend: Backend) -> None:
    door = IptablesDoor(backend)
    text = "*nat\n:MINE - [0:0]\n-A MINE -m sorcery -j ACCEPT\nCOMMIT\n"
    with pytest.raises(XtablesError) as caught:
        node.call(door.restore(text))
    assert "sorcery" in str(caught.value)
    assert not caught.value.is_passing
    assert "MINE" not in chains.parse(node.call(door.save("nat")))["nat"]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_chains_are_seen(node: Node, backend: Backend) -> None:
    door = IptablesDoor(backend)
    assert not node.call(door.chain_stands("nat", "MINE"))
    node.call(door.restore("*nat\n:MINE - [0:0]\nCOMMIT\n"))
    assert node.call(door.chain_stands("nat", "MINE"))


async def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(xtables, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(XtablesError, match="install the package iptables"):
        await IptablesDoor("nft").save("nat")
