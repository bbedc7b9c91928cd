"""What the proxy does when things go wrong: a real proxy on a fake API, real rules, real packets, in a namespace."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES, Resource
from net.netlink import inside
from net.nftables.door import NftablesSocket
from net.nftables.errors import NftablesError
from net.nftables.operations import Table
from net.proxy import modes
from net.proxy.applier import Services, SyncResult
from net.proxy.apply import IptablesApplier
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.config import ProxyConfig
from net.proxy.metrics import TRIGGER_ANNOTATION
from net.proxy.modes import Makers
from net.proxy.server import ProxyServer
from net.proxy.standing import Standing, look
from net.xtables import Backend, IptablesDoor
from tests.net.topology import CLUSTER_CIDR, Fabric, Node, Pod, closing_all, endpoint_slice, eventually, service

pytestmark = pytest.mark.root

TABLES = (Table("ip", "kube-proxy"), Table("ip6", "kube-proxy"))
NFTABLES: Makers = {4: NftablesApplier, 6: NftablesApplier}
WEB, WEB6 = "10.96.0.1", "fd00:96::1"
XTABLES_LOCK = Path("/run/xtables.lock")


def iptables(backend: Backend) -> Makers:
    return {version: partial(IptablesApplier, IptablesDoor(backend, version)) for version in (4, 6)}


class Stage:
    """One node with two pods, a proxy that can be started and stopped, and a look at the kernel."""

    def __init__(self, node: Node, pods: Sequence[Pod]) -> None:
        self.node, self.pods = node, pods
        with inside(node.descriptor):
            self.door = NftablesSocket()
        self._task: asyncio.Task[None] | None = None

    def put(self, resource: Resource, *objects: Object) -> None:
        for obj in objects:
            self.node.put(resource, obj)

    def web(self, pods: Sequence[Pod], **spec: Any) -> None:
        """Have the Service web lead to these pods; in IPv6, where packets are not tried, to made-up ones."""
        made = service("web", WEB, **spec)
        made["spec"]["clusterIPs"] = [WEB, WEB6]
        self.put(SERVICES, made)
        self.put(ENDPOINT_SLICES, endpoint_slice("web", [(pod.ip_address, "n1") for pod in pods]))
        six = endpoint_slice("web", [(f"fd00:244:1::{number + 2}", "n1") for number, _ in enumerate(pods)])
        six["metadata"]["name"], six["addressType"] = "web-six", "IPv6"
        self.put(ENDPOINT_SLICES, six)

    def start(self, makers: Makers = NFTABLES, **changes: Any) -> ProxyServer:
        config = ProxyConfig(
            hostname_override="n1",
            cluster_cidr=f"{CLUSTER_CIDR},fd00:244::/32",
            healthz_bind_address="",
            metrics_bind_address="",
            min_sync_period_s=0.05,
            canary_interval_s=0.2,
            **changes,
        )

        async def make() -> ProxyServer:
            return ProxyServer(config, self.node.client, makers)

        server = self.node.call(make())
        self._task = self.node.start(server.serve())
        return server

    def stop(self) -> None:
        if self._task is not None:
            self.node.stop(self._task)
            self._task = None

    @contextmanager
    def proxy(self, makers: Makers = NFTABLES, **changes: Any) -> Iterator[ProxyServer]:
        server = self.start(makers, **changes)
        try:
            eventually(lambda: all(not family.is_behind for family in server.families.values()))
            yield server
        finally:
            self.stop()

    def standing(self, table: Table = TABLES[0]) -> Standing:
        return look(self.door, table)

    def answers(self, address: str = WEB) -> set[str]:
        """Return who answers; nobody, where the address leads nowhere."""
        try:
            return {self.pods[0].ask(address, 80, timeout_s=0.5)[0] for _ in range(12)}
        except (TimeoutError, OSError):
            return set()

    def clean(self) -> None:
        self.stop()
        self.node.call(modes.clean_up())


@pytest.fixture(scope="module")
def node() -> Iterator[Stage]:
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        node = Node(1, fabric)
        made.append(node)
        pods = [node.add_pod(), node.add_pod()]
        made.extend(pods)
        for number, pod in enumerate(pods):
            pod.serve(f"pod{number}", 8080)
        node.put(NODES, node.object())
        stage = Stage(node, pods)
        try:
            yield stage
        finally:
            stage.clean()
            stage.door.close()


@pytest.fixture
def stage(node: Stage) -> Iterator[Stage]:
    node.web(node.pods)
    try:
        yield node
    finally:
        node.clean()


def test_behaviour_24_a_restart_with_the_same_state_writes_nothing(stage: Stage) -> None:
    with stage.proxy():
        # A history that leaves endpoints in other slots than a fresh start would give them.
        stage.web(stage.pods[:1])
        eventually(lambda: stage.answers() == {"pod0"})
        stage.web(stage.pods[1:])
        eventually(lambda: stage.answers() == {"pod1"})
        stage.web(stage.pods)
        eventually(lambda: stage.answers() == {"pod0", "pod1"})
    before = stage.door.generation()
    with stage.proxy():
        assert stage.door.generation() == before
        assert stage.answers() == {"pod0", "pod1"}
    with stage.proxy(nftables_min_sync_period_s=0.1, masquerade_bit=9):
        assert stage.door.generation() > before


@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("delete table {family} kube-proxy", id="table"),
        pytest.param("flush table {family} kube-proxy", id="all rules"),
        pytest.param("flush chain {family} kube-proxy services", id="rules of a chain"),
        pytest.param("add rule {family} kube-proxy services drop", id="a rule too many"),
        pytest.param(
            "flush chain {family} kube-proxy nat-output; delete chain {family} kube-proxy nat-output", id="chain"
        ),
        pytest.param("delete element {family} kube-proxy service-ips {{ {ip} . tcp . 80 }}", id="element"),
        pytest.param("add element {family} kube-proxy cluster-ips {{ {other} }}", id="an element too many"),
        pytest.param("flush map {family} kube-proxy endpoints-1", id="map"),
    ],
)
def test_behaviour_25_damage_by_hand_is_repaired(stage: Stage, damage: str, family: str) -> None:
    table = TABLES[family == "ip6"]
    with stage.proxy():
        before = stage.standing(table)
        assert before.elements["service-ips"]
        words = {
            "family": family,
            "ip": WEB6 if family == "ip6" else WEB,
            "other": "::9" if family == "ip6" else "9.9.9.9",
        }
        stage.node.run("nft -f -", input=damage.format(**words).replace("; ", "\n") + "\n")
        eventually(lambda: _same(before, stage.standing(table)))
        if family == "ip":
            assert stage.answers() == {"pod0", "pod1"}


def _same(before: Standing, now: Standing) -> bool:
    return (before.elements, before.shape.text_digest) == (now.elements, now.shape.text_digest)


def test_behaviour_26_foreign_tables_and_chains_are_untouched(stage: Stage) -> None:
    foreign = """
        table ip foreign {
          chain services {
            counter
          }
          chain hooked {
            type filter hook forward priority 0;
          }
          map service-ips { type ipv4_addr : verdict; elements = { 10.96.0.1 : accept } }
        }
        table inet raftsman-policy {
          chain kept {
            accept
          }
        }
    """
    stage.node.run("nft -f -", input=foreign)
    stage.node.run("iptables-nft -t nat -N KUBE-KUBELET-CANARY")

    def others() -> list[str]:
        return [stage.node.run(f"nft list table {name}") for name in ("ip foreign", "inet raftsman-policy", "ip nat")]

    before = others()
    try:
        with stage.proxy():
            stage.web(stage.pods[:1])
            eventually(lambda: stage.answers() == {"pod0"})
        stage.clean()
        assert others() == before
    finally:
        stage.node.run("iptables-nft -t nat -X KUBE-KUBELET-CANARY")
        stage.node.run("nft -f -", input="delete table ip foreign\ndelete table inet raftsman-policy\n")


def balanced(name: str, cluster_ip: str, *source_ranges: str) -> Object:
    """Return a load-balanced Service; two with one address and ranges that overlap are more than the kernel takes."""
    made = service(name, cluster_ip, type="LoadBalancer", loadBalancerSourceRanges=list(source_ranges))
    made["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
    return made


def test_behaviour_27_one_bad_service_does_not_block_the_others(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    pods = [(stage.pods[0].ip_address, "n1")]
    names = [f"s{number}" for number in range(30)]
    for number, name in enumerate(names):
        stage.put(SERVICES, service(name, f"10.96.1.{number}"))
        stage.put(ENDPOINT_SLICES, endpoint_slice(name, pods))
    # The kernel refuses a range within another, not one around another: either of them has both.
    for number, ranges in ((201, ("10.0.0.0/8", "172.16.1.0/24")), (202, ("10.1.0.0/16", "172.16.0.0/12"))):
        stage.put(SERVICES, balanced(f"bad{number}", f"10.96.2.{number}", *ranges))
        stage.put(ENDPOINT_SLICES, endpoint_slice(f"bad{number}", pods))
    try:
        with stage.proxy():
            places = {key[:4] for key in stage.standing().elements["service-ips"]}
            assert {bytes((10, 96, 1, number)) for number in range(30)} <= places
            # Of the two that contradict each other, one stands.
            assert len(places & {bytes((10, 96, 2, 201)), bytes((10, 96, 2, 202))}) == 1
            assert "is refused by the kernel" in caplog.text
            # It stands as soon as nothing contradicts it, and nothing but its own change is asked for.
            refused = 201 if bytes((10, 96, 2, 202)) in places else 202
            stage.put(SERVICES, balanced(f"bad{refused}", f"10.96.2.{refused}", "192.168.0.0/16"))
            eventually(
                lambda: bytes((10, 96, 2, refused)) in {key[:4] for key in stage.standing().elements["service-ips"]}
            )
            stage.web(stage.pods[:1])
            eventually(lambda: stage.answers() == {"pod0"})
    finally:
        for name in (*names, "bad201", "bad202"):
            stage.node.remove(SERVICES, name, "default")
            stage.node.remove(ENDPOINT_SLICES, f"{name}-abc", "default")


def test_behaviour_28_a_failed_transaction_leaves_the_old_rules(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.put(SERVICES, balanced("first", "10.96.2.1", "10.0.0.0/8"))
    stage.put(ENDPOINT_SLICES, endpoint_slice("first", [(stage.pods[0].ip_address, "n1")]))
    try:
        with stage.proxy():
            before = stage.standing()
            # A new port and what the kernel refuses, in one change of one Service.
            changed = balanced("web", WEB, "10.1.0.0/16")
            changed["spec"]["ports"].append({"name": "more", "port": 81, "protocol": "TCP"})
            stage.put(SERVICES, changed)
            eventually(lambda: "is refused by the kernel" in caplog.text)
            assert _same(before, stage.standing())
            assert stage.answers() == {"pod0", "pod1"}
        with stage.proxy():
            assert stage.answers("10.96.2.1") == {"pod0"}
    finally:
        stage.node.remove(SERVICES, "first", "default")
        stage.node.remove(ENDPOINT_SLICES, "first-abc", "default")


def kube_chains(stage: Stage) -> int:
    saved = [stage.node.run(f"{program}-save") for program in ("iptables-nft", "iptables-legacy", "ip6tables-nft")]
    return sum(text.count(":KUBE-") for text in saved)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_behaviour_29_switching_modes_leaves_nothing_of_the_other(stage: Stage, backend: Backend) -> None:
    with stage.proxy(iptables(backend)):
        assert stage.answers() == {"pod0", "pod1"}
        assert kube_chains(stage)
    with stage.proxy():
        eventually(lambda: not kube_chains(stage))
        assert stage.answers() == {"pod0", "pod1"}
    with stage.proxy(iptables(backend)):
        eventually(lambda: not set(TABLES) & set(stage.door.tables()))
        assert stage.answers() == {"pod0", "pod1"}
        assert kube_chains(stage)
    stage.node.run("raftsman proxy cleanup", env=_own_programs())
    assert not kube_chains(stage)
    assert not set(TABLES) & set(stage.door.tables())


def _own_programs() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}


def test_behaviour_30_a_held_xtables_lock_is_waited_for(stage: Stage) -> None:
    with XTABLES_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = stage.start(iptables("legacy"))
        time.sleep(0.3)  # it takes that long to come to the lock, and no longer to fail there
        assert server.families[4].is_behind
        fcntl.flock(lock, fcntl.LOCK_UN)
    try:
        eventually(lambda: stage.answers() == {"pod0", "pod1"})
    finally:
        stage.stop()


def test_behaviour_31_rules_stay_while_the_api_server_is_gone(stage: Stage) -> None:
    with stage.proxy():

        async def go() -> None:
            for _ in range(5):
                stage.node.client.fail_next("watch")
                stage.node.client.fail_next("list")
            stage.node.client.break_watches()

        before = stage.door.generation()
        stage.node.call(go())
        assert stage.answers() == {"pod0", "pod1"}
        assert stage.door.generation() == before
        # When it is back, so are changes.
        stage.web(stage.pods[:1])
        eventually(lambda: stage.answers() == {"pod0"})


def test_behaviour_32_nothing_is_written_before_the_first_full_lists(stage: Stage) -> None:
    async def fail() -> None:
        for _ in range(2):
            stage.node.client.fail_next("list", ENDPOINT_SLICES)

    def lists() -> int:
        return sum(call.verb == "list" and call.resource == "endpointslices" for call in stage.node.client.calls)

    stage.node.call(fail())
    before, asked = stage.door.generation(), lists()
    stage.start()
    try:
        eventually(lambda: lists() == asked + 2)
        # All Services are known by now, and none of their endpoints.
        assert stage.door.generation() == before
        eventually(lambda: stage.answers() == {"pod0", "pod1"})
    finally:
        stage.stop()


def test_behaviour_33_two_thousand_changes_a_second_are_gathered(stage: Stage) -> None:
    with stage.proxy():
        before = stage.door.generation()

        async def change() -> None:
            for number in range(2000):
                pods = [(f"10.244.1.{number % 200 + 10}", "n1")]
                stage.node.client.put(SERVICES, service(f"many{number % 50}", f"10.96.3.{number % 50}"))
                stage.node.client.put(ENDPOINT_SLICES, endpoint_slice(f"many{number % 50}", pods))
                if number % 20 == 0:
                    await asyncio.sleep(0.01)

        try:
            stage.node.call(change())
            last = bytes((10, 244, 1, 1999 % 200 + 10))
            key = bytes((10, 96, 3, 1999 % 50))
            eventually(lambda: last in next(
                (data for found, data in stage.standing().elements["endpoints-0"].items() if found[:4] == key), b""
            ))  # fmt: skip
            assert stage.door.generation() - before <= 400
        finally:
            for number in range(50):
                stage.node.remove(SERVICES, f"many{number}", "default")
                stage.node.remove(ENDPOINT_SLICES, f"many{number}-abc", "default")


def test_behaviour_34_full_connection_tracking_is_reported(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    # The room is the machine's, and not for a test to take away: so a handful of flows counts as nearly full here.
    with stage.proxy(conntrack_full_share=1e-6, conntrack_interval_s=0.05) as server:
        assert stage.answers() == {"pod0", "pod1"}
        eventually(lambda: "connection tracking is nearly full" in caplog.text)
        text, _ = server.metrics.text()
        found = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
        assert found["raftsman_proxy_conntrack_entries_max"] > found["raftsman_proxy_conntrack_entries"] > 0


def test_behaviour_35_the_families_are_independent(stage: Stage) -> None:
    class Broken(NftablesApplier):
        async def sync(self, services: Services, changed: Set[str] | None = None) -> SyncResult:
            raise NftablesError("this family cannot be written")

    with stage.proxy():
        assert stage.standing(TABLES[1]).elements["endpoints-1"]
        four = stage.standing()
        six = service("six", "fd00:96::6")
        stage.put(SERVICES, six)
        eventually(lambda: len(stage.standing(TABLES[1]).elements["cluster-ips"]) == 2)
        assert _same(four, stage.standing())
        stage.node.remove(SERVICES, "six", "default")
    server = stage.start({4: NftablesApplier, 6: Broken})
    try:
        stage.web(stage.pods[:1])
        eventually(lambda: stage.answers() == {"pod0"})
        assert server.families[6].is_behind
        assert not server.families[4].is_behind
    finally:
        stage.stop()


@pytest.mark.parametrize(
    "makers", [NFTABLES, iptables("legacy"), iptables("nft")], ids=["nftables", "iptables-legacy", "iptables-nft"]
)
def test_connections_and_latency_are_counted(stage: Stage, makers: Makers) -> None:
    with stage.proxy(makers) as server:
        assert stage.answers() == {"pod0", "pod1"}
        made = endpoint_slice("web", [(stage.pods[0].ip_address, "n1")])
        made["metadata"]["annotations"] = {TRIGGER_ANNOTATION: datetime.now(UTC).isoformat()}
        stage.put(ENDPOINT_SLICES, made)
        eventually(lambda: stage.answers() == {"pod0"})
        text, _ = server.metrics.text(stage.node.call(server.connections()))
        found = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"
        }
        labels = 'front="10.96.0.1:80",namespace="default",port="main",protocol="TCP",service="web"'
        assert found[f"raftsman_proxy_service_connections_total{{{labels}}}"] >= 24
        latency = "kubeproxy_network_programming_duration_seconds"
        assert found[f'{latency}_count{{ip_family="IPv4"}}'] == 1
        assert 0 < found[f'{latency}_sum{{ip_family="IPv4"}}'] < 60
        assert found['kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"}'] >= 1
