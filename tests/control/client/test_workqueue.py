"""The work queue: one key at a time, nothing lost, retries back off."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control.client.workqueue import QueueCore, RetryPolicy, TokenBucket, WorkQueue

KEYS = st.sampled_from("abc")


def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue: QueueCore[str] = QueueCore()
    for key in "aab":
        queue.add(key)
    assert [queue.take(0.0), queue.take(0.0), queue.take(0.0)] == ["a", "b", None]


def test_a_key_added_while_it_is_worked_on_comes_again_after() -> None:
    queue: QueueCore[str] = QueueCore()
    queue.add("a")
    assert queue.take(0.0) == "a"
    queue.add("a")
    assert queue.take(0.0) is None
    queue.done("a")
    assert queue.take(0.0) == "a"


def test_the_earliest_of_several_moments_counts() -> None:
    queue: QueueCore[str] = QueueCore()
    queue.add_at("a", 5.0, 0.0)
    queue.add_at("a", 3.0, 0.0)
    queue.add_at("a", 9.0, 0.0)
    assert queue.take(2.9) is None
    assert queue.next_due() == 3.0
    assert queue.take(3.0) == "a"
    queue.done("a")
    assert queue.take(100.0) is None


@pytest.mark.parametrize(
    ("failures", "delay"), [(0, 0.005), (1, 0.01), (4, 0.08), (17, 655.36), (18, 1000.0), (500, 1000.0)]
)
def test_failures_back_off_exponentially(failures: int, delay: float) -> None:
    queue: QueueCore[str] = QueueCore(RetryPolicy(overall_per_s=1e9, overall_burst=10**9))
    for _ in range(failures):
        queue.add_rate_limited("a", 0.0)
    assert queue.add_rate_limited("a", 0.0) == pytest.approx(delay)
    queue.forget("a")
    assert queue.add_rate_limited("a", 0.0) == pytest.approx(0.005)


def test_the_overall_rate_holds_after_a_burst() -> None:
    bucket = TokenBucket(10.0, 3)
    assert [bucket.reserve(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.reserve(100.0) == pytest.approx(0.1)
    assert bucket.reserve(100.0) == pytest.approx(0.2)
    assert bucket.reserve(200.0) == 0.0


class NothingIsLost(RuleBasedStateMachine):
    """Each added key is handed out after its last adding, and never to two workers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: QueueCore[str] = QueueCore()
        self.now = 0.0
        self.owed: set[str] = set()
        self.later: dict[str, float] = {}
        self.working: set[str] = set()

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=KEYS, delay=st.floats(0, 10))
    def add_after(self, key: str, delay: float) -> None:
        moment = self.now + delay
        self.queue.add_at(key, moment, self.now)
        if moment <= self.now:
            self.owed.add(key)
        else:
            self.later[key] = min(self.later.get(key, 1e9), moment)

    @rule(by=st.floats(0, 5))
    def pass_time(self, by: float) -> None:
        self.now += by

    @rule()
    def take(self) -> None:
        self.owed |= {key for key, due in self.later.items() if due <= self.now}
        self.later = {key: due for key, due in self.later.items() if due > self.now}
        key = self.queue.take(self.now)
        if key is None:
            assert not self.owed - self.working
        else:
            assert key in self.owed
            assert key not in self.working
            self.owed.discard(key)
            self.working.add(key)

    @rule(key=KEYS)
    def done(self, key: str) -> None:
        if key in self.working:
            self.working.discard(key)
            self.queue.done(key)

    @invariant()
    def workers_hold_what_they_took(self) -> None:
        assert self.queue.working == self.working


TestNothingIsLost = NothingIsLost.TestCase
TestNothingIsLost.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def test_workers_wait_and_share() -> None:
    queue: WorkQueue[str] = WorkQueue()
    done: list[str] = []

    async def work() -> None:
        while True:
            key = await queue.get()
            done.append(key)
            queue.done(key)

    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(3)]
            queue.add_after("late", 0.02)
            for key in "abcdef":
                queue.add(key)
            while len(done) < 7:
                await asyncio.sleep(0.005)
            for worker in workers:
                worker.cancel()
    assert sorted(done[:6]) == list("abcdef")
    assert done[6] == "late"
    assert queue.idle
