"""NetworkPolicy between pods on one bridge, where only br_netfilter brings their packets to the rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control.api.meta import Object
from tests.net.policy_packets import Cluster, Probe, batch, wrong
from tests.net.topology import Namespace, closing_all

pytestmark = pytest.mark.root


class BridgedCluster(Cluster):
    """Pods share a bridge and a network."""

    _has_bridge = False

    def _wire(self, pod: Namespace, port: str, addresses: dict[int, str]) -> None:
        if not self._has_bridge:
            self._has_bridge = True
            self.node.ip("link add cni0 type bridge")
            self.node.ip("link set cni0 up")
            self.node.ip("addr add 10.244.1.1/24 dev cni0")
            self.node.ip("addr add fd00:244:1::1/64 dev cni0 nodad")
            self.node.run("sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1")
        batch(
            self.node.name,
            f"link add {port} type veth peer name eth0 netns {pod.name}",
            f"link set {port} master cni0 up",
        )
        batch(
            pod.name,
            f"addr add {addresses[4]}/24 dev eth0",
            f"addr add {addresses[6]}/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.244.1.1 dev eth0",
            "route add default via fd00:244:1::1 dev eth0",
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with closing_all() as made:
        found = BridgedCluster(made)
        try:
            found.fill()
            yield found
        finally:
            found.close()


def ingress(*rules: Object) -> Object:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": list(rules)}
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def test_behaviour_46_pods_of_one_bridge(cluster: Cluster) -> None:
    cluster.apply()
    assert (
        wrong(Probe(cluster.db, cluster.web), Probe(cluster.guest, cluster.web), Probe(cluster.far, cluster.web)) == []
    )
    cluster.apply(ingress({"from": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 80}]}))
    assert (
        wrong(
            Probe(cluster.db, cluster.web),
            Probe(cluster.db, cluster.web, port=81, passes=False),
            Probe(cluster.guest, cluster.web, passes=False),
            Probe(cluster.far, cluster.web, passes=False),
            Probe(cluster.web, cluster.db),
            Probe(cluster.node_host, cluster.web),
        )
        == []
    )


def test_behaviour_46_isolated_pods_of_one_bridge_still_find_each_other(cluster: Cluster) -> None:
    """Neighbour solicitations pass the same hook in IPv6; without them even what is allowed would starve."""
    closed = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]}
    cluster.apply({"metadata": {"name": "closed", "namespace": "default"}, "spec": closed})
    for pod in (cluster.web, cluster.db):
        pod.where.ip("neigh flush all")
    assert wrong(Probe(cluster.db, cluster.web), Probe(cluster.web, cluster.db, passes=False)) == []
