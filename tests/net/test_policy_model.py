"""Any history of objects against the API's plain meaning: the rules in the table judge each packet alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control.api.meta import Object
from net.nftables.errors import NftablesError
from net.policy.apply import PolicyApplier
from net.policy.model import parse_pod, parse_policy
from net.policy.plan import PolicyBook
from tests.fakes.fake_policy_table import FakePolicyTable, Packet
from tests.net.policy_oracle import World

NODE = "n1"
NAMES, SPACES = ("a", "b", "c", "d"), ("default", "other")
LABELS: tuple[dict[str, str], ...] = ({}, {"app": "x"}, {"app": "y"}, {"app": "x", "tier": "z"})
ADDRESSES = {4: ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.4"), 6: ("fd00::1", "fd00::2", "fd00::3", "fd00:1::4")}
STRANGERS = ("203.0.113.9", "2001:db8::9")
TRAFFIC = (("tcp", 80), ("tcp", 81), ("tcp", 8080), ("udp", 80), ("sctp", 80), ("icmp", 0))

label_sets = st.sampled_from(LABELS)
selector = st.one_of(
    st.just({}),
    st.sampled_from([{"matchLabels": {"app": "x"}}, {"matchLabels": {"app": "y"}}, {"matchLabels": {"app": "x", "tier": "z"}}]),
    st.sampled_from([
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]},
        {"matchExpressions": [{"key": "tier", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
    ]),
)  # fmt: skip
blocks = st.sampled_from([
    {"cidr": "10.0.0.0/16"}, {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/32"]}, {"cidr": "0.0.0.0/0"},
    {"cidr": "203.0.113.0/24", "except": ["203.0.113.8/29"]}, {"cidr": "203.0.113.9/32"}, {"cidr": "::/0"},
    {"cidr": "fd00::/64", "except": ["fd00::2/127"]}, {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.9/32"]},
])  # fmt: skip
peer = st.one_of(
    st.builds(lambda s: {"podSelector": s}, selector),
    st.builds(lambda s: {"namespaceSelector": s}, st.sampled_from([{}, {"matchLabels": {"team": "a"}}])),
    st.builds(lambda n, s: {"namespaceSelector": n, "podSelector": s}, st.sampled_from([{}, {"matchLabels": {"team": "b"}}]), selector),
    st.builds(lambda b: {"ipBlock": b}, blocks),
)  # fmt: skip
port = st.sampled_from([
    {"port": 80}, {"port": 81, "endPort": 9000}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": 80}, {"port": "http"},
    {"protocol": "TCP"}, {"port": 80, "protocol": "UDP"},
])  # fmt: skip


def rules(field: str) -> st.SearchStrategy[list[Object]]:
    made = st.fixed_dictionaries({}, optional={field: st.lists(peer, max_size=2), "ports": st.lists(port, max_size=2)})
    return st.lists(made, max_size=2)


specs = st.fixed_dictionaries(
    {"podSelector": selector},
    optional={
        "ingress": rules("from"),
        "egress": rules("to"),
        "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    },
)


class PolicyMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(NODE)
        self.book, self.table = PolicyBook(NODE), FakePolicyTable()
        self.applier = PolicyApplier(self.book, self.table)
        self.applier.settle()
        self.uids = itertools.count()

    @initialize(
        chosen=st.lists(specs, min_size=3, max_size=3), labels=st.lists(label_sets, min_size=4, max_size=4),
        http=st.sampled_from([80, 8080]),
    )  # fmt: skip
    def begin_with_a_cluster(self, chosen: list[Object], labels: list[dict[str, str]], http: int) -> None:
        for name, team in zip(SPACES, "ab", strict=True):
            self.put_namespace(name, {"team": team})
        for number, found in enumerate(labels):
            self.put_pod(
                number, "other" if number == 2 else "default", (4, 6), False, http if number else 80,
                labels=found, node="n2" if number == 3 else NODE, phase="Running", host=False,
            )  # fmt: skip
        for number, spec in enumerate(chosen):
            self.put_policy(f"p{number}", "other" if number == 2 else "default", spec)

    @rule(
        number=st.integers(0, 3), space=st.sampled_from(SPACES), labels=label_sets, node=st.sampled_from([NODE, NODE, "n2"]),
        told=st.sampled_from([(), (4,), (4, 6)]), phase=st.sampled_from(["Pending", "Running", "Running", "Succeeded"]),
        host=st.sampled_from([False, False, False, True]), http=st.sampled_from([0, 80, 8080]), anew=st.booleans(),
    )  # fmt: skip
    def put_pod(self, number: int, space: str, told: tuple[int, ...], anew: bool, http: int, **more: Any) -> None:
        # Each address belongs to one name, and so to one pod at a time in either namespace.
        key = f"{space}/{NAMES[number]}"
        self.delete_pod(SPACES[1 - SPACES.index(space)], number)
        before = self.world.pods.get(key)
        if before is not None and anew:
            self.release(before["metadata"]["uid"])
        uid = before["metadata"]["uid"] if before is not None and not anew else f"u{next(self.uids)}"
        containers = [{"ports": [{"name": "http", "containerPort": http}]}] if http else []
        pod = {
            "metadata": {"name": NAMES[number], "namespace": space, "uid": uid, "labels": more["labels"]},
            "spec": {"nodeName": more["node"], "containers": containers, "hostNetwork": more["host"]},
            "status": {"phase": more["phase"], "podIPs": [{"ip": ADDRESSES[version][number]} for version in told]},
        }
        if parse_pod(pod) is None or more["node"] != NODE:
            self.release(uid)
        self.world.pods[key] = pod
        self.book.pod_changed(key, parse_pod(pod))

    @rule(space=st.sampled_from(SPACES), number=st.integers(0, 3))
    def delete_pod(self, space: str, number: int) -> None:
        pod = self.world.pods.pop(f"{space}/{NAMES[number]}", None)
        if pod is not None:
            self.release(pod["metadata"]["uid"])
            self.book.pod_changed(f"{space}/{NAMES[number]}", None)

    @rule(number=st.integers(0, 3), space=st.sampled_from(SPACES), versions=st.sampled_from([(4,), (4, 6)]))
    def admit(self, number: int, space: str, versions: tuple[int, ...]) -> None:
        pod = self.world.pods.get(f"{space}/{NAMES[number]}")
        found = self.book.find(pod["metadata"]["uid"]) if pod is not None else None
        if pod is not None and found is not None:
            addresses = tuple(ADDRESSES[version][number] for version in versions)
            self.world.given[pod["metadata"]["uid"]] = addresses
            self.book.admit(found, addresses)

    def release(self, uid: str) -> None:
        self.world.given.pop(uid, None)
        self.book.release(uid)

    @rule(number=st.integers(0, 3), space=st.sampled_from(SPACES))
    def release_pod(self, number: int, space: str) -> None:
        pod = self.world.pods.get(f"{space}/{NAMES[number]}")
        if pod is not None:
            self.release(pod["metadata"]["uid"])

    @rule(space=st.sampled_from(SPACES), labels=st.sampled_from([None, {}, {"team": "a"}, {"team": "b"}]))
    def put_namespace(self, space: str, labels: dict[str, str] | None) -> None:
        if labels is None:
            self.world.namespaces.pop(space, None)
        else:
            self.world.namespaces[space] = labels
        self.book.namespace_changed(space, labels)

    @rule(name=st.sampled_from(["p0", "p1", "p2"]), space=st.sampled_from(SPACES), spec=specs)
    def put_policy(self, name: str, space: str, spec: Object) -> None:
        obj = {"metadata": {"name": name, "namespace": space}, "spec": spec}
        self.world.policies[f"{space}/{name}"] = obj
        self.book.policy_changed(f"{space}/{name}", parse_policy(obj))

    @rule(name=st.sampled_from(["p0", "p1", "p2"]), space=st.sampled_from(SPACES))
    def delete_policy(self, name: str, space: str) -> None:
        if self.world.policies.pop(f"{space}/{name}", None) is not None:
            self.book.policy_changed(f"{space}/{name}", None)

    @rule()
    def lose_what_stands(self) -> None:
        """Restart the applier, or have somebody else write."""
        self.applier.forget()

    @rule()
    def lose_what_stands_while_it_syncs(self) -> None:
        self.applier.forget()
        self.sync(self.applier.forget, self.applier.forget)

    @rule()
    def fail_once(self) -> None:
        self.table.failures.append(NftablesError("told to fail"))
        try:
            self.sync()
        except NftablesError:
            pass
        self.table.failures.clear()

    def sync(self, *meanwhile: Callable[[], None]) -> None:
        """Sync, and have things happen while it waits."""
        work, happening = self.applier.sync(), iter(meanwhile)
        try:
            while True:
                work.send(None)  # the fake waits for nothing but its turn
                next(happening, lambda: None)()
        except StopIteration:
            return

    @rule(
        name=st.sampled_from(["p0", "p1", "p2"]),
        space=st.sampled_from(SPACES),
        chosen=st.lists(specs, min_size=1, max_size=4),
    )
    def change_while_it_syncs(self, name: str, space: str, chosen: list[Object]) -> None:
        self.delete_policy(name, space)

        def put(spec: Object) -> Callable[[], None]:
            return lambda: self.put_policy(name, space, spec)

        self.put_policy(name, space, chosen[0])
        self.sync(*[change for spec in chosen[1:] for change in (put(spec), lambda: self.delete_policy(name, space))])

    @rule(name=st.sampled_from(["p0", "p1", "p2"]), space=st.sampled_from(SPACES), spec=specs)
    def delete_while_it_syncs(self, name: str, space: str, spec: Object) -> None:
        self.delete_policy(name, space)
        self.sync()
        self.put_policy(name, space, spec)
        self.sync(lambda: self.delete_policy(name, space))

    def teardown(self) -> None:
        self.packets_are_judged_as_the_api_says()

    @rule()
    def packets_are_judged_as_the_api_says(self) -> None:
        self.sync()
        for version in (4, 6):
            ends = [*ADDRESSES[version], *(one for one in STRANGERS if (":" in one) == (version == 6))]
            for source, destination in itertools.permutations(ends, 2):
                for protocol, number in TRAFFIC:
                    packet = Packet(source, destination, protocol, number)
                    assert self.table.passes(packet) == self.world.allows(packet), packet

    @invariant()
    def the_plan_does_not_depend_on_the_way_to_it(self) -> None:
        fresh = PolicyBook(NODE)
        for key, obj in self.world.policies.items():
            fresh.policy_changed(key, parse_policy(obj))
        for key, pod in self.world.pods.items():
            fresh.pod_changed(key, parse_pod(pod))
            found = fresh.find(pod["metadata"]["uid"])
            if found is not None and pod["metadata"]["uid"] in self.world.given:
                fresh.admit(found, self.world.given[pod["metadata"]["uid"]])
        for name, labels in self.world.namespaces.items():
            fresh.namespace_changed(name, labels)
        assert fresh.chains == self.book.chains
        assert fresh.sets == self.book.sets
        assert fresh.elements.wanted == self.book.elements.wanted

    @invariant()
    def nothing_is_left_over(self) -> None:
        self.sync()
        if self.table.chains:
            assert self.table.chains.keys() == self.book.chains.keys()
            assert self.table.elements == self.book.elements.wanted
        writes = self.table.writes
        self.sync()
        assert self.table.writes == writes


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    # Explaining a failure means tracing every line, whether there is one or not.
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
