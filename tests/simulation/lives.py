"""One life of a cluster: clients ask while everything breaks; then all heals, and everything must be there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proto.raft import message_pb2 as pb
from store.raft import replication
from store.raft.replica import Replica
from tests.simulation.clients import KeyClients
from tests.simulation.cluster import Cluster, Member
from tests.simulation.comings import Comings
from tests.simulation.leases import Leases
from tests.simulation.machines import POISON, ListMachine, make_store
from tests.simulation.network import Weather
from tests.simulation.profiles import Profile, profile_of


class Life:
    """A cluster, its clients and its misfortunes."""

    def __init__(self, seed: int, profile: Profile | None = None, make_replica: type[Replica] = Replica) -> None:
        self.seed = seed
        self.profile = profile or profile_of(seed)
        profile = self.profile
        make_machine = make_store if profile.store else ListMachine
        self.cluster = Cluster(seed, profile.size, profile.weather, profile.limits, make_machine)
        self.cluster.timing = profile.timing
        self.cluster.make_replica = make_replica
        self.chance = random.Random(seed + 7)
        self.clients: KeyClients | None = None
        self.leases: Leases | None = None
        self._absent: dict[int, int] = {}
        """Members that stay away until an event."""
        self._event = 0
        self._settling = False
        self._full_until: dict[int, int] = {}
        self.comings: Comings | None = None
        for member in self.cluster.members.values():
            self._equip(member)
        if profile.old_copies:
            copies = random.Random(seed + 3)
            self.cluster.network.copied = lambda _source, _target, _data: copies.random() < profile.old_copies
        self._fates = random.Random(seed + 19)
        if profile.forgetful:
            self.cluster.on_frame = self._lose_power_after_a_vote

    def _equip(self, member: Member) -> None:
        """Give a member its clock's error and its disk's speed."""
        profile, chance = self.profile, random.Random(self.seed * 17 + member.member_id)
        member.clock.rate = profile.rates[(member.member_id + self.seed) % len(profile.rates)]
        member.clock.wall_offset_s = chance.choice((0.0, -3.0, 2.0)) if len(profile.rates) > 1 else 0.0
        if profile.sync_s:

            def spend() -> None:
                slow = 50.0 if chance.random() < 0.02 else 1.0
                member.clock.spent_s += profile.sync_s * slow * chance.random()

            member.disk.spend = spend

    def live(self) -> None:
        """Let all of it happen, and check the end."""
        with _window(self.profile.window_entries):
            if self.profile.name == "leases":
                self.leases = Leases(self.cluster, random.Random(self.seed + 11))
            if self.profile.name == "members":
                self.comings = Comings(self.cluster, random.Random(self.seed + 13), self._equip)
            self.cluster.start_all()
            if self.profile.store:
                self.clients = KeyClients(self.cluster, random.Random(self.seed + 9))
            else:
                self._keep_reading(random.Random(self.seed + 5))
            for event in range(self.profile.events):
                self._event = event
                self.cluster.run(self.chance.choice((0.01, 0.05, 0.3, 1.0)))
                self._ask()
                self._break_something()
                self._bring_back()
            self._heal()
            self._settle()

    def _lose_power_after_a_vote(self, source: int, _target: int, frame: pb.Frame) -> None:
        """Have a voter lose its power as soon as its vote is out, and come back at once."""
        cluster = self.cluster
        if not frame.HasField("vote") or self._settling or self._fates.random() > self.profile.forgetful:
            return

        def lose() -> None:
            if cluster.members[source].replica is not None:
                cluster.crash(source)
                cluster.start(source)

        cluster.agenda.at(cluster.clock.now, lose)

    # Clients.

    def _ask(self) -> None:
        if self.profile.store:
            return
        for _ in range(self.chance.choice((1, 2, 6, 20))):
            self.cluster.propose()
        if self.chance.random() < 0.1:
            self.cluster.propose(payload=POISON + b"-%d" % self._event)

    def _keep_reading(self, chance: random.Random) -> None:
        """Read now here, now there; most often from whoever takes itself for the leader."""
        leaders = [one.member_id for one in self.cluster.members.values() if one.replica and one.replica.core.is_leader]
        self.cluster.read(chance.choice(leaders) if leaders and chance.random() < 0.6 else None)
        if not self._settling:
            pause_s = chance.expovariate(1.0 / self.profile.read_every_s)
            self.cluster.agenda.at(self.cluster.clock.now + pause_s, lambda: self._keep_reading(chance))

    # Faults.

    def _break_something(self) -> None:
        """Choose a fault, often for the leader and just after it was given something to do."""
        cluster, chance = self.cluster, self.chance
        leader = cluster.leader()
        victim = chance.choice(list(cluster.members))
        if leader is not None and chance.random() < 0.5:
            victim = leader.member_id
        names = [name for name, _ in self.profile.faults]
        fault = chance.choices(names, [weight for _, weight in self.profile.faults])[0]
        cluster.tell(f"event {self._event}: {fault}, member {victim}")
        getattr(self, f"_fault_{fault}")(victim)

    def _fault_nothing(self, victim: int) -> None:
        pass

    def _fault_power(self, victim: int) -> None:
        self.cluster.crash(victim)

    def _fault_power_at_call(self, victim: int) -> None:
        self.cluster.members[victim].disk.calls_until_power_loss = self.chance.randrange(16)

    def _fault_power_everywhere(self, victim: int) -> None:
        for member_id in self.cluster.members:
            self.cluster.crash(member_id)

    def _fault_kill(self, victim: int) -> None:
        self.cluster.kill(victim)

    def _fault_kill_at_call(self, victim: int) -> None:
        self.cluster.members[victim].disk.calls_until_kill = self.chance.randrange(16)

    def _fault_kill_at_rename(self, victim: int) -> None:
        self.cluster.members[victim].disk.kill_at_rename = True

    def _fault_leave(self, victim: int) -> None:
        self.cluster.crash(victim)
        self._absent[victim] = self._event + 6

    def _fault_isolate(self, victim: int) -> None:
        self.cluster.isolate(victim)
        self._notice_cuts()
        self._ask_alone(victim)

    def _fault_one_way(self, victim: int) -> None:
        inwards = self.chance.random() < 0.5
        for peer in self.cluster.members:
            if peer != victim and self.chance.random() < 0.8:
                self.cluster.network.cut.add((peer, victim) if inwards else (victim, peer))
        self._ask_alone(victim)

    def _fault_groups(self, victim: int) -> None:
        side = {member_id for member_id in self.cluster.members if self.chance.random() < 0.5} | {victim}
        for one in side:
            for other in self.cluster.members.keys() - side:
                self.cluster.network.separate(one, other)
        self._notice_cuts()
        self._ask_alone(victim)

    def _fault_slow_link(self, victim: int) -> None:
        for peer in self.cluster.members:
            if peer != victim:
                self.cluster.network.slow[peer, victim] = self.chance.choice((0.05, 0.3, 1.5))
                if self.chance.random() < 0.5:
                    self.cluster.network.slow[victim, peer] = self.chance.choice((0.05, 0.3))

    def _fault_pause(self, victim: int) -> None:
        self.cluster.pause(victim, self.chance.choice((0.2, 1.2, 2.5, 5.0)))
        # What is asked meanwhile waits in its sockets and is the first that it sees.
        self._ask_alone(victim)

    def _fault_full_disk(self, victim: int) -> None:
        self.cluster.members[victim].disk.calls_until_full = self.chance.choice((0, 0, 1, 2, 3, 4, 6, 9))
        self._full_until[victim] = self._event + self.chance.choice((1, 3, 6))

    def _fault_transfer(self, victim: int) -> None:
        """Have another member lead, of which the old leader hears late."""
        leader = self.cluster.leader()
        if leader is None:
            return
        old = leader.member_id
        self.cluster.do(self.cluster.members[old], lambda replica: replica.hand_leadership_on())
        if self.chance.random() < 0.7:
            for peer in self.cluster.members:
                if peer != old:
                    self.cluster.network.slow[peer, old] = 0.5
            self.cluster.run(0.1)
            if not self.profile.store:
                for peer in self.cluster.members:
                    self.cluster.propose(peer)
                self.cluster.run(0.1)
            self._ask_alone(old)
            self.cluster.run(0.02)
            for peer in self.cluster.members:
                self.cluster.network.slow.pop((peer, old), None)

    def _fault_heal(self, victim: int) -> None:
        self.cluster.heal()

    def _fault_change(self, victim: int) -> None:
        if self.comings is not None:
            self.comings.change(victim)

    def _ask_alone(self, victim: int) -> None:
        """Ask a certain member, which may be cut off from all others."""
        if self.profile.store:
            return
        for _ in range(3):
            self.cluster.propose(victim)
        self.cluster.read(victim)

    def _notice_cuts(self) -> None:
        """Let members find out that their connections are dead, if they do, some time later."""
        cluster, cut = self.cluster, set(self.cluster.network.cut)

        def notice() -> None:
            for one, other in sorted(cut & cluster.network.cut):
                if one < other and {one, other} <= cluster.members.keys():
                    cluster.disconnect(one, other)

        if self.chance.random() < 0.5:
            cluster.agenda.at(cluster.clock.now + 3.0 * self.chance.random(), notice)

    # Recovery.

    def _bring_back(self) -> None:
        if self.comings is not None:
            self.comings.carry_on()
        for member_id, member in self.cluster.members.items():
            if self._full_until.get(member_id, -1) == self._event:
                member.disk.empty()
            if self.comings is not None and member_id in self.comings.gone:
                continue
            if member.replica is None and self._absent.get(member_id, 0) <= self._event and self.chance.random() < 0.5:
                self.cluster.start(member_id)

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.tell("everything heals")
        cluster.network.weather = Weather()
        for member_id, member in cluster.members.items():
            member.disk.revive()
            member.disk.empty()
            member.busy_until = min(member.busy_until, cluster.clock.now)
            member.wake()
            if member.replica is None and not (self.comings is not None and member_id in self.comings.gone):
                cluster.start(member_id)
        cluster.heal()

    def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        """Let time pass until something is so, but no longer than it may take."""
        end = self.cluster.clock.now + seconds
        while not until() and self.cluster.clock.now < end:
            self.cluster.run(0.1)

    def _settle(self) -> None:
        """Check that a healthy cluster works and that nothing was lost, doubled or told wrongly."""
        cluster, seed = self.cluster, self.seed
        self._settling = True
        if self.comings is not None:
            self.comings.settle()
        self._wait(12.0, lambda: cluster.leader() is not None)
        assert cluster.leader() is not None, f"no leader after everything healed; seed={seed}"
        if self.clients is not None:
            before = self.clients.answered
            self._wait(8.0, lambda: self.clients is not None and self.clients.answered > before + 3)
            assert self.clients.answered > before, f"a healthy cluster does not answer; seed={seed}"
            self.clients.stopped = True
            self._wait(5.0, lambda: self.clients is not None and not self.clients.under_way)
        if self.leases is not None:
            self.leases.stopped = True
            self._wait(20.0, self.leases.all_ended)
            self.leases.check_all_ended()
        members = self.comings.settled() if self.comings is not None else list(cluster.members)
        self._wait(8.0, lambda: cluster.is_settled(members))
        if not self.profile.store:
            last = cluster.propose(self.chance.choice(members))
            self._wait(6.0, lambda: last.done)
            assert last.done, f"a healthy cluster does not answer; seed={seed}"
            assert last.error is None, f"a healthy cluster does not write; seed={seed}: {last.error}"
        members = self.comings.settled() if self.comings is not None else members
        self._wait(8.0, lambda: cluster.is_settled(members))
        cluster.check_settled(members)
        if self.clients is not None:
            self.clients.check()


@contextmanager
def _window(entries: int) -> Iterator[None]:
    """Let fewer entries be under way to a follower than in a real cluster, so that windows close."""
    before = replication.WINDOW_ENTRIES_MAX
    replication.WINDOW_ENTRIES_MAX = entries
    try:
        yield
    finally:
        replication.WINDOW_ENTRIES_MAX = before
