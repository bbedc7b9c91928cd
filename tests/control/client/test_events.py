"""Events are counted up, combined and rationed as upstream's recorder does."""

from control.api.meta import Object
from control.api.resources import EVENTS
from control.client.events import EventRecorder, Occurrence, reference_of
from tests.fakes.fake_client import FakeClient

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7"},
}


def occurrence(message: str = "m", reason: str = "Pulled") -> Occurrence:
    return Occurrence(reference_of(POD), "Normal", reason, message)


async def test_an_equal_event_is_counted() -> None:
    client = FakeClient()
    recorder = EventRecorder(client, "kubelet", "n1")
    for moment in (100.0, 200.0, 300.0):
        await recorder.write(occurrence(), moment)
    (event,) = client.objects(EVENTS)
    assert event["count"] == 3
    assert event["firstTimestamp"] == "1970-01-01T00:01:40Z"
    assert event["lastTimestamp"] == "1970-01-01T00:05:00Z"
    assert event["involvedObject"]["name"] == "p"
    assert event["source"] == {"component": "kubelet", "host": "n1"}


async def test_similar_events_are_combined() -> None:
    client = FakeClient()
    recorder = EventRecorder(client, "kubelet")
    for index in range(14):
        await recorder.write(occurrence(f"message {index}"), 100.0 + index)
    events = client.objects(EVENTS)
    combined = [event for event in events if event["message"].startswith("(combined from similar events): ")]
    assert len(combined) == 1
    assert combined[0]["message"].endswith("message 13")
    assert combined[0]["count"] == 5


async def test_one_object_cannot_flood() -> None:
    client = FakeClient()
    recorder = EventRecorder(client, "kubelet")
    for index in range(40):
        await recorder.write(occurrence(reason=f"R{index}"), 100.0)
    assert len(client.objects(EVENTS)) == 25
    await recorder.write(occurrence(reason="later"), 100.0 + 301)
    assert len(client.objects(EVENTS)) == 26


async def test_an_event_that_expired_is_written_anew() -> None:
    client = FakeClient()
    recorder = EventRecorder(client, "kubelet")
    await recorder.write(occurrence(), 100.0)
    client.remove(EVENTS, client.objects(EVENTS)[0]["metadata"]["name"], "n")
    await recorder.write(occurrence(), 200.0)
    assert client.objects(EVENTS)[0]["count"] == 1


async def test_a_full_queue_drops_and_never_blocks() -> None:
    recorder = EventRecorder(FakeClient(), "kubelet")
    for _ in range(1001):
        recorder.event(POD, "Normal", "R", "m")
