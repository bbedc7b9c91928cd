"""Whatever happens on the way, the kernel's rules end where a fresh start would put them."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from net.proxy.apply import IptablesApplier, owned
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings
from net.proxy.services import ChangeTracker
from net.xtables import XtablesError
from tests.fakes.fake_iptables import FakeIptables
from tests.net.topology import endpoint_slice, service

SETTINGS = RuleSettings(cluster_cidrs=("10.244.0.0/16",))
NAMES = st.sampled_from(["a", "b", "c", "d"])
PODS = st.lists(st.sampled_from([("10.244.1.2", "n1"), ("10.244.1.3", "n1"), ("10.244.2.2", "n2")]), unique=True)
SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "nodePort": st.sampled_from([30001, 30002]),
        "sessionAffinity": st.just("ClientIP"),
        "externalTrafficPolicy": st.just("Local"),
        "internalTrafficPolicy": st.just("Local"),
        "externalIPs": st.just(["198.51.100.9"]),
    },
)
FOREIGN = "*nat\n:FOREIGN - [0:0]\n-A FOREIGN -j ACCEPT\n-I PREROUTING 1 -j FOREIGN\nCOMMIT\n"


def ours(fake: FakeIptables) -> dict[str, dict[str, list[str]]]:
    """Return kube-proxy's chains."""
    return {
        table: {name: [rule.text for rule in rules] for name, rules in chains.items() if owned(name)}
        for table, chains in fake.tables.items()
    }


def finish(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that never really waits; a loop for each would cost more than the test."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


class Convergence(RuleBasedStateMachine):
    """Changes, restarts, flushes and refusals in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ChangeTracker()
        self.book = RuleBook(NodeFacts("n1"))
        self.fake = FakeIptables()
        self.fake.apply(FOREIGN)
        self.applier = IptablesApplier(self.fake, SETTINGS)

    def sync(self) -> bool:
        self.book.update(self.tracker, self.tracker.take_changes())
        try:
            finish(self.applier.sync(self.book.services()))
        except XtablesError:
            self.applier.forget()
            return False
        return True

    @rule(name=NAMES, spec=SPECS)
    def put_service(self, name: str, spec: dict[str, Any]) -> None:
        self.tracker.service_changed(f"default/{name}", service(name, f"10.96.0.{ord(name)}", **spec))

    @rule(name=NAMES)
    def remove_service(self, name: str) -> None:
        self.tracker.service_changed(f"default/{name}", None)

    @rule(name=NAMES, pods=PODS)
    def put_endpoints(self, name: str, pods: list[tuple[str, str]]) -> None:
        self.tracker.slice_changed(f"default/{name}-abc", endpoint_slice(name, pods))

    @rule()
    def sync_now(self) -> None:
        self.sync()

    @rule()
    def restart(self) -> None:
        self.applier = IptablesApplier(self.fake, SETTINGS)

    @rule(table=st.sampled_from(["nat", "filter"]))
    def flush_by_hand(self, table: str) -> None:
        self.fake.tables[table] = FakeIptables().tables[table]
        if table == "nat":
            self.fake.apply(FOREIGN)
        self.applier.forget()

    @rule()
    def lock_is_held(self) -> None:
        self.fake.fail_next = XtablesError("Another app is currently holding the xtables lock", 4)
        assert not self.sync() or self.fake.fail_next is not None
        self.fake.fail_next = None

    @rule(name=NAMES, table=st.sampled_from(["*nat", "*filter"]))
    def kernel_refuses(self, name: str, table: str) -> None:
        self.fake.poison = f"default/{name}"
        self.sync()
        self.fake.poison = ""

    @invariant()
    def foreign_rules_stand(self) -> None:
        assert [rule.text for rule in self.fake.tables["nat"]["FOREIGN"]] == ["-j ACCEPT"]

    def teardown(self) -> None:
        self.applier.forget()
        assert self.sync()
        fresh = FakeIptables()
        finish(IptablesApplier(fresh, SETTINGS).sync(self.book.services()))
        assert ours(self.fake) == ours(fresh)
        before = len(self.fake.writes)
        assert self.sync()
        self.applier.forget()
        assert self.sync()
        assert len(self.fake.writes) == before, "a second look writes again"


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
