"""The pod machine under any order of events and any failure: what may never be, never is."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node import pod_words as w
from tests.node.machine_world import World, deleted, make_pod

PROBE = {"tcpSocket": {"port": 1}}
CONTAINERS = st.sampled_from(
    [
        {"name": "main", "image": "i:1"},
        {"name": "main", "image": "i:1", "readinessProbe": PROBE, "livenessProbe": PROBE},
        {"name": "main", "image": "i:1", "startupProbe": PROBE},
        {"name": "main", "image": "i:1", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}},
    ]
)
INITS = st.lists(
    st.sampled_from([{"name": "init", "image": "n:1"}, {"name": "side", "image": "s:1", "restartPolicy": "Always"}]),
    max_size=2,
    unique_by=lambda entry: entry["name"],
)


class PodLife(RuleBasedStateMachine):
    """One pod's life, told by chance."""

    world: World

    @initialize(
        container=CONTAINERS, inits=INITS, policy=st.sampled_from(["Always", "OnFailure", "Never"]), two=st.booleans()
    )
    def begin(self, container: dict[str, Any], inits: list[dict[str, Any]], policy: str, two: bool) -> None:
        others = [{"name": "other", "image": "o:1"}] if two else []
        self.world = World(make_pod(container, *others, initContainers=inits, restartPolicy=policy))
        self.world.begin()

    @property
    def gone(self) -> bool:
        return self.world.machine.state == "gone"

    @precondition(lambda self: self.world.pending)
    @rule(index=st.integers(0, 20), success=st.sampled_from([True, True, True, False]))
    def answer(self, index: int, success: bool) -> None:
        self.world.answer(index, success=success)

    @rule(age=st.sampled_from([0.0, 0.0, 0.5, 5.0]))
    def look(self, age: float) -> None:
        self.world.look(self.world.now - age)

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(name=st.sampled_from(["main", "other", "init", "side"]), code=st.sampled_from([0, 1]), look=st.booleans())
    def exit(self, name: str, code: int, look: bool) -> None:
        if self.world.live(name):
            self.world.exit(name, code, look=look)

    @rule(name=st.sampled_from(["main", "other", "side"]))
    def vanish(self, name: str) -> None:
        for info in self.world.live(name):
            del self.world.containers[info.id]

    @rule()
    def kill_sandbox(self) -> None:
        for sandbox in [info for info in self.world.sandboxes.values() if info.ready]:
            self.world.kill_sandbox(sandbox.id)

    @rule(kind=st.sampled_from(["startup", "readiness", "liveness"]), success=st.booleans())
    def probe(self, kind: w.ProbeKind, success: bool) -> None:
        for info in self.world.live("main"):
            if info.id in self.world.probing:
                self.world.tell(w.ProbeChanged("main", info.id, kind, success))

    @rule()
    def change_image(self) -> None:
        spec = self.world.pod["spec"]
        containers = [{**entry, "image": f"{entry['image']}1"} for entry in spec["containers"]]
        self.world.tell(w.PodUpdated({**self.world.pod, "spec": {**spec, "containers": containers}}))

    @rule(grace_s=st.sampled_from([0, 1, 30]))
    def delete(self, grace_s: int) -> None:
        if not self.world.removed:
            self.world.tell(w.PodUpdated(deleted(self.world.pod, grace_s)))

    @rule()
    def remove(self) -> None:
        self.world.removed = True
        self.world.tell(w.PodRemoved())

    @rule()
    def restart_kubelet(self) -> None:
        """A new machine finds what the old one left; what the old one had begun is done or not done."""
        if self.world.removed:
            return
        old = self.world
        while old.pending and not isinstance(old.pending[0].instruction, w.DeletePod):
            old.pending.pop(0).finish(True)
        if old.removed or old.machine.state in ("cleaned", "gone"):
            return
        self.world = World({**old.pod, "status": old.status})
        self.world.now, self.world.status, self.world.mounted = old.now + 1, old.status, old.mounted
        self.world.containers, self.world.sandboxes = old.containers, old.sandboxes
        self.world._ids = old._ids
        self.world.begin()

    @invariant()
    def at_most_one_live(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """Whatever has happened, a pod that is deleted and left in peace is gone in the end."""
        if not hasattr(self, "world"):
            return
        world = self.world
        if not world.removed and world.machine.state != "gone":
            world.tell(w.PodUpdated(deleted(world.pod, 1)))
        for _ in range(60):
            world.settle()
            if world.machine.state == "gone":
                break
            world.now += 1
            world.look()
            world.advance(15)
        story = "\n".join(world.machine.story()[-60:])
        assert world.machine.state == "gone", story
        assert not world.sandboxes, story
        assert not world.containers, story
        assert not world.probing, story


PodLife.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestPodLife = PodLife.TestCase
