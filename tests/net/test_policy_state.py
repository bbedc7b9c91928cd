"""NetworkPolicy over time with real packets: flows under way, restarts, damage, a hub that is gone, new pods."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.api.meta import Object
from control.api.resources import NODES, PODS
from net.cni.config import CniConfig
from net.cni.gate import OPEN, Gate, NotYet, PodReference
from net.cni.server import CniServer
from net.netlink import inside
from net.nftables.door import NftablesSocket
from net.policy.config import PolicyConfig
from tests.net.policy_packets import Cluster, Host, Probe, family_of, open_socket, wrong
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root
networks = itertools.count(100)
CONFIG = PolicyConfig(hostname_override="n1", metrics_bind_address="", pod_wait_s=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with closing_all() as made:
        found = Cluster(made)
        try:
            found.fill()
            yield found
        finally:
            found.close()


@pytest.fixture(autouse=True)
def _fresh(cluster: Cluster) -> None:
    cluster.apply()


def policy(spec: Object, name: str = "p") -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def app(name: str) -> Object:
    return {"matchLabels": {"app": name}}


DENY_IN = policy({"podSelector": {}, "policyTypes": ["Ingress"]}, "deny-in")
DENY_OUT = policy({"podSelector": {}, "policyTypes": ["Egress"]}, "deny-out")
DB_TO_WEB = policy({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("db")}]}]}, "db-to-web")


def generation(cluster: Cluster) -> int:
    with inside(cluster.node.descriptor), NftablesSocket() as door:
        return door.generation()


def nft(cluster: Cluster, command: str) -> str:
    return cluster.node.run(f"nft {command}")


def restart(cluster: Cluster, config: PolicyConfig = CONFIG) -> None:
    cluster.node.stop(cluster.task)
    cluster.start(config)


@contextmanager
def connection(source: Host, target: Host, version: int) -> Iterator[socket.socket]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with open_socket(source.where, family, socket.SOCK_STREAM) as made:
        made.settimeout(30)
        made.connect((target.addresses[version], 80))
        yield made


def echo(made: socket.socket, word: bytes, timeout_s: float = 30.0) -> bytes:
    made.settimeout(timeout_s)
    made.sendall(word)
    try:
        return made.recv(len(word))
    except TimeoutError:
        return b""


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("deny", [DENY_IN, DENY_OUT], ids=["ingress", "egress"])
def test_behaviour_46_established_flows_follow_a_deny(cluster: Cluster, deny: Object, version: int) -> None:
    source, target = (cluster.far, cluster.web) if deny is DENY_IN else (cluster.web, cluster.far)
    with connection(source, target, version) as made:
        assert echo(made, b"before") == b"before"
        cluster.apply(deny)
        assert echo(made, b"denied", 0.4) == b""
        cluster.apply()
        made.settimeout(30)
        assert made.recv(6) == b"denied"  # nothing was reset: the kernel sends it again


@pytest.mark.parametrize("version", [4, 6])
def test_behaviour_46_replies_pass_whatever_denies_the_way_back(cluster: Cluster, version: int) -> None:
    with connection(cluster.far, cluster.web, version) as made:
        assert echo(made, b"before") == b"before"
        cluster.apply(DENY_OUT)
        assert echo(made, b"answer") == b"answer"


def test_behaviour_46_service_traffic_is_judged_by_the_pod_behind(cluster: Cluster) -> None:
    for family, front, pod in (
        ("ip", "10.96.0.1", cluster.db.addresses[4]),
        ("ip6", "fd00:96::1", f"[{cluster.db.addresses[6]}]"),
    ):
        nft(cluster, f"add table {family} translation")
        nft(cluster, f"add chain {family} translation before {{ type nat hook prerouting priority -100 ; }}")
        nft(cluster, f"add rule {family} translation before {family} daddr {front} tcp dport 80 dnat to {pod}:80")
    try:
        service = Host(cluster.db.where, {4: "10.96.0.1", 6: "fd00:96::1"}, cluster.db.listener)
        out = {"podSelector": app("web"), "policyTypes": ["Egress"]}
        cluster.apply(policy({**out, "egress": [{"to": [{"podSelector": app("db")}]}]}))
        assert wrong(Probe(cluster.web, service), Probe(cluster.web, cluster.guest, passes=False)) == []
        cluster.apply(
            policy(
                {
                    **out,
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}, {"ipBlock": {"cidr": "fd00:96::/64"}}]}],
                }
            )
        )
        assert wrong(Probe(cluster.web, service, passes=False)) == []
    finally:
        nft(cluster, "delete table ip translation")
        nft(cluster, "delete table ip6 translation")


def test_behaviour_46_peers_follow_their_status(cluster: Cluster) -> None:
    cluster.apply(DB_TO_WEB)
    assert wrong(Probe(cluster.db, cluster.web), Probe(cluster.far, cluster.web, passes=False)) == []
    cluster.put_pod("db-2", cluster.far.addresses, node="n2")
    cluster.node.put(PODS, {
        "metadata": {"name": "db-2", "namespace": "default", "uid": "uid-db-2", "labels": {"app": "db"}},
        "spec": {"nodeName": "n2"},
        "status": {"podIPs": [{"ip": one} for one in cluster.far.addresses.values()]},
    })  # fmt: skip
    assert wrong(Probe(cluster.far, cluster.web)) == []
    cluster.node.remove(PODS, "db-2", "default")
    eventually(lambda: cluster.far.addresses[4] not in nft(cluster, "list table inet raftsman-policy"))
    assert wrong(Probe(cluster.far, cluster.web, passes=False)) == []


def test_a_restart_writes_nothing(cluster: Cluster) -> None:
    cluster.apply(DENY_IN, DENY_OUT, DB_TO_WEB)
    before = generation(cluster)
    restart(cluster)
    eventually(lambda: len(cluster.server.book.policies) == 3)
    cluster.node.call(cluster.server.commit())
    assert generation(cluster) == before
    assert wrong(Probe(cluster.far, cluster.web, passes=False)) == []


def test_another_plan_after_a_restart_removes_what_is_stale(cluster: Cluster) -> None:
    cluster.apply(DENY_IN, DB_TO_WEB)
    cluster.node.stop(cluster.task)
    cluster.apply_unseen(DENY_OUT)
    cluster.start(CONFIG)
    cluster.agree(lambda: cluster.server.book.policies.keys() == {"default/deny-out"})
    eventually(lambda: "db-to-web" not in nft(cluster, "list table inet raftsman-policy"))
    assert wrong(Probe(cluster.far, cluster.web), Probe(cluster.web, cluster.far, passes=False)) == []


DAMAGE = {
    "table deleted": "delete table inet raftsman-policy",
    "everything flushed": "flush ruleset",
    "base chain flushed": "flush chain inet raftsman-policy {base}",
    "profile flushed": "flush chain inet raftsman-policy {profile}",
    "a rule put first": "insert rule inet raftsman-policy {base} accept",
    "elements deleted": "flush set inet raftsman-policy itself-4 ; flush map inet raftsman-policy ingress-4",
    "a chain of others that leads to ours": "add chain inet raftsman-policy zzz ; add rule inet raftsman-policy zzz jump {profile}",
    "a set of others": "add set inet raftsman-policy theirs {{ type ipv4_addr ; }}",
    "a stranger let in": "add element inet raftsman-policy {scope} {{ {far} }}",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_repaired(cluster: Cluster, what: str) -> None:
    cluster.apply(DENY_IN, DB_TO_WEB)
    book = cluster.server.book
    names = {
        "base": next(name for name in book.chains if name.startswith("judge-ingress")),
        "profile": book.elements.wanted["ingress-4"][socket.inet_aton(cluster.web.addresses[4])],
        "scope": next(name for name in book.sets if name.startswith("pods-4")),
        "far": cluster.far.addresses[4],
    }
    before = nft(cluster, "list table inet raftsman-policy")
    cluster.node.run("nft -f -", input=DAMAGE[what].format(**names) + "\n")
    eventually(lambda: sorted(nft(cluster, "list ruleset").split()) == sorted(before.split()))
    assert wrong(Probe(cluster.far, cluster.web, passes=False), Probe(cluster.db, cluster.web)) == []


def test_rules_of_one_chain_replaced_by_as_many_others_are_repaired(cluster: Cluster) -> None:
    cluster.apply(DENY_IN)
    profile = cluster.server.book.elements.wanted["ingress-4"][socket.inet_aton(cluster.web.addresses[4])]
    listed = nft(cluster, f"-a list chain inet raftsman-policy {profile}")
    handle = next(line for line in listed.splitlines() if "drop" in line).rpartition("handle ")[2]
    nft(cluster, f"replace rule inet raftsman-policy {profile} handle {handle} counter accept")
    eventually(lambda: "drop" in nft(cluster, f"list chain inet raftsman-policy {profile}"))
    assert wrong(Probe(cluster.far, cluster.web, passes=False)) == []


def test_foreign_tables_are_left_alone(cluster: Cluster) -> None:
    nft(cluster, "add table inet somebody")
    nft(cluster, "add chain inet somebody theirs { type filter hook forward priority 0 ; }")
    try:
        cluster.apply(DENY_IN)
        nft(cluster, "delete table inet raftsman-policy")
        eventually(lambda: "judge-ingress" in nft(cluster, "list ruleset"))
        assert "theirs" in nft(cluster, "list table inet somebody")
    finally:
        nft(cluster, "delete table inet somebody")


def test_rules_stay_while_the_hub_is_gone(cluster: Cluster) -> None:
    cluster.apply(DENY_IN, DB_TO_WEB)

    async def break_hub() -> None:
        for verb in ("watch", "list"):
            for _ in range(1000):
                cluster.node.client.fail_next(verb)
        cluster.node.client.break_watches()

    async def mend_hub() -> None:
        cluster.node.client.forget_failures()

    cluster.node.call(break_hub())
    try:
        assert wrong(Probe(cluster.db, cluster.web), Probe(cluster.far, cluster.web, passes=False)) == []
        before = generation(cluster)
        restart(cluster)  # it cannot even list now, and takes nothing away
        with pytest.raises(NotYet, match="first lists"):
            cluster.node.call(cluster.server.admit(PodReference("default", "new", "uid-new"), ("10.244.1.77",)))
        assert wrong(Probe(cluster.db, cluster.web), Probe(cluster.far, cluster.web, passes=False)) == []
        assert generation(cluster) == before
    finally:
        cluster.node.call(mend_hub())
    cluster.agree(lambda: len(cluster.server.book.policies) == 2)


def test_an_address_whose_pod_is_not_told_yet_stays_isolated_over_a_restart(cluster: Cluster) -> None:
    cluster.apply(DENY_IN)
    web = cluster.web
    cluster.node.put(PODS, {
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Pending"},
    })  # fmt: skip
    reference = PodReference("default", "web", "uid-web")
    eventually(lambda: not cluster.server.book.find("uid-web") or not cluster.server.book.find("uid-web").addresses)  # type: ignore[union-attr]
    cluster.node.call(cluster.server.admit(reference, tuple(web.addresses.values())))
    assert wrong(Probe(cluster.far, web, passes=False)) == []
    restart(cluster)
    cluster.agree(lambda: len(cluster.server.book.policies) == 1)
    assert wrong(Probe(cluster.far, web, passes=False)) == []
    cluster.put_pod("web", web.addresses)
    cluster.agree(lambda: cluster.server.book.knows_all_addresses)
    assert wrong(Probe(cluster.far, web, passes=False)) == []


# New pods


class Nursery:
    """The CNI daemon on the cluster's node, and sandboxes that are full of impatient programs."""

    def __init__(self, cluster: Cluster, folder: Path, gate: Gate, pod_cidrs: list[str]) -> None:
        self.cluster, self.node = cluster, cluster.node
        config = CniConfig(
            hostname_override="n1",
            cni_conf_dir=folder / "conf",
            cni_bin_dir=folder / "bin",
            socket=folder / "cni.sock",
            state_dir=folder / "state",
            pod_wait_s=2.0,
        )

        async def make() -> CniServer:
            return CniServer(config, self.node.client, gate)

        self.node.put(NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs}})
        self.server = self.node.call(make())
        self.task = self.node.start(self.server.serve())
        eventually(lambda: self.server.allocator.cidrs)

    def call(self, command: str, pod: Namespace, name: str) -> Object:
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}",
        }
        words = b"".join(f"{key}={value}".encode() + b"\0" for key, value in variables.items())
        data = words + b"\0" + json.dumps({"cniVersion": "1.0.0", "name": "raftsman", "type": "raftsman-cni"}).encode()
        answer = self.node.call(self.server.daemon.handle(data))
        found: Object = json.loads(answer[1:]) if answer[1:] else {}
        return found

    def close(self) -> None:
        self.node.stop(self.task)


class Impatient:
    """Sends datagrams as fast as it can from before there is a way, and counts those that come."""

    def __init__(self, source: Namespace, target: Namespace, address: str, port: int = 7777) -> None:
        self.received = self.sent = 0
        self._done = threading.Event()
        family = family_of(address)
        self._receiver = open_socket(target, family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            self._receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._receiver.bind(("", port))
        self._receiver.settimeout(0.05)
        self._sender = open_socket(source, family, socket.SOCK_DGRAM)
        self._where = (address, port)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._done.is_set():
            try:
                self._sender.sendto(b"first!", self._where)
                self.sent += 1
            except OSError:  # no way yet
                pass
            time.sleep(0.0001)

    def _receive(self) -> None:
        while not self._done.is_set():
            try:
                self._receiver.recv(100)
                self.received += 1
            except TimeoutError:
                continue

    def close(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(10)
        self._sender.close()
        self._receiver.close()


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("guarded", [True, False], ids=["gate", "no gate: packets slip through"])
def test_behaviour_46_policy_precedes_the_first_packet(
    cluster: Cluster, tmp_path: Path, direction: str, guarded: bool
) -> None:
    name, far = f"new-{direction}", cluster.far
    cluster.apply(policy({"podSelector": app(name), "policyTypes": [direction.capitalize()]}))
    number = next(networks)
    cidrs = [f"10.244.{number}.0/24", f"fd00:244:{number}::/64"]
    cluster.far.where.ip(f"route replace {cidrs[0]} via {cluster.node.address}")
    cluster.far.where.ip(f"-6 route replace {cidrs[1]} via fd00:77::11")
    nursery = Nursery(cluster, tmp_path, cluster.server if guarded else OPEN, cidrs)
    pod = Namespace("new")
    addresses = [f"10.244.{number}.2", f"fd00:244:{number}::2"]
    if direction == "egress":
        impatient = [Impatient(pod, far.where, address) for address in far.addresses.values()]
    else:
        impatient = [Impatient(far.where, pod, address) for address in addresses]
    try:
        # No status: the hub does not know the addresses, the gate alone does.
        metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": name}}
        cluster.node.put(PODS, {"metadata": metadata, "spec": {"nodeName": "n1"}})
        answer = nursery.call("ADD", pod, name)
        assert [one["address"].partition("/")[0] for one in answer["ips"]] == addresses
        sent = [one.sent for one in impatient]
        eventually(lambda: all(one.sent > before + 50 for one, before in zip(impatient, sent, strict=True)))
        if guarded:
            assert [one.received for one in impatient] == [0, 0]
            cluster.apply()  # and it was the policy that kept them
        eventually(lambda: all(one.received for one in impatient))
    finally:
        for one in impatient:
            one.close()
        nursery.call("DEL", pod, name)
        nursery.close()
        cluster.node.remove(PODS, name, "default")
        pod.close()
