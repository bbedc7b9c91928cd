"""The pod machine, by tables: what it asks for when."""

from __future__ import annotations

from typing import Any

import pytest

from node import pod_words as w
from node.container_slot import MOVES, InvalidMoveError, Slot
from node.pod_spec import ContainerSpec
from tests.node.machine_world import UID, World, deleted, make_pod

SIDECAR = {"name": "side", "image": "s:1", "restartPolicy": "Always"}
INIT = {"name": "init", "image": "n:1"}
MAIN = {"name": "main", "image": "i:1"}


def started(world: World) -> World:
    """The world with its pod running."""
    world.begin()
    world.settle()
    return world


def kinds(instructions: list[w.Instruction]) -> list[str]:
    """The names of instructions, Events apart."""
    return [type(entry).__name__ for entry in instructions if not isinstance(entry, w.RecordEvent)]


def condition(world: World, kind: str) -> str:
    """A condition's status."""
    return str(next(entry["status"] for entry in world.status["conditions"] if entry["type"] == kind))


def main_state(world: World) -> dict[str, Any]:
    """The first container's state."""
    state: dict[str, Any] = world.status["containerStatuses"][0]["state"]
    return state


def test_a_pod_starts_step_by_step() -> None:
    world = World(make_pod())
    assert kinds(world.tell(w.PodUpdated(world.pod))) == []
    world.look()
    asked = []
    while world.pending:
        asked.append(type(world.pending[0].instruction).__name__)
        world.answer()
    assert asked == ["MountVolumes", "RunSandbox", "PullImage", "StartContainer"]
    assert world.status["phase"] == "Running"
    assert condition(world, "Ready") == "True"
    assert world.status["podIP"] == "10.0.0.1"


def test_nothing_is_asked_before_the_runtime_was_seen() -> None:
    world = World(make_pod())
    world.tell(w.PodUpdated(world.pod))
    world.advance(100)
    assert world.asked == []


def test_init_containers_run_one_after_the_other() -> None:
    world = World(make_pod(MAIN, initContainers=[INIT, {"name": "second", "image": "n:1"}]))
    started(world)
    assert [info.name for info in world.containers.values()] == ["init"]
    assert world.status["phase"] == "Pending"
    assert condition(world, "Initialized") == "False"
    world.exit("init", 0)
    world.settle()
    assert world.live("second")
    assert not world.live("main")
    world.exit("second", 0)
    world.settle()
    assert world.live("main")
    assert world.status["phase"] == "Running"
    assert condition(world, "Initialized") == "True"


def test_a_failed_init_container_is_tried_again() -> None:
    world = started(World(make_pod(MAIN, initContainers=[INIT])))
    world.exit("init", 1)
    world.settle()
    assert len(world.live("init")) == 1
    assert world.status["initContainerStatuses"][0]["restartCount"] == 1


def test_a_failed_init_container_ends_a_pod_that_is_never_restarted() -> None:
    world = started(World(make_pod(MAIN, initContainers=[INIT], restartPolicy="Never")))
    world.exit("init", 1)
    world.settle()
    assert world.machine.state == "stopped"
    assert world.status["phase"] == "Failed"


def test_sidecars_start_first_and_end_last() -> None:
    pod = make_pod(MAIN, initContainers=[SIDECAR, {**SIDECAR, "name": "second"}])
    world = started(World(pod))
    order = [entry.container for entry in world.asked if isinstance(entry, w.StartContainer)]
    assert order == ["side", "second", "main"]
    world.tell(w.PodUpdated(deleted(pod)))
    world.settle()
    kills = [entry.container for entry in world.asked if isinstance(entry, w.KillContainer)]
    assert kills == ["main", "second", "side"]
    assert world.machine.state == "gone"


def test_a_pod_of_a_job_ends_though_its_sidecar_runs() -> None:
    world = started(World(make_pod(MAIN, initContainers=[SIDECAR], restartPolicy="Never")))
    world.exit("main", 0)
    world.settle()
    assert world.status["phase"] == "Succeeded"
    assert not world.live("side")


def test_a_sidecar_with_a_startup_probe_holds_the_others_back() -> None:
    world = World(make_pod(MAIN, initContainers=[{**SIDECAR, "startupProbe": {"tcpSocket": {"port": 1}}}]))
    started(world)
    assert not world.live("main")
    side = world.live("side")[0]
    world.tell(w.ProbeChanged("side", side.id, "startup", True))
    world.settle()
    assert world.live("main")


@pytest.mark.parametrize(
    ("policy", "code", "again", "phase"),
    [
        ("Always", 0, True, "Running"),
        ("Always", 1, True, "Running"),
        ("OnFailure", 0, False, "Succeeded"),
        ("OnFailure", 1, True, "Running"),
        ("Never", 0, False, "Succeeded"),
        ("Never", 1, False, "Failed"),
    ],
    ids=lambda value: str(value),
)
def test_restart_policies(policy: str, code: int, again: bool, phase: str) -> None:
    world = started(World(make_pod(restartPolicy=policy)))
    world.exit("main", code)
    world.settle()
    assert bool(world.live("main")) == again
    assert world.status["phase"] == phase


def test_crash_loops_wait_longer_and_longer() -> None:
    world = started(World(make_pod()))
    waits = []
    for _ in range(8):
        world.exit("main", 1)
        world.settle()
        began = world.now
        while not world.live("main"):
            assert main_state(world)["waiting"]["reason"] == "CrashLoopBackOff"
            at = world.machine.wake_at()
            assert at is not None
            world.advance(at - world.now + 0.01)
            world.settle()
        waits.append(round(world.now - began))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    assert world.status["containerStatuses"][0]["restartCount"] == 8


def test_ten_good_minutes_are_forgiven() -> None:
    world = started(World(make_pod()))
    for _ in range(3):
        world.exit("main", 1)
        world.settle()
        world.advance(60)
        world.settle()
    world.advance(700)
    world.exit("main", 1)
    world.settle()
    assert world.live("main")


def test_an_image_that_cannot_be_pulled_backs_off() -> None:
    world = World(make_pod())
    world.begin()
    while not isinstance(world.pending[0].instruction, w.PullImage):
        world.answer()
    world.answer(success=False)
    assert main_state(world)["waiting"] == {"reason": "ErrImagePull", "message": "no such image"}
    assert world.status["phase"] == "Pending"
    world.advance(9)
    assert not world.pending
    world.advance(2)
    assert isinstance(world.pending[0].instruction, w.PullImage)
    world.answer(success=False)
    assert main_state(world)["waiting"] == {
        "reason": "ImagePullBackOff",
        "message": 'Back-off pulling image "i:1": ErrImagePull: no such image',
    }
    world.advance(19)
    assert not world.pending
    world.advance(2)
    world.settle()
    assert world.status["phase"] == "Running"


def test_a_missing_config_map_is_waited_for() -> None:
    world = World(make_pod())
    world.begin()
    while not isinstance(world.pending[0].instruction, w.StartContainer):
        world.answer()
    world.answer(success=False)
    waiting = main_state(world)["waiting"]
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}
    world.advance(2)
    world.settle()
    assert world.status["phase"] == "Running"
    assert world.status["containerStatuses"][0]["restartCount"] == 0


def test_deletion_gives_the_grace_and_takes_everything_down() -> None:
    pod = make_pod({**MAIN, "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}})
    world = started(World(pod))
    world.tell(w.PodUpdated(deleted(pod, 30)))
    kill = next(entry for entry in world.asked if isinstance(entry, w.KillContainer))
    assert (kill.grace_s, kill.pre_stop) == (30, True)
    world.settle()
    assert world.machine.state == "gone"
    assert not world.containers
    assert not world.sandboxes
    assert not world.probing


def test_a_forced_deletion_does_not_wait() -> None:
    pod = make_pod()
    world = started(World(pod))
    world.tell(w.PodUpdated(deleted(pod, 30)))
    world.now += 1
    world.tell(w.PodUpdated(deleted(pod, 0)))
    kills = [entry for entry in world.asked if isinstance(entry, w.KillContainer)]
    assert [kill.grace_s for kill in kills] == [30, 0]
    world.settle()
    assert world.machine.state == "gone"


def test_a_longer_grace_does_not_prolong_a_kill() -> None:
    pod = make_pod()
    world = started(World(pod))
    world.tell(w.PodUpdated(deleted(pod, 10)))
    world.tell(w.PodUpdated(deleted(pod, 60)))
    assert len([entry for entry in world.asked if isinstance(entry, w.KillContainer)]) == 1


def test_a_pod_that_is_gone_from_the_api_ends_quickly() -> None:
    world = started(World(make_pod()))
    world.removed = True
    world.tell(w.PodRemoved())
    kill = next(entry for entry in world.asked if isinstance(entry, w.KillContainer))
    assert kill.grace_s == 2
    world.settle()
    assert world.machine.state == "gone"


def test_deletion_while_the_sandbox_is_made_waits_for_it() -> None:
    pod = make_pod()
    world = World(pod)
    world.begin()
    world.answer()
    world.tell(w.PodUpdated(deleted(pod)))
    assert not [entry for entry in world.pending if isinstance(entry.instruction, w.StopSandbox)]
    world.settle()
    assert world.machine.state == "gone"
    assert not world.sandboxes


def test_deletion_while_a_container_starts_kills_it() -> None:
    pod = make_pod()
    world = World(pod)
    world.begin()
    while not isinstance(world.pending[0].instruction, w.StartContainer):
        world.answer()
    world.tell(w.PodUpdated(deleted(pod)))
    world.settle()
    assert world.machine.state == "gone"
    assert any(isinstance(entry, w.KillContainer) for entry in world.asked)


def test_a_kubelet_that_restarts_adopts_what_runs() -> None:
    before = started(World(make_pod(MAIN, initContainers=[SIDECAR])))
    before.exit("main", 1)
    before.settle()
    world = World({**before.pod, "status": before.status})
    world.containers, world.sandboxes = dict(before.containers), dict(before.sandboxes)
    world.status, world.mounted = before.status, True
    world.begin()
    world.settle()
    assert not [entry for entry in world.asked if isinstance(entry, w.StartContainer | w.RunSandbox | w.KillContainer)]
    assert len(world.probing) == 2
    assert world.status["containerStatuses"] == before.status["containerStatuses"]
    assert condition(world, "Ready") == "True"


def test_a_kubelet_that_restarts_leaves_an_ended_pod_alone() -> None:
    pod = {**make_pod(restartPolicy="Never"), "status": {"phase": "Succeeded"}}
    world = World(pod)
    world.status = pod["status"]
    world.begin()
    world.settle()
    assert world.machine.state == "stopped"
    assert not [entry for entry in world.asked if isinstance(entry, w.RunSandbox | w.StartContainer)]
    assert world.status["phase"] == "Succeeded"


def test_a_container_that_vanished_is_started_again() -> None:
    world = started(World(make_pod()))
    world.containers.clear()
    world.now += 1
    world.look()
    world.settle()
    assert world.live("main")
    last = world.status["containerStatuses"][0]["lastState"]["terminated"]
    assert last["reason"] == "ContainerStatusUnknown"


def test_a_listing_older_than_a_start_does_not_end_it() -> None:
    world = World(make_pod())
    world.begin()
    world.settle()
    running = dict(world.containers)
    world.containers = {}
    world.look(taken_at=world.now - 1)
    world.containers = running
    assert world.status["phase"] == "Running"
    assert not world.pending


def test_a_dead_sandbox_is_replaced_with_all_containers() -> None:
    world = started(World(make_pod(MAIN, initContainers=[INIT])))
    world.exit("init", 0)
    world.settle()
    old = next(iter(world.sandboxes))
    world.kill_sandbox(old)
    world.now += 1
    world.look()
    world.settle()
    assert [info.attempt for info in world.sandboxes.values()] == [1]
    assert world.live("init"), "init containers run again in a new sandbox"
    world.exit("init", 0)
    world.settle()
    assert world.live("main")
    assert world.status["containerStatuses"][0]["restartCount"] == 1


def test_a_dead_sandbox_ends_a_pod_that_is_never_restarted() -> None:
    world = started(World(make_pod(restartPolicy="Never")))
    world.kill_sandbox(next(iter(world.sandboxes)))
    world.now += 1
    world.look()
    world.settle()
    assert world.status["phase"] == "Failed"
    assert len([entry for entry in world.asked if isinstance(entry, w.RunSandbox)]) == 1


@pytest.mark.parametrize("kind", ["startup", "liveness"])
def test_a_failed_probe_kills_and_restarts(kind: w.ProbeKind) -> None:
    probe = {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 7}
    world = started(World(make_pod({**MAIN, f"{kind}Probe": probe})))
    main = world.live("main")[0]
    world.tell(w.ProbeChanged("main", main.id, kind, False, "refused"))
    kill = next(entry for entry in world.asked if isinstance(entry, w.KillContainer))
    assert kill.grace_s == 7
    assert kill.message == f"Container main failed {kind} probe, will be restarted"
    world.settle()
    assert world.live("main")[0].id != main.id


def test_readiness_makes_and_unmakes_ready() -> None:
    world = started(World(make_pod({**MAIN, "readinessProbe": {"tcpSocket": {"port": 1}}})))
    main = world.live("main")[0]
    assert condition(world, "Ready") == "False"
    world.tell(w.ProbeChanged("main", main.id, "readiness", True))
    assert condition(world, "Ready") == "True"
    world.tell(w.ProbeChanged("main", main.id, "readiness", False))
    assert condition(world, "ContainersReady") == "False"


def test_a_probe_of_an_earlier_instance_does_not_count() -> None:
    world = started(World(make_pod({**MAIN, "livenessProbe": {"tcpSocket": {"port": 1}}})))
    world.tell(w.ProbeChanged("main", "another", "liveness", False))
    assert not world.pending


def test_a_failed_post_start_hook_kills() -> None:
    world = World(make_pod({**MAIN, "lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}))
    world.begin()
    while not isinstance(world.pending[0].instruction, w.RunPostStart):
        world.answer()
    world.answer(success=False)
    assert isinstance(world.pending[0].instruction, w.KillContainer)
    assert [event.reason for event in world.events if event.type == "Warning"] == ["FailedPostStartHook"]


def test_another_image_restarts_the_container() -> None:
    world = started(World(make_pod()))
    world.tell(w.PodUpdated(make_pod({**MAIN, "image": "i:2"})))
    world.settle()
    assert world.live("main")[0].image == "i:2"


def test_an_active_deadline_ends_the_pod() -> None:
    world = started(World(make_pod(activeDeadlineSeconds=60)))
    world.advance(61)
    world.settle()
    assert world.status["phase"] == "Failed"
    assert world.status["reason"] == "DeadlineExceeded"


def test_a_kill_that_fails_is_tried_again() -> None:
    pod = make_pod()
    world = started(World(pod))
    world.tell(w.PodUpdated(deleted(pod)))
    world.answer(success=False)
    assert not world.pending
    world.advance(2)
    world.settle()
    assert world.machine.state == "gone"


def test_the_deletion_is_asked_again_when_nobody_answers() -> None:
    pod = make_pod()
    world = started(World(pod))
    world.tell(w.PodUpdated(deleted(pod)))
    while not isinstance(world.pending[0].instruction, w.DeletePod):
        world.answer()
    world.answer(success=False)
    world.advance(11)
    assert isinstance(world.pending[0].instruction, w.DeletePod)


def test_an_ephemeral_container_joins_a_running_pod() -> None:
    world = started(World(make_pod()))
    world.tell(w.PodUpdated(make_pod(MAIN, ephemeralContainers=[{"name": "debug", "image": "d:1"}])))
    world.settle()
    assert world.live("debug")
    world.exit("debug", 1)
    world.settle()
    assert not world.live("debug")
    assert condition(world, "Ready") == "True"


def test_the_story_is_bounded_and_tells_the_last() -> None:
    world = started(World(make_pod()))
    for _ in range(500):
        world.look()
    story = world.machine.story()
    assert len(story) == 200
    assert "Observed" in story[-1]


def test_a_slot_refuses_what_its_table_does_not_hold() -> None:
    slot = Slot(ContainerSpec("main", "main", {}))
    with pytest.raises(InvalidMoveError):
        slot.move("killing")
    assert set(MOVES) == {to for moves in MOVES.values() for to in moves} | {"idle"}
    assert UID
