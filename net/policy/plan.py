"""Keep what the table must hold, change by change: pure.

    pod_changed, namespace_changed, policy_changed, admit, release  →  sets, chains, elements

A change touches the elements that it concerns and no more. Only policies that select a pod of this
node are *in use*: they have chains, and sets for whom they mean. A local pod is judged at each of its
addresses by a *profile*, the chain that stands for the policies which select it:

    default/web selects pod default/a at 10.244.1.7   → ingress-4[10.244.1.7] = ingress-profile-5f1c…
    profile 5f1c…                                     → jump ingress/default/web-9a02…; drop

The addresses of a local pod are those that its status tells and those that this node gave it, which
is earlier. A pod that the hub has forgotten stays judged as long as its interface stands.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from net.policy import render
from net.policy.elements import Elements, Key, Place, packed, version_of
from net.policy.model import DIRECTIONS, Direction, Pod, Policy
from net.policy.peers import PeerSets
from net.policy.render import Chain

JUDGE = "judge"


@dataclass(slots=True)
class PolicyBook:
    """Own the plan of one node."""

    node: str
    policies: dict[str, Policy] = field(default_factory=dict)
    """All of the cluster's, by namespace/name."""
    chains: dict[str, Chain] = field(default_factory=render.base_chains)
    """The chains that must stand, by name."""
    elements: Elements = field(default_factory=Elements)
    owner_of_chain: dict[str, str] = field(default_factory=dict)
    """The policy (namespace/name) whose rules a chain holds."""
    _peers: PeerSets = field(init=False)
    _pods: dict[str, Pod] = field(default_factory=dict)
    _local: dict[str, Pod] = field(default_factory=dict)
    """Pods with an interface here, now or soon, by the first of their uids."""
    _alias: dict[str, str] = field(default_factory=dict)
    """The first uid of a local pod, by each of its uids."""
    _admitted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The addresses at which each local pod is judged."""
    _holders: dict[str, dict[str, None]] = field(default_factory=dict)
    """The local pods of each address: more than one where a successor came early."""
    _names: dict[tuple[str, Direction], str] = field(default_factory=dict)
    """The chain of each policy in use in each direction that it isolates in."""
    _selecting: dict[str, dict[str, None]] = field(default_factory=dict)
    """The local pods that each policy in use selects."""
    _selected: dict[str, set[str]] = field(default_factory=dict)
    """The policies that select each local pod."""
    _of_namespace: dict[str, dict[str, None]] = field(default_factory=dict)
    """The policies of each namespace."""
    _judged: dict[str, dict[Place, str]] = field(default_factory=dict)
    """The elements by which each address is judged."""
    _profiles: dict[str, int] = field(default_factory=dict)
    """How many elements lead to each profile."""

    def __post_init__(self) -> None:
        self._peers = PeerSets(self.elements)
        for name in render.base_sets():
            self.elements.declare(name)

    @property
    def sets(self) -> dict[str, str]:
        """The sets that must stand: declarations by name."""
        return {**render.base_sets(), **self._peers.declarations}

    # Pods

    def pod_changed(self, key: str, pod: Pod | None) -> None:
        """Note a pod as it is now; None when it is gone, or has no network any more."""
        before = self._pods.get(key)
        if before == pod:
            return
        # A pod never moves to another node; what looks like one is another's.
        if before is not None and (pod is None or (pod.uids, pod.node) != (before.uids, before.node or pod.node)):
            del self._pods[key]
            self._peers.forget(key)
            if before.uids[0] in self._local:
                self._local_changed(before, departed=True)
        if pod is not None:
            self._pods[key] = pod
            if pod.node == self.node:
                self._local_changed(pod)
            self._peers.place(pod, self.addresses_of(pod))

    def addresses_of(self, pod: Pod) -> tuple[str, ...]:
        """Return a pod's addresses as the hub knows them and as this node gave them."""
        return tuple(dict.fromkeys([*pod.addresses, *self._admitted.get(pod.uids[0], ())]))

    def find(self, uid: str, key: str = "") -> Pod | None:
        """Return the local pod of a uid, or of namespace/name where no uid is given."""
        found = self._local.get(self._alias.get(uid, "")) if uid else self._pods.get(key)
        is_known = found is not None and self._pods.get(found.key) is found
        return found if is_known and found is not None and found.uids[0] in self._local else None

    def admit(self, pod: Pod, addresses: tuple[str, ...]) -> None:
        """Note the addresses that a local pod is about to have; the newest count."""
        self._admitted[pod.uids[0]] = addresses
        self._local_changed(pod, departed=self._pods.get(pod.key) is not pod)
        for address in addresses:
            holders = self._holders[address]
            holders[pod.uids[0]] = holders.pop(pod.uids[0])  # the last one: whoever held it before, it is this pod's
            self._judge(address)
        if self._pods.get(pod.key) is pod:
            self._peers.place(pod, self.addresses_of(pod))

    def release(self, uid: str) -> None:
        """Note that a pod's interface is gone."""
        first = self._alias.get(uid, uid)
        if self._admitted.pop(first, None) is None:
            return
        pod = self._local[first]
        present = self._pods.get(pod.key) is pod
        self._local_changed(pod, departed=not present)
        if present:
            self._peers.place(pod, self.addresses_of(pod))

    def _local_changed(self, pod: Pod, departed: bool = False) -> None:
        """Bring what is kept of a local pod up to date; one that departed lives on while it is admitted."""
        uid = pod.uids[0]
        known = self._local.get(uid)
        given = self._admitted.get(uid, ())
        if departed and not given:
            self._hold(uid, ())
            self._select(uid, set())
            self._selected.pop(uid, None)
            self._local.pop(uid, None)
            for alias in pod.uids:
                self._alias.pop(alias, None)
            return
        self._local[uid] = pod
        for alias in pod.uids:
            self._alias[alias] = uid
        if known is None or known.labels != pod.labels:
            of_namespace = self._of_namespace.get(pod.namespace, ())
            self._select(uid, {key for key in of_namespace if self.policies[key].pods.matches(pod.labels)})
        self._hold(uid, given if departed else self.addresses_of(pod))

    def _hold(self, uid: str, addresses: tuple[str, ...]) -> None:
        before = self._held.get(uid, ())
        if addresses:
            self._held[uid] = addresses
        else:
            self._held.pop(uid, None)
        for address in addresses:
            if address not in before:
                self._holders.setdefault(address, {})[uid] = None
                self._judge(address)
        for address in before:
            if address not in addresses:
                self._holders[address].pop(uid)
                if not self._holders[address]:
                    del self._holders[address]
                self._judge(address)

    @property
    def isolates(self) -> bool:
        """Whether any address is judged at all."""
        return bool(self._judged)

    @property
    def knows_all_addresses(self) -> bool:
        """Whether every local pod has an address: one that none of them has is then nobody's."""
        return all(uid in self._held for uid in self._local)

    def is_held(self, address: Key) -> bool:
        """Tell whether an address, as bytes, is that of a local pod."""
        return str(ipaddress.ip_address(address)) in self._holders

    def namespace_changed(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Note a namespace's labels; None when it is gone."""
        self._peers.namespace_changed(name, labels)

    # Policies

    def policy_changed(self, key: str, policy: Policy | None) -> None:
        """Note a policy as it is now; None when it is gone."""
        before = self.policies.get(key)
        if before == policy:
            return
        was_in_use = key in self._selecting
        namespace = key.partition("/")[0]
        of_namespace = self._of_namespace.setdefault(namespace, {})
        if policy is None:
            del self.policies[key]
            del of_namespace[key]
            selected: set[str] = set()
        else:
            self.policies[key] = policy
            of_namespace[key] = None
            selected = {
                uid
                for uid, pod in self._local.items()
                if pod.namespace == namespace and policy.pods.matches(pod.labels)
            }
        touched = selected | self._selecting.get(key, {}).keys()
        if policy is not None and selected:
            # Taken up before the old one is let go: a set that both name stays as it is.
            self._begin(policy)
            self._selecting[key] = dict.fromkeys(selected)
        else:
            self._selecting.pop(key, None)
        if before is not None and was_in_use:
            self._end(before)
        for uid in touched:
            chosen = self._selected.setdefault(uid, set())
            if uid in selected:
                chosen.add(key)
            else:
                chosen.discard(key)
            self._judge_pod(uid)
        if not of_namespace:
            del self._of_namespace[namespace]

    def _begin(self, policy: Policy) -> None:
        self._peers.take_up(policy)
        for direction in DIRECTIONS:
            if policy.rules(direction) is None:
                self._names.pop((policy.key, direction), None)
                continue
            name, chain = render.policy_chain(policy, direction)
            self._names[policy.key, direction] = name
            self.chains[name] = chain
            self.owner_of_chain[name] = policy.key

    def _end(self, policy: Policy) -> None:
        self._peers.let_go(policy)
        for direction in DIRECTIONS:
            if policy.rules(direction) is None:
                continue
            name, _ = render.policy_chain(policy, direction)
            if self._names.get((policy.key, direction)) == name:
                if policy.key in self._selecting:
                    continue  # the policy as it is now has the same rules
                del self._names[policy.key, direction]
            del self.chains[name]
            del self.owner_of_chain[name]

    def _select(self, uid: str, selected: set[str]) -> None:
        """Note which policies select a local pod."""
        before = self._selected.get(uid, set())
        self._selected[uid] = selected
        for key in selected - before:
            if key not in self._selecting:
                self._begin(self.policies[key])
            self._selecting.setdefault(key, {})[uid] = None
        if selected != before:
            self._judge_pod(uid)
        for key in before - selected:
            del self._selecting[key][uid]
            if not self._selecting[key]:
                del self._selecting[key]
                self._end(self.policies[key])

    # Judgement

    def _judge_pod(self, uid: str) -> None:
        for address in self._held.get(uid, ()):
            self._judge(address)

    def profile_of(self, uid: str, direction: Direction) -> tuple[str, Chain] | None:
        """Return the chain that judges a local pod in a direction; None where it is not isolated."""
        names = [self._names.get((key, direction)) for key in sorted(self._selected.get(uid, ()))]
        chains = tuple(name for name in names if name is not None)
        return render.profile_chain(direction, chains) if chains else None

    def _judge(self, address: str) -> None:
        """Bring the elements by which an address is judged up to date."""
        holders = self._holders.get(address, {})
        # Of several, the one to whom this node gave the address; the last, where it gave it twice.
        given = [uid for uid in holders if address in self._admitted.get(uid, ())]
        holder = (given or list(holders) or [""])[-1]
        version, key = version_of(address), packed(address)
        wanted: dict[Place, str] = {}
        for direction in DIRECTIONS:
            profile = self.profile_of(holder, direction) if holder else None
            if profile is not None:
                name, chain = profile
                wanted[render.profiles_map(direction, version), key] = name
                self.chains[name] = chain
                self._profiles[name] = self._profiles.get(name, 0) + 1
        if wanted:
            wanted[render.itself_set(version), key + key] = ""
        before = self._judged.pop(address, {})
        for place, value in wanted.items():
            self.elements.put(*place, JUDGE, value)
        for place, value in before.items():
            if place not in wanted:
                self.elements.remove(*place, JUDGE)
            if value:
                self._profiles[value] -= 1
                if not self._profiles[value]:
                    del self._profiles[value]
                    del self.chains[value]
        if wanted:
            self._judged[address] = wanted
