"""The gate in one process: waiting, giving up, watches, configuration that changes, borrowing, and the tables."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.api.meta import Object
from control.api.status import ApiError
from control.apiserver.flow import gate as doors
from control.apiserver.flow.gate import FlowGate, Passage
from control.apiserver.flow.inflight import InFlightGate
from control.apiserver.flow.measures import measure
from control.apiserver.metrics import Metrics
from control.apiserver.request import RequestInfo, UserInfo

AUTHENTICATED = "system:authenticated"
ALICE = UserInfo("alice", groups=(AUTHENTICATED,))
BOB = UserInfo("bob", groups=(AUTHENTICATED,))
ADMIN = UserInfo("admin", groups=("system:masters", AUTHENTICATED))
GET = RequestInfo("get", "/api/v1/namespaces/a/pods/x", True, "", "v1", "pods", "", "a", "x")
CREATE = RequestInfo("create", "", True, "", "v1", "pods", "", "a")
WATCH = RequestInfo("watch", "", True, "", "v1", "pods", "", "a")


def level(name: str, shares: int, **limited: Any) -> Object:
    response = {"type": "Queue", "queuing": {"queues": 4, "handSize": 1, "queueLengthLimit": 2}}
    made = {"nominalConcurrencyShares": shares, "limitResponse": response, **limited}
    return {"metadata": {"name": name, "uid": f"{name}-uid"}, "spec": {"type": "Limited", "limited": made}}


def schema(name: str, level_name: str, user: str = "*") -> Object:
    rule = {
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
        ],
    }
    spec = {
        "matchingPrecedence": 100,
        "priorityLevelConfiguration": {"name": level_name},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [rule],
    }
    return {"metadata": {"name": name, "uid": f"{name}-uid"}, "spec": spec}


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def gate(clock: Clock) -> FlowGate:
    """A gate of two seats for everybody but administrators."""
    made = FlowGate(2, 5.0, lambda _: 0, clock)
    made.configure([level("small", 1_000_000)], [schema("all", "small")])
    made.levels["small"].set_current(2, clock.now)
    return made


async def fill(gate: FlowGate, count: int, user: UserInfo = ALICE) -> list[Passage]:
    return [gate.enter(user, GET, {}) for _ in range(count)]


async def test_who_waits_is_admitted_when_a_seat_is_free(gate: FlowGate) -> None:
    first, second, third = await fill(gate, 3)
    assert [first.admitted, second.admitted, third.admitted] == [True, True, False]
    waiting = asyncio.ensure_future(third.admission())
    await asyncio.sleep(0)
    assert not waiting.done()
    first.leave()
    await waiting
    assert third.admitted
    for passage in (second, third):
        passage.leave()
    assert gate.levels["small"].idle
    assert not gate.levels["small"].tickets


async def test_a_full_queue_is_told_to_come_back(gate: FlowGate) -> None:
    passages = await fill(gate, 5)
    with pytest.raises(ApiError) as caught:
        await passages[-1].admission()
    assert (caught.value.code, caught.value.reason) == (429, "TooManyRequests")
    assert caught.value.status["details"]["retryAfterSeconds"] == 1
    assert caught.value.message == "Too many requests, please try again later."
    assert passages[-1].headers == (
        (b"x-kubernetes-pf-flowschema-uid", b"all-uid"),
        (b"x-kubernetes-pf-prioritylevel-uid", b"small-uid"),
    )
    for passage in reversed(passages):
        passage.leave()
    assert gate.levels["small"].rejected("queue-full") == 1
    assert gate.levels["small"].rejected("cancelled") == 2


async def test_nobody_waits_for_ever(gate: FlowGate) -> None:
    gate.wait_max_s = 0.01
    passages = await fill(gate, 3)
    with pytest.raises(ApiError, match="Too many requests"):
        await passages[2].admission()
    passages[2].leave()
    assert gate.levels["small"].rejected("time-out") == 1
    assert gate.levels["small"].queues.waiting == 0


async def test_who_goes_away_leaves_the_queue(gate: FlowGate) -> None:
    passages = await fill(gate, 3)

    async def served(passage: Passage) -> None:
        try:
            await passage.admission()
        finally:
            passage.leave()

    task = asyncio.ensure_future(served(passages[2]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert gate.levels["small"].queues.waiting == 0
    passages[0].leave()
    assert gate.enter(BOB, GET, {}).admitted


async def test_administrators_are_never_kept_waiting(gate: FlowGate) -> None:
    await fill(gate, 4)
    passages = await fill(gate, 50, ADMIN)
    assert all(passage.admitted for passage in passages)


async def test_a_watch_leaves_its_seat_once_it_has_begun(gate: FlowGate) -> None:
    watches = [gate.enter(ALICE, WATCH, {"resourceVersion": ("5",)}) for _ in range(2)]
    blocked = gate.enter(BOB, GET, {})
    assert not blocked.admitted
    watches[0].initialized()
    assert blocked.admitted
    assert gate.watches.interested(CREATE) == 2
    for passage in (*watches, blocked):
        passage.leave()
        passage.initialized()
    assert gate.watches.interested(CREATE) == 0
    assert gate.levels["small"].idle


async def test_a_watch_that_dawdles_loses_its_seat(gate: FlowGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "WATCH_START_S", 0.01)
    watches = [gate.enter(ALICE, WATCH, {"resourceVersion": ("5",)}) for _ in range(2)]
    blocked = gate.enter(BOB, GET, {})
    async with asyncio.timeout(10):
        await blocked.admission()
    for passage in (*watches, blocked):
        passage.leave()


async def test_a_write_that_many_watch_keeps_seats_after_its_answer(gate: FlowGate, clock: Clock) -> None:
    gate.configure([level("small", 1_000_000)], [schema("all", "small")])
    gate.levels["small"].seats_max = 2
    for _ in range(20):
        gate.enter(ALICE, WATCH, {"resourceVersion": ("5",)}).initialized()
    write = gate.enter(ALICE, CREATE, {})
    assert write.admitted
    write.leave()
    blocked = gate.enter(BOB, GET, {})
    assert not blocked.admitted
    async with asyncio.timeout(10):
        await blocked.admission()


async def test_configuration_changes_under_way(gate: FlowGate, clock: Clock) -> None:
    passages = await fill(gate, 4)
    gate.configure([level("other", 10)], [schema("all", "other")])
    assert gate.levels["small"].quiescing
    assert gate.enter(ALICE, GET, {}).route.level.name == "other"
    for passage in passages:
        passage.leave()
    gate.borrow()
    assert "small" not in gate.levels


async def test_a_level_that_is_not_there_is_reported(gate: FlowGate) -> None:
    broken = {"metadata": {"name": "broken"}, "spec": {"type": "Exempt"}}
    dangling = gate.configure([broken], [schema("lost", "nowhere"), schema("fine", "catch-all"), schema("b", "broken")])
    assert dangling == {"lost": "nowhere", "b": "broken"}
    assert gate.enter(ALICE, GET, {}).route.level.name == "catch-all"
    assert gate.enter(ADMIN, GET, {}).route.level.name == "exempt"


async def test_seats_are_lent_to_who_wants_them(clock: Clock) -> None:
    gate = FlowGate(100, 5.0, lambda _: 0, clock)
    patient = {"type": "Queue", "queuing": {"queues": 4, "handSize": 1, "queueLengthLimit": 100}}
    levels = [level("idle", 50, lendablePercent=80, limitResponse=patient), level("busy", 50)]
    gate.configure(levels, [schema("alice", "busy", "alice"), schema("rest", "idle")])
    before = gate.levels["busy"].current
    passages = await fill(gate, before + 2)
    clock.now += 10
    gate.borrow()
    assert gate.levels["busy"].current > before
    assert all(passage.admitted for passage in passages)
    assert gate.levels["idle"].current >= gate.levels["idle"].limits.lower
    total = sum(each.limits.nominal for each in gate.levels.values())
    assert abs(sum(each.current for each in gate.levels.values()) - total) <= len(gate.levels)
    for passage in passages:
        passage.leave()
    owners = await fill(gate, 45, BOB)
    for _ in range(3):
        clock.now += 10
        gate.borrow()
    assert gate.levels["idle"].current >= min(45, gate.levels["idle"].limits.nominal)
    for passage in owners:
        passage.leave()


async def test_the_tables(gate: FlowGate, clock: Clock) -> None:
    passages = await fill(gate, 4)
    table = (gate.dump("dump_priority_levels", False) or b"").decode()
    assert table.splitlines()[0].startswith("PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ")
    rows = {row.split(",")[0]: [cell.strip() for cell in row.split(",")] for row in table.splitlines()}
    assert rows["small"] == ["small", "1", "false", "false", "2", "2", "2", "0", "0", "0"]
    assert rows["exempt"][:4] == ["exempt", "0", "true", "false"]
    queues = (gate.dump("dump_queues", False) or b"").decode().splitlines()
    assert any(line.startswith("small,") and "0.00600000ss" in line for line in queues)
    requests = (gate.dump("dump_requests", True) or b"").decode().splitlines()
    assert requests[0].split()[-1] == "SubResource"
    cells = [cell.strip() for cell in requests[1].split(",")]
    assert cells[:5] == ["small", "all", "-1", "-1", "alice"]
    assert cells[10:] == ["alice", "get", GET.path, "a", "x", "v1", "pods", ""]
    assert gate.dump("dump_secrets", False) is None
    for passage in passages:
        passage.leave()


async def test_the_numbers_for_prometheus(gate: FlowGate) -> None:
    metrics = Metrics()
    measure(metrics, gate)
    passages = await fill(gate, 5)
    passages.pop(0).leave()
    text = (await metrics.text()).decode()
    labels = 'priority_level="small",flow_schema="all"'
    for line in (
        f"apiserver_flowcontrol_dispatched_requests_total{{{labels}}} 3",
        f'apiserver_flowcontrol_rejected_requests_total{{{labels},reason="queue-full"}} 1',
        f"apiserver_flowcontrol_current_inqueue_requests{{{labels}}} 1",
        f"apiserver_flowcontrol_current_executing_requests{{{labels}}} 2",
        f"apiserver_flowcontrol_current_executing_seats{{{labels}}} 2",
        f'apiserver_flowcontrol_request_wait_duration_seconds_count{{{labels},execute="true"}} 3',
        f'apiserver_flowcontrol_request_wait_duration_seconds_count{{{labels},execute="false"}} 1',
        f'apiserver_flowcontrol_request_execution_seconds_count{{{labels},type="regular"}} 1',
        'apiserver_flowcontrol_nominal_limit_seats{priority_level="small"} 2',
        'apiserver_flowcontrol_current_limit_seats{priority_level="small"} 2',
        "apiserver_flowcontrol_seat_fair_frac 1",
    ):
        assert line in text.splitlines()
    for passage in reversed(passages):
        passage.leave()


async def test_the_plain_limits() -> None:
    gate = InFlightGate(1, 1)
    read, write = gate.enter(ALICE, GET, {}), gate.enter(ALICE, CREATE, {})
    assert read.admitted
    assert write.admitted
    refused = gate.enter(ALICE, GET, {})
    with pytest.raises(ApiError) as caught:
        await refused.admission()
    assert caught.value.code == 429
    assert gate.enter(ADMIN, GET, {}).admitted
    assert gate.enter(ALICE, WATCH, {}).admitted
    refused.leave()
    assert not gate.enter(ALICE, CREATE, {}).admitted
    write.leave()
    write.leave()
    assert gate.enter(ALICE, CREATE, {}).admitted
    assert InFlightGate(0, 0).enter(ALICE, CREATE, {}).admitted
