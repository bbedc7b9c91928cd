"""Members that come and go: added as voters and learners, promoted, replaced, removed, and back after their removal."""

from __future__ import annotations

import random
from collections.abc import Callable

from store.raft.contract import ChangeKind, MemberChange, ProposalError
from store.raft.membership import Membership
from tests.simulation.cluster import Cluster, Member

VOTERS_MAX = 5


class Comings:
    """Asks for changes of membership, starts who was added and stops who was removed."""

    def __init__(self, cluster: Cluster, chance: random.Random, equip: Callable[[Member], None]) -> None:
        self.cluster = cluster
        self.gone: set[int] = set()
        """Members that never start again: their disks are lost."""
        self.changes = 0
        """Changes that were carried out, for all that those who asked know."""
        self._chance = chance
        self._equip = equip
        self._next_id = 100
        # Not both in one life: a member that is lost while another is being removed may be one too many.
        self._less = chance.choice(("remove", "replace"))

    def change(self, victim: int) -> None:
        """Ask for one change, of whatever kind makes sense now."""
        membership = self._membership()
        if membership is None:
            return
        kinds = ("add", "add", "learner", "promote", "promote", "return", self._less, self._less)
        kind = self._chance.choice(kinds)
        others = [one for one in sorted(membership.voters) if one in self.cluster.members]
        if kind in ("add", "learner") and len(membership.members) < VOTERS_MAX + 1:
            self._next_id += 1
            self._ask(MemberChange(ChangeKind.ADD, self._next_id, is_learner=kind == "learner"))
        elif kind == "promote":
            for one in membership.members:
                if one.is_learner:
                    self._ask(MemberChange(ChangeKind.PROMOTE, one.member_id))
        elif kind == "remove" and len(membership.voters) > 1 and self._chance.random() < 0.3:
            self._remove_leader_alone()
        elif kind == "remove" and len(membership.voters) > 1:
            self._ask(MemberChange(ChangeKind.REMOVE, self._chance.choice(others)))
        elif kind == "replace" and len(membership.voters) >= 3 and not self.gone & membership.ids:
            self._lose(self._chance.choice(others))
        elif kind == "return":
            self._return(membership)

    def carry_on(self) -> None:
        """Start who was added, have the lost removed, stop some of the removed."""
        membership = self._membership()
        if membership is None:
            return
        for member_id in sorted(membership.ids - self.cluster.members.keys()):
            if self._chance.random() < 0.7:
                self._join(member_id, membership)
        for member_id in sorted(self.gone & membership.ids):
            self._ask(MemberChange(ChangeKind.REMOVE, member_id))
        for member in self.cluster.members.values():
            if member.replica is not None and member.replica.removed and self._chance.random() < 0.7:
                self.cluster.kill(member.member_id)

    def settle(self) -> None:
        """Let the last changes come to their end and everybody start who belongs to the cluster."""
        for _ in range(16):
            self.cluster.run(1.0)
            if self._is_over():
                return
            membership = self._membership()
            if membership is not None:
                for member_id in sorted(membership.ids - self.cluster.members.keys()):
                    self._join(member_id, membership)
                for member_id in sorted(self.gone & membership.ids):
                    self._ask(MemberChange(ChangeKind.REMOVE, member_id))

    def _is_over(self) -> bool:
        membership = self._membership()
        if membership is None or self.gone & membership.ids:
            return False
        living = [member.replica for member in self.cluster.members.values() if member.replica is not None]
        if any(len(replica._changes) for replica in living):
            return False
        members = [self.cluster.members.get(one) for one in sorted(membership.ids)]
        replicas = [member.replica for member in members if member is not None]
        return len(replicas) == len(membership.ids) and all(
            replica is not None
            and replica.membership.members == membership.members
            and not any(one.is_joining for one in replica.membership.members)
            for replica in replicas
        )

    def settled(self) -> list[int]:
        """Return the members at the end: all have the same idea of who they are."""
        membership = self._membership()
        assert membership is not None, "there is a leader"
        assert not self.gone & membership.ids, f"lost members are not removed; seed={self.cluster.seed}"
        for record in membership.members:
            replica = self.cluster.members[record.member_id].running
            assert replica.membership.members == membership.members, f"members differ; seed={self.cluster.seed}"
            assert not record.is_joining, f"a member that has the log gets no vote; seed={self.cluster.seed}"
        return sorted(membership.ids)

    def _membership(self) -> Membership | None:
        leader = self.cluster.leader()
        return None if leader is None else leader.membership

    def _ask(self, change: MemberChange) -> None:
        member = self.cluster.choose()
        if member is None:
            return
        self.cluster.tell(f"asks member {member.member_id} for {change.kind.name} {change.member_id}")

        def done(_result: object, error: ProposalError | None) -> None:
            self.cluster.tell(f"{change.kind.name} {change.member_id}: {error!r}")
            if error is None:
                self.changes += 1

        self.cluster.do(member, lambda replica: replica.change_members(change, done))

    def _join(self, member_id: int, membership: Membership) -> None:
        member = self.cluster.add_member(member_id)
        member.joins = membership
        self._equip(member)
        self.cluster.start(member_id)

    def _lose(self, member_id: int) -> None:
        """Lose a member's machine for ever; it is removed, and another one may come."""
        self.cluster.crash(member_id)
        self.gone.add(member_id)
        self._ask(MemberChange(ChangeKind.REMOVE, member_id))

    def _remove_leader_alone(self) -> None:
        """Have a leader add its own removal to its log while nobody hears of it, and lose its power."""
        leader = self.cluster.leader()
        if leader is None:
            return
        member = self.cluster.members[leader.member_id]
        self.cluster.isolate(member.member_id)
        change = MemberChange(ChangeKind.REMOVE, member.member_id)
        self.cluster.do(member, lambda replica: replica.change_members(change, lambda _result, _error: None))
        self.cluster.run(0.05)
        self.cluster.crash(member.member_id)
        self.cluster.network.heal()

    def _return(self, membership: Membership) -> None:
        """Start a removed member once more: somebody forgot to stop its service."""
        for member_id, member in self.cluster.members.items():
            if member_id in membership.removed and member_id not in self.gone and member.replica is None:
                self.cluster.start(member_id)
                return
