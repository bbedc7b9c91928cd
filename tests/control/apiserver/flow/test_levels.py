"""How seats are divided: by shares, by demand, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import flowcontrol, meta
from control.apiserver.flow.fairness import Queuing
from control.apiserver.flow.levels import (
    BrokenConfigurationError,
    Claim,
    Demand,
    Limits,
    RetryAfter,
    allocate,
    divide,
    read_wish,
)

WISHES = [read_wish(obj) for obj in flowcontrol.priority_levels()]


def test_the_server_s_seats_go_by_shares() -> None:
    limits = divide(600, WISHES)
    assert {name: limit.nominal for name, limit in limits.items()} == {
        "exempt": 0, "catch-all": 13, "system": 74, "node-high": 98, "leader-election": 25, "workload-high": 98,
        "workload-low": 245, "global-default": 49,
    }  # fmt: skip
    assert limits["workload-low"].lower == 245 - round(245 * 0.9)
    assert limits["leader-election"].lower == 25
    assert limits["global-default"].upper == sum(limit.nominal for limit in limits.values())


def test_borrowing_may_be_bounded() -> None:
    obj = {
        "metadata": {"name": "x"},
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 10, "borrowingLimitPercent": 50, "limitResponse": {"type": "Reject"}
            },
        },
    }  # fmt: skip
    assert divide(100, [read_wish(obj)])["x"] == Limits(100, 100, 150)


@pytest.mark.parametrize(
    ("nominal", "hand_size", "expected"),
    [(5, 6, 1), (10, 6, 1), (15, 6, 2), (20, 6, 3), (35, 6, 5), (100, 6, 10), (10, 1, 2), (100, 20, 5)],
)
def test_one_request_takes_a_small_part_of_a_level(nominal: int, hand_size: int, expected: int) -> None:
    assert Limits(nominal, 0, 0).seats_max(Queuing(64, hand_size, 50)) == expected


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "Exempt"},
        {"type": "Limited"},
        {"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}},
        {"type": "Limited", "limited": {"limitResponse": {"type": "Reject", "queuing": {}}}},
        {
            "type": "Limited",
            "limited": {
                "limitResponse": {"type": "Queue", "queuing": {"queues": 2, "handSize": 3, "queueLengthLimit": 1}}
            },
        },
        {
            "type": "Limited",
            "limited": {
                "limitResponse": {
                    "type": "Queue", "queuing": {"queues": 10**7, "handSize": 10**6, "queueLengthLimit": 1}
                }
            },
        },
    ],
)  # fmt: skip
def test_a_broken_level_is_told_from_a_good_one(spec: dict[str, object]) -> None:
    with pytest.raises(BrokenConfigurationError):
        read_wish({"metadata": {"name": "x"}, "spec": spec})


CLAIMS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0.001, 200)).map(
        lambda row: Claim(max(row[2], min(row[0], row[1])), min(row[0], row[1]), max(row[0], row[1]))
    ),
    min_size=1,
    max_size=8,
)


@given(CLAIMS, st.floats(0, 1000))
def test_allocation_keeps_bounds_and_gives_what_there_is(claims: list[Claim], total: float) -> None:
    granted, share = allocate(total, claims)
    for each, seats in zip(claims, granted, strict=True):
        assert each.lower - 1e-6 <= seats <= each.upper + 1e-6
        assert seats == pytest.approx(min(max(share * each.target, each.lower), each.upper), abs=1e-6)
    lowest, highest = sum(each.lower for each in claims), sum(each.upper for each in claims)
    assert sum(granted) == pytest.approx(min(max(total, lowest), highest), rel=1e-6, abs=1e-6)


def test_demand_is_believed_at_once_and_forgotten_slowly() -> None:
    demand = Demand()
    demand.update(10, 2, 20)
    assert demand.smoothed == 12
    demand.update(0, 0, 0)
    assert 11 < demand.smoothed < 12


def test_clients_are_asked_to_stay_away_longer_while_many_are_rejected() -> None:
    retry = RetryAfter()
    told = [retry.note(100 + step / 10) for step in range(600)]
    assert told[0] == 1
    assert told[-1] == 32
    assert sorted(set(told)) == [1, 2, 4, 8, 16, 32]
    for step in range(40):
        last = retry.note(1000 + 100 * step)
    assert last == 1


def test_every_bootstrap_object_fits_its_place() -> None:
    levels = {meta.name(obj) for obj in flowcontrol.priority_levels()}
    assert {obj["spec"]["priorityLevelConfiguration"]["name"] for obj in flowcontrol.flow_schemas()} <= levels
    assert len(levels) == 8
    assert len(flowcontrol.flow_schemas()) == 13
