"""Leases in the simulated store: holders that keep them alive, the leader's clock that ends them, and who checks it."""

from __future__ import annotations

import random

from proto.etcd.rpc_pb2 import LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, PutRequest
from proto.raft.command_pb2 import InternalRequest, LeaseClock
from store.machine import Machine
from store.raft.contract import ProposalError, StateMachine
from store.refusal import Refused
from tests.simulation.clients import machine_of, unlike_any_other
from tests.simulation.cluster import Cluster, Member

_EXPIRY_INTERVAL_S = 0.5


class Leases:
    """Grants leases, renews some, lets all end, and checks that none ends before its time."""

    def __init__(self, cluster: Cluster, chance: random.Random, holders: int = 2) -> None:
        self.cluster = cluster
        self.stopped = False
        self.ended = 0
        self._chance = chance
        self._ids = 0
        self._until: dict[int, float] = {}
        """Until when each lease lives for certain, by what its holder was told."""
        self._ended_at: dict[int, float] = {}
        self._revocations: dict[bytes, int] = {}
        cluster.on_start.append(self._started)
        cluster.agreement.on_done = self._applied
        for _ in range(holders):
            cluster.agenda.at(cluster.clock.now + 2.0 * chance.random(), self._grant)

    # The holders.

    def _grant(self) -> None:
        member = self.cluster.choose()
        if self.stopped or member is None:
            self.cluster.agenda.at(self.cluster.clock.now + 1.0, lambda: None if self.stopped else self._grant())
            return
        self._ids += 1
        lease_id, ttl_s, called_at = self._ids, self._chance.choice((1, 2, 4)), self.cluster.clock.now

        def done(result: object, error: ProposalError | None) -> None:
            if isinstance(result, LeaseGrantResponse):
                self._promised(lease_id, ttl_s, called_at)
                self._attach(lease_id)
                self._renew_later(lease_id, ttl_s, self._chance.randrange(8))

        request = InternalRequest(lease_grant=LeaseGrantRequest(ID=lease_id, TTL=ttl_s))
        payload = unlike_any_other(self.cluster, request)
        self.cluster.do(member, lambda replica: replica.propose(payload, done))
        self.cluster.agenda.at(self.cluster.clock.now + 3.0, self._grant)

    def _attach(self, lease_id: int) -> None:
        member = self.cluster.choose()
        if member is not None:
            put = PutRequest(key=b"lease-%d" % lease_id, value=b"held", lease=lease_id)
            payload = unlike_any_other(self.cluster, InternalRequest(put=put))
            self.cluster.do(member, lambda replica: replica.propose(payload, lambda _result, _error: None))

    def _renew_later(self, lease_id: int, ttl_s: int, times: int) -> None:
        if times and not self.stopped:
            # Now and then too late, where nobody else was in time either.
            at = self.cluster.clock.now + ttl_s * (0.2 + 1.2 * self._chance.random())
            self.cluster.agenda.at(at, lambda: self._renew(lease_id, ttl_s, times))

    def _renew(self, lease_id: int, ttl_s: int, times: int) -> None:
        """Ask whoever takes itself for the leader, which has that confirmed before it answers."""
        called_at = self.cluster.clock.now
        for member in self.cluster.members.values():
            if member.replica is not None and member.replica.core.is_leader:
                self._renew_at(member, lease_id, ttl_s, called_at)
        self._renew_later(lease_id, ttl_s, times - 1)

    def _renew_at(self, member: Member, lease_id: int, ttl_s: int, called_at: float) -> None:
        replica, machine = member.replica, member.machine

        def confirmed(index: int | None) -> None:
            lessor = machine_of(machine).lessor
            if index is None or replica is None or not replica.serving or lessor.term < replica.core.term:
                return
            try:
                lessor.renew(lease_id, member.clock.monotonic())
            except Refused:
                return
            self._promised(lease_id, ttl_s, called_at)

        self.cluster.do(member, lambda replica: replica.read_index(confirmed))

    def _promised(self, lease_id: int, ttl_s: int, called_at: float) -> None:
        fastest = max(member.clock.rate for member in self.cluster.members.values())
        until = called_at + ttl_s / fastest - 1e-6
        self._until[lease_id] = max(until, self._until.get(lease_id, 0.0))
        self._check(lease_id, called_at)

    # The leader's clock, as the lease service keeps it.

    def _started(self, member: Member) -> None:
        lessor = machine_of(member.machine).lessor

        def leads(serving: bool, term: int) -> None:
            if serving:
                lessor.promote(member.clock.monotonic())
                self._propose(member, InternalRequest(lease_clock=LeaseClock(term=term)))
            else:
                lessor.demote()

        member.running.on_leadership.append(leads)
        self._look_later(member, member.starts)

    def _look_later(self, member: Member, start: int) -> None:
        def look() -> None:
            if member.replica is not None and member.starts == start:
                if self.cluster.clock.now >= member.busy_until:
                    self._revoke_ended(member, member.replica.core.term)
                self._look_later(member, start)

        self.cluster.agenda.at(self.cluster.clock.now + _EXPIRY_INTERVAL_S, look)

    def _revoke_ended(self, member: Member, term: int) -> None:
        lessor = machine_of(member.machine).lessor
        if not member.running.serving:
            return
        if lessor.term < term:
            self._propose(member, InternalRequest(lease_clock=LeaseClock(term=term)))
            return
        for lease_id in lessor.expired(member.clock.monotonic(), 500):
            request = InternalRequest(lease_revoke=LeaseRevokeRequest(ID=lease_id), lease_term=term)
            self._revocations[self._propose(member, request)] = lease_id
            if self._chance.random() < 0.3 and not self.stopped:
                self._cut_off(member.member_id)

    def _cut_off(self, member_id: int) -> None:
        """Let nobody hear of a revocation before there is another leader."""
        self.cluster.isolate(member_id)
        cut = {link for link in self.cluster.network.cut if member_id in link}
        heal_at = self.cluster.clock.now + 2.5

        def heal() -> None:
            self.cluster.network.cut -= cut
            for peer in self.cluster.peers_of(member_id):
                self.cluster.connect(member_id, peer)

        self.cluster.agenda.at(heal_at, heal)

    def _propose(self, member: Member, request: InternalRequest) -> bytes:
        payload = unlike_any_other(self.cluster, request)
        self.cluster.do(member, lambda replica: replica.propose(payload, lambda _result, _error: None))
        return payload

    # Checks.

    def _applied(self, payload: bytes, machine: StateMachine) -> None:
        lease_id = self._revocations.get(payload)
        assert isinstance(machine, Machine)
        if lease_id is not None and lease_id not in self._ended_at and not machine.lessor.has(lease_id):
            self.ended += 1
            self._ended_at[lease_id] = self.cluster.clock.now
            self.cluster.tell(f"lease {lease_id} has ended")
            self._check(lease_id, float("-inf"))

    def _check(self, lease_id: int, called_at: float) -> None:
        ended_at, until = self._ended_at.get(lease_id), self._until.get(lease_id)
        if ended_at is None or until is None or called_at >= ended_at:
            return
        assert ended_at >= until, (
            f"lease {lease_id} ended at {ended_at:.3f}, promised until {until:.3f}; seed={self.cluster.seed}"
        )

    def all_ended(self) -> bool:
        """Tell whether no member knows a lease any more."""
        living = [member for member in self.cluster.members.values() if member.replica is not None]
        return not any(len(machine_of(member.machine).lessor) for member in living)

    def check_all_ended(self) -> None:
        """After quiet time all leases are gone, and their keys with them."""
        for member in self.cluster.members.values():
            if member.replica is not None:
                machine = machine_of(member.machine)
                assert not machine.lessor.leases(), f"leases do not end; seed={self.cluster.seed}"
                left = [key for at in range(self._ids + 1) if machine.store.get(key := b"lease-%d" % at) is not None]
                assert not left, f"keys outlive their leases: {left}; seed={self.cluster.seed}"
