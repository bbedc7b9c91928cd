"""Leader election: one leader at a time, and the next soon after."""

import asyncio
from typing import Any

import pytest

from control.api.resources import LEASES
from control.client.election import ElectionConfig, Elector, Observed, may_take, record
from tests.fakes.fake_client import FakeClient


def config(identity: str) -> ElectionConfig:
    return ElectionConfig(
        "boss", identity, lease_duration_s=0.6, renew_deadline_s=0.3, retry_period_s=0.05
    )  # the record says 1 s: the shortest there is


@pytest.mark.parametrize(
    ("spec", "since", "may"),
    [
        ({}, 100.0, True),
        ({"holderIdentity": "", "leaseDurationSeconds": 15}, 100.0, True),
        ({"holderIdentity": "me", "leaseDurationSeconds": 15}, 100.0, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 100.0, False),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 86.0, False),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 84.9, True),
    ],
    ids=["no record", "released", "ours", "just renewed", "silent", "silent too long"],
)
def test_who_may_take_the_lease(spec: dict[str, Any], since: float, may: bool) -> None:
    assert may_take(spec, Observed(spec, since), "me", 100.0) is may


def test_the_record_counts_transitions() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    first = record(config("a"), None, now)
    assert first["leaseTransitions"] == 0
    second = record(config("b"), first, now)
    assert (second["leaseTransitions"], second["holderIdentity"]) == (1, "b")
    assert record(config("b"), second, now)["leaseTransitions"] == 1
    assert second["renewTime"] == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(("lease", "renew", "retry"), [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_timers_under_which_two_could_lead_are_refused(lease: float, renew: float, retry: float) -> None:
    with pytest.raises(ValueError, match="must hold"):
        ElectionConfig("x", "y", lease_duration_s=lease, renew_deadline_s=renew, retry_period_s=retry)


class Worker:
    def __init__(self, client: FakeClient, name: str) -> None:
        self.elector = Elector(client, config(name))
        self.leading = False
        self.terms = 0

    async def work(self) -> None:
        self.leading, self.terms = True, self.terms + 1
        try:
            await asyncio.Event().wait()
        finally:
            self.leading = False

    async def run(self) -> None:
        await self.elector.run(self.work)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_leads_and_its_release_lets_the_next_start_at_once() -> None:
    client = FakeClient()
    one, two = Worker(client, "one"), Worker(client, "two")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.run())
        await until(lambda: one.leading)
        second = group.create_task(two.run())
        await asyncio.sleep(0.2)
        assert not two.leading
        assert two.elector.leader == "one"
        first.cancel()
        await until(lambda: two.leading)
        assert not one.leading
        second.cancel()
    lease = client.objects(LEASES)[0]["spec"]
    assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("", 1)


async def test_a_leader_that_cannot_renew_stops_and_leads_again_later() -> None:
    client = FakeClient()
    one = Worker(client, "one")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.run())
        await until(lambda: one.leading)
        for _ in range(60):
            client.fail_next("update", LEASES)
            client.fail_next("get", LEASES)
        await until(lambda: not one.leading)
        client._failures.clear()
        await until(lambda: one.terms == 2)
        task.cancel()


async def test_work_that_ends_ends_the_election() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    client = FakeClient()
    await asyncio.wait_for(Elector(client, config("one")).run(work), 5)
    assert client.objects(LEASES)[0]["spec"]["holderIdentity"] == ""


async def test_a_renewal_that_arrives_late_does_not_hold_the_lease() -> None:
    client = FakeClient()
    one = Worker(client, "one")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.run())
        await until(lambda: one.leading)
        client.put(LEASES, client.objects(LEASES)[0])  # a new revision that the elector has not seen
        task.cancel()
    assert client.objects(LEASES)[0]["spec"]["holderIdentity"] == ""
