"""The scheduling queue in its own time."""

from typing import Any

from control.scheduler.queue import UNSCHEDULABLE_MAX_S, SchedulingQueue


def pod(name: str, priority: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "d"}, "spec": {"priority": priority}}


def taken(queue: SchedulingQueue, now: float) -> str | None:
    found = queue.take(now)
    return found.pod["metadata"]["name"] if found else None


def test_priority_then_age() -> None:
    queue = SchedulingQueue()
    queue.put(pod("old"), 0)
    queue.put(pod("young"), 1)
    queue.put(pod("high", 10), 2)
    assert [taken(queue, 3) for _ in range(4)] == ["high", "old", "young", None]


def test_failed_pod_waits_for_a_change_and_its_delay() -> None:
    queue = SchedulingQueue()
    queue.put(pod("p"), 0)
    assert taken(queue, 0) == "p"
    queue.fail("d/p", 0, moves_before=queue.moves, unschedulable=True)
    assert taken(queue, 50) is None
    queue.cluster_changed(50)
    assert taken(queue, 50) == "p"
    queue.fail("d/p", 50, moves_before=queue.moves, unschedulable=True)
    queue.cluster_changed(50.5)
    assert taken(queue, 50.5) is None
    assert queue.next_due(50.5) == 52
    assert taken(queue, 52) == "p"


def test_change_during_the_attempt_is_not_lost() -> None:
    queue = SchedulingQueue()
    queue.put(pod("p"), 0)
    before = queue.moves
    assert taken(queue, 0) == "p"
    queue.cluster_changed(0.1)
    queue.fail("d/p", 0.1, moves_before=before, unschedulable=True)
    assert taken(queue, 1.1) == "p"


def test_no_pod_waits_for_ever() -> None:
    queue = SchedulingQueue()
    queue.put(pod("p"), 0)
    taken(queue, 0)
    queue.fail("d/p", 0, moves_before=queue.moves, unschedulable=True)
    assert queue.next_due(0) == UNSCHEDULABLE_MAX_S
    assert taken(queue, UNSCHEDULABLE_MAX_S) == "p"


def test_removed_pod_is_not_tried() -> None:
    queue = SchedulingQueue()
    queue.put(pod("p"), 0)
    queue.remove("d/p")
    assert taken(queue, 0) is None
    assert len(queue) == 0
