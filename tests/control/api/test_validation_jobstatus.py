"""What may be told of a job, and what may change of a suspended one, in Kubernetes' words and order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.api.validating import change_faults

LABELS = {"a": "b"}
POD: dict[str, Any] = {"containers": [{"name": "a", "image": "i"}], "restartPolicy": "Never"}
JOB: dict[str, Any] = {
    "spec": {
        "manualSelector": True,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    }
}
T1, T2 = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"


def held(*kinds: str) -> list[dict[str, str]]:
    """Return conditions that are true."""
    return [{"type": kind, "status": "True"} for kind in kinds]


DONE = {"startTime": T1, "completionTime": T2, "conditions": held("SuccessCriteriaMet", "Complete")}
WRONG = "status.conditions: Invalid value: "
STATUSES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "done": ({"startTime": T1}, DONE, []),
    "done at once": (
        {}, {"conditions": held("Complete")},
        ["status.completionTime: Required value: completionTime is required for Complete jobs",
         WRONG + "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
         "status.startTime: Required value: startTime is required for finished job"]),
    "done before it began": (
        {"startTime": T2}, {**DONE, "startTime": T2, "completionTime": T1},
        [f'status.completionTime: Invalid value: "{T1}": must be equal to or after `startTime`']),
    "done and failed": (
        {"startTime": T1}, {**DONE, "conditions": held("SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")},
        [WRONG + "cannot set Complete=True and Failed=true conditions",
         WRONG + "cannot set Complete=True and FailureTarget=true conditions",
         WRONG + "cannot set SuccessCriteriaMet=True and Failed=true conditions",
         WRONG + "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"]),
    "failed for no reason": (
        {"startTime": T1}, {"startTime": T1, "conditions": held("Failed")},
        [WRONG + "cannot set Failed=True condition without the FailureTarget=true condition"]),
    "done with pods": (
        {"startTime": T1},
        {**DONE, "active": 1, "ready": 2, "terminating": 1, "uncountedTerminatedPods": {"succeeded": ["u"]}},
        ["status.active: Invalid value: 1: active>0 is invalid for finished job",
         'status.uncountedTerminatedPods: Invalid value: {"Succeeded":["u"],"Failed":null}: must be empty for finished '
         "job",
         "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
         "status.ready: Invalid value: 2: cannot set more ready pods than active"]),
    "one pod twice": (
        {}, {"uncountedTerminatedPods": {"succeeded": ["u", ""], "failed": ["u"]}},
        ['status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty',
         'status.uncountedTerminatedPods.failed[0]: Duplicate value: "u"']),
    "undone": (
        DONE, {"startTime": T1, "failed": -1},
        ["status.failed: Invalid value: -1: must be greater than or equal to 0",
         WRONG + "cannot disable the terminal Complete=True condition",
         "status.failed: Invalid value: -1: cannot decrease the failed counter",
         WRONG + "cannot disable the SuccessCriteriaMet=True condition"]),
    "counted down": (
        {"succeeded": 2, "failed": 2}, {"succeeded": 1, "failed": 1},
        ["status.failed: Invalid value: 1: cannot decrease the failed counter",
         "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"]),
    "done at another time": (
        DONE, {**DONE, "completionTime": "2026-01-01T00:00:03Z"},
        ['status.completionTime: Invalid value: "2026-01-01T00:00:03Z": field is immutable']),
    "begun anew": (
        {"startTime": T1}, {"startTime": T2},
        [f'status.startTime: Invalid value: "{T2}": field is immutable for unsuspended job once set']),
    "not begun after all": (
        {"startTime": T1}, {},
        ["status.startTime: Invalid value: null: field is immutable for unsuspended job once set"]),
    "indexes of a job without": (
        {}, {"completedIndexes": "0", "failedIndexes": "1"},
        ['status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion '
         "mode",
         'status.failedIndexes: Invalid value: "1": cannot set non-null failedIndexes when backoffLimitPerIndex is null']),
}  # fmt: skip


@pytest.mark.parametrize("name", STATUSES)
def test_a_status(name: str) -> None:
    before, after, wanted = STATUSES[name]
    found = change_faults("batch/jobs", JOB, {"status": after}, "status", before={"status": before})
    assert found == wanted


SUSPENDED = {"spec/suspend": True}
IMAGE = {"spec/template/spec/containers/0/image": "j"}
PLACES = {"spec/template/spec/nodeSelector": {"c": "d"}, "spec/template/metadata/annotations": {"c": "d"}}
LARGER = {"spec/template/spec/containers/0/resources": {"requests": {"cpu": "2"}}}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an image": ({}, IMAGE, 'spec.template: Invalid value: {"labels":{"a":"b"},"Spec":{"Volumes":null,'),
    "a place": ({}, PLACES, 'spec.template: Invalid value: {"labels":{"a":"b"},"annotations":{"c":"d"},"Spec":{'),
    "a place while suspended": (SUSPENDED, PLACES, ""),
    "a size while suspended": (SUSPENDED, LARGER, ""),
    "an image while suspended": (SUSPENDED, IMAGE, 'spec.template.spec: Invalid value: {"Volumes":null,'),
    "a place, suspended after it began": (
        {**SUSPENDED, "status": {"startTime": T1}}, PLACES, "spec.template: Invalid value: {"),
    "a place, suspended with no pods left": (
        {**SUSPENDED, "status": {"startTime": T1, "conditions": held("Suspended")}}, PLACES, ""),
    "another selector": (
        {}, {"spec/selector": {"matchLabels": {}}}, "spec.selector: Invalid value: {}: field is immutable"),
    "more completions": ({"spec/completions": 1}, {"spec/completions": 2}, "spec.completions: Invalid value: 2: field"),
    "a policy": (
        {}, {"spec/podFailurePolicy": {"rules": []}},
        'spec.podFailurePolicy: Invalid value: {"Rules":[]}: field is immutable'),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change(name: str) -> None:
    before, changes, wanted = CHANGES[name]
    found = change_faults("batch/jobs", JOB, changes, before=before)
    assert len(found) == bool(wanted)
    assert "".join(found).startswith(wanted)
