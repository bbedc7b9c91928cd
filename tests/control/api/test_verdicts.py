"""Remembered verdicts: a pod is judged alike whether one of its template came before or not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.patch import copy_json
from control.api.resources import PODS
from control.api.validation import objects
from control.api.validation.verdicts import KEPT_MAX, Verdicts, likeness

TOKEN = "kube-api-access-abcde"


def pod(name: str = "a", volume: str = TOKEN, **spec: Any) -> dict[str, Any]:
    mount = {"name": volume, "mountPath": "/token", "readOnly": True}
    container = {
        "name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
        "terminationMessagePath": "/dev/termination-log", "volumeMounts": [mount], "resources": {},
    }  # fmt: skip
    whole = {
        "containers": [container], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30, "serviceAccountName": "default", "securityContext": {},
        "schedulerName": "default-scheduler", "volumes": [{"name": volume, "emptyDir": {}}], **spec,
    }  # fmt: skip
    metadata = {"name": name, "namespace": "d", "uid": f"uid-of-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole, "status": {"phase": "Pending"}}


def judged(made: dict[str, Any]) -> list[tuple[str, str]]:
    return [(cause.field, cause.message) for cause in objects.validate(PODS, copy_json(made))]


VARIANTS = [
    {"restartPolicy": "Never"}, {"restartPolicy": "never"}, {"dnsPolicy": ""}, {"terminationGracePeriodSeconds": -1},
    {"volumes": []}, {"volumes": [{"name": TOKEN, "emptyDir": {}}, {"name": TOKEN, "emptyDir": {}}]},
    {"volumes": [{"name": TOKEN, "emptyDir": {}}, {"name": "kube-api-access-fghij", "emptyDir": {}}]},
    {"volumes": [{"name": TOKEN, "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]},
    {"containers": []}, {"nodeName": "A"}, {"hostNetwork": True}, {"schedulingGates": [{"name": "x"}, {"name": "x"}]},
]  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "A", "x" * 300]),
            st.sampled_from([TOKEN, "kube-api-access-fghij", "kube-api-access-fghi", "KUBE"]),
            st.sampled_from([{}, {}, *VARIANTS]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_pods_are_judged_alike_whoever_came_before(asked: list[tuple[str, str, dict[str, Any]]]) -> None:
    made = [pod(name, volume, **spec) for name, volume, spec in asked]
    remembering = [judged(each) for each in made]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "likeness", lambda _: None)
        assert [judged(each) for each in made] == remembering


def test_only_names_may_differ() -> None:
    assert likeness(pod("a")) == likeness(pod("b", "kube-api-access-fghij"))
    assert likeness(pod("a")) != likeness(pod("a", "other"))
    assert likeness(pod("a")) != likeness(pod("a", hostNetwork=True))
    labelled = pod("a")
    labelled["metadata"]["labels"] = {"a": "b"}
    assert likeness(labelled) != likeness(pod("a"))
    assert likeness(pod("a", volumes=[{"name": "v", "ephemeral": {}}])) is None
    assert likeness(pod("a", hostname="x" * 20_000)) is None


def test_as_many_as_fit_are_remembered() -> None:
    verdicts = Verdicts()
    verdicts.note(None)
    for number in range(KEPT_MAX + 1):
        verdicts.note(b"%d" % number)
    assert not verdicts.is_faultless(None)
    assert not verdicts.is_faultless(b"0")
    assert verdicts.is_faultless(b"1")
    assert verdicts.is_faultless(b"%d" % KEPT_MAX)
