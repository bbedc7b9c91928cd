"""Fair queues: seats are never oversold, nobody who waits is forgotten, and flows take turns."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from control.apiserver.flow.fairness import FairQueues, Queuing, State, Ticket, Work, deal

QUEUING = Queuing(queues=8, hand_size=2, length_limit=3)


class Named(Ticket):
    """A ticket that remembers whose it is."""

    def __init__(self, name: str = "", work: Work | None = None) -> None:
        super().__init__(work or Work())
        self.name = name


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 200), st.data())
def test_a_hand_holds_different_queues_of_the_deck(entropy: int, deck: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, min(deck, 8)))
    hand = deal(entropy, deck, size)
    assert len(set(hand)) == size
    assert all(0 <= card < deck for card in hand)


def test_every_hand_is_as_likely_as_any_other() -> None:
    seen = Counter(deal(entropy, 5, 2) for entropy in range(20))
    assert len(seen) == 20


def test_who_finds_a_seat_does_not_wait() -> None:
    queues = FairQueues(QUEUING, 2, 0.0)
    tickets = [Named() for _ in range(3)]
    for ticket in tickets:
        assert queues.enter(ticket, (0, 1), 0.0) == ""
    assert [ticket.state for ticket in tickets] == [State.EXECUTING, State.EXECUTING, State.WAITING]
    queues.answered(tickets[0], 1.0)
    assert tickets[2].state is State.EXECUTING


def test_a_full_queue_rejects() -> None:
    queues = FairQueues(Queuing(1, 1, 3), 1, 0.0)
    reasons = [queues.enter(Named(), (0,), 0.0) for _ in range(5)]
    assert reasons == ["", "", "", "", "queue-full"]


def test_without_queues_the_limit_rejects() -> None:
    queues = FairQueues(None, 2, 0.0)
    assert [queues.enter(Named(), (), 0.0) for _ in range(3)] == ["", "", "concurrency-limit"]


def test_a_light_flow_does_not_wait_for_a_heavy_one() -> None:
    queues = FairQueues(Queuing(8, 1, 50), 1, 0.0)
    heavy = [Named("heavy") for _ in range(40)]
    for ticket in heavy:
        queues.enter(ticket, (0,), 0.0)
    light = Named("light")
    queues.enter(light, (1,), 0.0)
    now, served = 0.0, 0
    while light.state is State.WAITING:
        running = next(ticket for ticket in heavy if ticket.state is State.EXECUTING)
        now += 0.01
        queues.answered(running, now)
        served += 1
    assert served <= 2


def test_busy_flows_get_equal_seat_time_whatever_their_requests_cost() -> None:
    queues = FairQueues(Queuing(2, 1, 1000), 1, 0.0)
    lasting = {"long": 0.1, "short": 0.01}
    waiting = {name: [Named(name) for _ in range(400)] for name in lasting}
    for index, name in enumerate(lasting):
        for ticket in waiting[name]:
            queues.enter(ticket, (index,), 0.0)
    now = 0.0
    spent = dict.fromkeys(lasting, 0.0)
    for _ in range(200):
        running = next(t for tickets in waiting.values() for t in tickets if t.state is State.EXECUTING)
        now += lasting[running.name]
        spent[running.name] += lasting[running.name]
        queues.answered(running, now)
    assert spent["long"] == pytest.approx(spent["short"], rel=0.2)


def test_a_wide_request_waits_for_its_seats_and_is_not_overtaken_for_ever() -> None:
    queues = FairQueues(Queuing(4, 1, 50), 4, 0.0)
    running = [Named() for _ in range(4)]
    for ticket in running:
        queues.enter(ticket, (0,), 0.0)
    wide = Named("wide", Work(seats=4))
    queues.enter(wide, (1,), 0.0)
    narrow = [Named("narrow") for _ in range(40)]
    for ticket in narrow:
        queues.enter(ticket, (2,), 0.0)
    served = 0
    while wide.state is State.WAITING:
        served += 1
        queues.answered(next(t for t in [*running, *narrow] if t.state is State.EXECUTING), 0.01 * served)
        assert queues.seats <= 4
    assert served <= 12


def test_a_request_wider_than_the_level_runs_alone() -> None:
    queues = FairQueues(QUEUING, 2, 0.0)
    wide, next_one = Named("wide", Work(seats=5)), Named()
    queues.enter(wide, (0, 1), 0.0)
    queues.enter(next_one, (2, 3), 0.0)
    assert (wide.state, next_one.state) == (State.EXECUTING, State.WAITING)
    queues.answered(wide, 1.0)
    assert next_one.state is State.EXECUTING


def test_what_a_write_makes_others_do_keeps_seats() -> None:
    queues = FairQueues(QUEUING, 4, 0.0)
    write = Named("write", Work(1, 4, 0.05))
    queues.enter(write, (0, 1), 0.0)
    queues.answered(write, 0.01)
    assert (write.state, queues.seats, queues.executing) == (State.FINISHING, 4, 0)
    other = Named()
    queues.enter(other, (2, 3), 0.02)
    assert other.state is State.WAITING
    queues.finish(write, 0.06)
    assert (write.state, other.state) == (State.ENDED, State.EXECUTING)


def test_an_idle_flow_saves_up_no_turns() -> None:
    queues = FairQueues(Queuing(2, 1, 1000), 1, 0.0)
    busy = [Named("busy") for _ in range(50)]
    for ticket in busy:
        queues.enter(ticket, (0,), 0.0)
    now = 0.0
    for _ in range(20):
        now += 1.0
        queues.answered(next(t for t in busy if t.state is State.EXECUTING), now)
    rested = [Named("rested") for _ in range(50)]
    for ticket in rested:
        queues.enter(ticket, (1,), now)
    order = []
    for _ in range(10):
        running = next(t for t in [*busy, *rested] if t.state is State.EXECUTING)
        order.append(running.name)
        now += 1.0
        queues.answered(running, now)
    assert order.count("rested") <= 6


def test_a_flow_that_waits_for_nothing_saves_up_no_turns_either() -> None:
    queues = FairQueues(Queuing(2, 1, 1000), 2, 0.0)
    lasting = Named("lasting")
    queues.enter(lasting, (1,), 0.0)
    busy = [Named("busy") for _ in range(60)]
    for ticket in busy:
        queues.enter(ticket, (0,), 0.0)
    now = 0.0
    for _ in range(20):
        now += 1.0
        queues.answered(next(t for t in busy if t.state is State.EXECUTING), now)
    late = [Named("late") for _ in range(30)]
    for ticket in late:
        queues.enter(ticket, (1,), now)
    order = []
    for _ in range(10):
        running = next(t for t in [*busy, *late] if t.state is State.EXECUTING)
        order.append(running.name)
        now += 1.0
        queues.answered(running, now)
    assert order.count("busy") >= 4


def test_queues_that_are_dealt_once_do_not_pile_up() -> None:
    queues = FairQueues(Queuing(10_000_000, 2, 3), 10, 0.0)
    for index in range(5000):
        ticket = Named()
        queues.enter(ticket, (index * 7, index * 7 + 1), float(index))
        queues.answered(ticket, index + 0.5)
    assert len(queues.queues) < 300
    assert queues.idle


class Seats(RuleBasedStateMachine):
    """Requests come, end, give up, and the configuration changes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queues = FairQueues(QUEUING, 4, self.now)
        self.tickets: list[Named] = []

    def of(self, state: State) -> list[Named]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    @rule(seats=st.integers(1, 6), final=st.integers(0, 6), first=st.integers(0, 7), second=st.integers(0, 7))
    def enter(self, seats: int, final: int, first: int, second: int) -> None:
        ticket = Named("", Work(seats, final, 0.005 if final else 0.0))
        waiting = self.queues.waiting
        reason = self.queues.enter(ticket, (first, second), self.now)
        if reason:
            assert (ticket.state, reason) == (
                State.REJECTED,
                "queue-full" if self.queues.queuing else "concurrency-limit",
            )
            assert self.queues.waiting == waiting
        else:
            self.tickets.append(ticket)

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.of(State.EXECUTING))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.queues.answered(data.draw(st.sampled_from(self.of(State.EXECUTING))), self.now)

    @precondition(lambda self: self.of(State.FINISHING))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.queues.finish(data.draw(st.sampled_from(self.of(State.FINISHING))), self.now)

    @precondition(lambda self: self.of(State.WAITING))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.queues.abandon(data.draw(st.sampled_from(self.of(State.WAITING))), self.now)

    @rule(limit=st.integers(1, 8), length=st.integers(1, 5), queued=st.booleans())
    def configure(self, limit: int, length: int, queued: bool) -> None:
        self.queues.configure(Queuing(8, 2, length) if queued else None, limit, self.now)

    @invariant()
    def counts_agree(self) -> None:
        queues = self.queues
        executing, finishing = self.of(State.EXECUTING), self.of(State.FINISHING)
        waiting = self.of(State.WAITING)
        assert queues.executing == len(executing)
        assert queues.seats == sum(ticket.held for ticket in [*executing, *finishing])
        assert queues.waiting == len(waiting) == sum(len(queue.waiting) for queue in queues.queues.values())
        assert queues.waiting_seats == sum(ticket.work.width for ticket in waiting)
        assert queues.idle == (not executing and not finishing and not waiting)

    @invariant()
    def somebody_is_always_served(self) -> None:
        if self.queues.waiting:
            assert self.queues.seats

    def teardown(self) -> None:
        for _ in range(10_000):
            if running := self.of(State.EXECUTING):
                self.queues.answered(running[0], self.now)
            elif finishing := self.of(State.FINISHING):
                self.queues.finish(finishing[0], self.now)
            else:
                break
        assert self.queues.idle
        assert not self.of(State.WAITING)


TestSeats = Seats.TestCase
TestSeats.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
