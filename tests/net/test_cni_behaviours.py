"""Pods of both families by cables and by a bridge, with real packets: behaviours 36 to 39. Needs root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from net.cni.plan import GATEWAYS, host_interface
from net.ipam.allocator import Attachment
from tests.net.cni_process import (
    BOTH,
    NODE,
    NODE6,
    STRANGER,
    STRANGER6,
    Daemon,
    addresses_of,
    host_links,
    new_pod,
    started,
    state_claims,
    stranger_of,
)
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root

ONLY_CABLES = pytest.mark.parametrize("shared", ["ptp"], indirect=True)
ONLY_BRIDGE = pytest.mark.parametrize("shared", ["bridge"], indirect=True)


@pytest.fixture
def made() -> Iterator[list[Namespace]]:
    with closing_all() as namespaces:
        yield namespaces


@pytest.fixture(scope="module", params=["ptp", "bridge"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with started(tmp_path_factory.mktemp("cni"), BOTH, "--cni-mode", request.param) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    assert shared.call("GC", None, cniVersion="1.1.0", **nothing) == (0, {})


def is_bridged(daemon: Daemon) -> bool:
    return "bridge" in daemon.flags


def test_behaviour_36_results_of_each_version_name_both_families(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    results = {version: daemon.call("ADD", pod, cniVersion=version)[1] for version in ("0.4.0", "1.0.0", "1.1.0")}
    assert [result["cniVersion"] for result in results.values()] == list(results)
    gateways = ["10.244.1.1", "fd00:10:244:1::1"] if is_bridged(daemon) else list(GATEWAYS.values())
    lengths = ["/24", "/64"] if is_bridged(daemon) else ["/32", "/128"]
    for result in results.values():
        assert [entry["gateway"] for entry in result["ips"]] == gateways
        assert ["/" + entry["address"].partition("/")[2] for entry in result["ips"]] == lengths
        assert [entry["dst"] for entry in result["routes"]] == ["0.0.0.0/0", "::/0"]
        assert daemon.call("CHECK", pod, cniVersion=result["cniVersion"], prevResult=result) == (0, {})
    assert [entry.get("version") for entry in results["0.4.0"]["ips"]] == ["4", "6"]
    assert results["1.1.0"]["interfaces"][1]["mtu"] == 1400


def test_behaviour_36_a_chained_plugins_result_is_kept(daemon: Daemon, made: list[Namespace]) -> None:
    before = {"cniVersion": "1.0.0", "interfaces": [{"name": "tap0"}], "ips": [], "dns": {"domain": "x"}}
    code, result = daemon.call("ADD", new_pod(made), prevResult=before)
    assert code == 0
    assert result["interfaces"][0] == {"name": "tap0"}
    assert [entry["interface"] for entry in result["ips"]] == [2, 2]
    assert result["dns"] == {"domain": "x"}


def test_behaviour_36_a_failed_add_leaves_nothing(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    pod.ip("link add eth0 type veth peer name other")
    code, told = daemon.call("ADD", pod)
    assert (code, told["code"]) == (1, 100)
    assert "eth0" in told["details"]
    assert host_links(daemon.node) == []
    assert state_claims(daemon) == []
    assert "other@eth0" in pod.ip("link")
    assert daemon.call("DEL", pod) == (0, {})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param("addr flush dev eth0 scope global", "eth0 lacks the address", id="addresses"),
        pytest.param("-6 route del default", "the pod has no default route via", id="route"),
        pytest.param("link del eth0", "does not exist", id="interface"),
    ],
)
def test_behaviour_36_check_says_what_is_broken_and_add_mends_it(
    daemon: Daemon, made: list[Namespace], damage: str, told: str
) -> None:
    pod = new_pod(made)
    _, result = daemon.call("ADD", pod)
    pod.ip(damage)
    code, error = daemon.call("CHECK", pod, prevResult=result)
    assert (code, error["code"]) == (1, 101)
    assert told in error["msg"]
    assert daemon.call("ADD", pod) == (0, result)
    assert daemon.call("CHECK", pod, prevResult=result) == (0, {})


def test_behaviour_36_gc_without_a_list_drops_nothing(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    daemon.call("ADD", pod)
    code, told = daemon.call("GC", None, cniVersion="1.1.0")
    assert (code, told["code"]) == (1, 7)
    assert len(host_links(daemon.node)) == 1


def test_behaviour_36_status_tells_that_the_node_does_not_forward(daemon: Daemon) -> None:
    daemon.node.run("sysctl -qw net.ipv6.conf.all.forwarding=0")
    try:
        code, told = daemon.call("STATUS", None, cniVersion="1.1.0")
    finally:
        daemon.node.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    assert (code, told["code"]) == (1, 51)
    assert "IPv6" in told["msg"]
    assert daemon.call("STATUS", None, cniVersion="1.1.0") == (0, {})


def test_behaviour_39_packets_flow_in_both_families_at_once(daemon: Daemon, made: list[Namespace]) -> None:
    stranger = stranger_of(daemon, made)
    pods = [new_pod(made), new_pod(made)]
    addresses = [addresses_of(daemon.call("ADD", pod)[1]) for pod in pods]
    for number, pod in enumerate(pods):
        pod.serve(f"pod{number}", 8080)
    daemon.node.serve("node", 9001)
    stranger.serve("stranger", 9002)
    ways = zip(range(2), (NODE, NODE6), (STRANGER, STRANGER6), strict=True)
    for family, node, outside in ways:
        # IPv6 without waiting: no duplicate is looked for, so the address is final from the first moment.
        assert pods[0].ask(addresses[1][family], 8080) == ("pod1", addresses[0][family])
        assert pods[1].ask(node, 9001) == ("node", addresses[1][family])
        assert pods[0].ask(outside, 9002) == ("stranger", addresses[0][family])
        assert stranger.ask(addresses[0][family], 8080) == ("pod0", outside)
        assert daemon.node.ask(addresses[0][family], 8080)[0] == "pod0"


def test_behaviour_39_addresses_are_final_and_sysctls_are_set(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    daemon.call("ADD", pod)
    link = json.loads(pod.ip("-j -6 addr show dev eth0"))[0]
    assert not any(entry.get("tentative") for entry in link["addr_info"])
    assert all(entry.get("nodad") for entry in link["addr_info"])
    assert {entry["scope"] for entry in link["addr_info"]} == {"global", "link"}
    assert link["mtu"] == 1400
    (host,) = host_links(daemon.node)
    wanted = {f"net.ipv6.conf.{host}.accept_ra": "0"}
    if not is_bridged(daemon):
        ipv4 = f"net.ipv4.conf.{host}"
        wanted |= {f"{ipv4}.rp_filter": "1", f"{ipv4}.proxy_arp": "1", f"{ipv4}.forwarding": "1"}
        wanted[f"{ipv4}.send_redirects"] = "0"
    found = {name: daemon.node.run(f"sysctl -n {name}").strip() for name in wanted}
    assert found == wanted


@ONLY_CABLES
def test_behaviour_39_neighbours_are_pinned(daemon: Daemon, made: list[Namespace]) -> None:
    pod = new_pod(made)
    addresses = addresses_of(daemon.call("ADD", pod)[1])
    pinned = {entry["dst"] for entry in json.loads(pod.ip("-j neigh")) if "PERMANENT" in entry["state"]}
    assert pinned == set(GATEWAYS.values())
    host = host_interface(Attachment(pod.name, "eth0"))
    listed = json.loads(daemon.node.ip(f"-j neigh show dev {host}"))
    assert set(addresses) <= {entry["dst"] for entry in listed if "PERMANENT" in entry["state"]}


@ONLY_BRIDGE
def test_behaviour_39_a_new_pod_takes_over_an_address_that_others_know(daemon: Daemon, made: list[Namespace]) -> None:
    listener, pod = new_pod(made, "listener"), new_pod(made)
    before = addresses_of(daemon.call("ADD", listener)[1])
    following = [before[0].rpartition(".")[0] + f".{int(before[0].rpartition('.')[2]) + 1}"]
    following.append(before[1].rpartition("::")[0] + f"::{int(before[1].rpartition('::')[2], 16) + 1:x}")
    for address in following:
        listener.ip(f"neigh replace {address} lladdr 02:00:00:00:00:99 dev eth0 nud stale")
    assert addresses_of(daemon.call("ADD", pod)[1]) == following
    mac = json.loads(pod.ip("-j link show eth0"))[0]["address"]

    def known() -> set[str]:
        listed = json.loads(listener.ip("-j neigh show dev eth0"))
        return {entry["lladdr"] for entry in listed if entry["dst"] in following}

    eventually(lambda: known() == {mac}, 10)


@ONLY_BRIDGE
def test_behaviour_39_a_bridge_sends_back_what_came_from_a_port(daemon: Daemon, made: list[Namespace]) -> None:
    daemon.call("ADD", new_pod(made))
    (host,) = host_links(daemon.node)
    (port,) = json.loads(daemon.node.run(f"bridge -j -d link show dev {host}"))
    assert (port["master"], port["hairpin"]) == ("cni0", True)
    for name in ("iptables", "ip6tables"):
        assert daemon.node.run(f"sysctl -n net.bridge.bridge-nf-call-{name}").strip() == "1"


def test_behaviour_39_a_pod_of_a_namespace_without_ipv6_gets_it_on_its_interface(
    daemon: Daemon, made: list[Namespace]
) -> None:
    pod = new_pod(made)
    pod.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    code, result = daemon.call("ADD", pod)
    assert code == 0
    assert addresses_of(result)[1] in pod.ip("-6 addr show dev eth0")


def test_behaviour_38_an_exhausted_range_is_try_again(tmp_path: Path, made: list[Namespace]) -> None:
    with started(tmp_path, "10.244.1.0/29,fd00:10:244:1::/64") as daemon:
        pods = [new_pod(made, f"p{number}") for number in range(6)]
        answers = [daemon.call("ADD", pod) for pod in pods]
        assert [code for code, _ in answers] == [0] * 5 + [1]
        told = answers[5][1]
        assert (told["code"], told["msg"]) == (11, "no free address in 10.244.1.0/29: 5 are in use")
        assert len(state_claims(daemon)) == 5
        assert daemon.call("DEL", pods[2]) == (0, {})
        code, told = daemon.call("ADD", pods[5])
        assert (code, told["code"]) == (1, 11)
        assert told["msg"].endswith("4 are in use, 1 rest up to 30 s after their pods' end")
        # Not in the kernel's memory alone: a restart starts the rest anew.
        daemon.kill()
        daemon.start()
        assert daemon.call("ADD", pods[5])[1]["code"] == 11
