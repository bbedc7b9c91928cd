"""Rules of workloads, jobs, autoscalers and volumes: a small object, one change, every fault in Kubernetes' order."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.status import Cause, invalid
from tests.control.api.validating import change_faults, faults_of

POD: dict[str, Any] = {"containers": [{"name": "a", "image": "i"}]}
TEMPLATE: dict[str, Any] = {"metadata": {"labels": {"a": "b"}}, "spec": POD}
SPEC: dict[str, Any] = {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}}
RC: dict[str, Any] = {"spec": {"selector": {"a": "b"}, "template": TEMPLATE}}
JOB: dict[str, Any] = {"spec": {"template": {"spec": {**POD, "restartPolicy": "Never"}}}}
CRON: dict[str, Any] = {"spec": {"schedule": "* * * * *", "jobTemplate": JOB}}
SCALER: dict[str, Any] = {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3}}
BUDGET: dict[str, Any] = {"spec": {"minAvailable": 1}}
CLAIM: dict[str, Any] = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
VOLUME: dict[str, Any] = {
    "metadata": {"namespace": ""},
    "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}},
}
NO_MATCH = "`selector` does not match template `labels`"
IN = "must be specified when `operator` is 'In' or 'NotIn'"
WITHOUT_VALUES = {"matchExpressions": [{"key": "a", "operator": "In"}]}
SHOWN_WITHOUT = '{"matchExpressions":[{"key":"a","operator":"In"}]}'
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
NEW: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "a deployment without a selector": (
        "apps/deployments", SPEC, {"spec/selector": None},
        ["spec.selector: Required value", f'spec.template.metadata.labels: Invalid value: {{"a":"b"}}: {NO_MATCH}']),
    "a deployment that chooses all": (
        "apps/deployments", SPEC, {"spec/selector": {}},
        ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]),
    "a selector that cannot be read hides the template": (
        "apps/deployments", SPEC, {"spec/selector": WITHOUT_VALUES, "spec/template/spec/containers": []},
        [f"spec.selector.matchExpressions[0].values: Required value: {IN}",
         f"spec.selector: Invalid value: {SHOWN_WITHOUT}: invalid label selector"]),
    "such a selector of a set": (
        "apps/statefulsets", SPEC, {"spec/selector": WITHOUT_VALUES, "spec/template/spec/containers": []},
        [f"spec.selector.matchExpressions[0].values: Required value: {IN}",
         f"spec.selector: Invalid value: {SHOWN_WITHOUT}"]),
    "a replica set without labels": (
        "apps/replicasets", SPEC, {"spec/template/metadata": None},
        [f"spec.template.metadata.labels: Invalid value: null: {NO_MATCH}"]),
    "a replica set that ends": (
        "apps/replicasets", SPEC, {"spec/template/spec/activeDeadlineSeconds": 1, "spec/template/spec/restartPolicy": "Never"},
        ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
         "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"]),
    "a strategy": (
        "apps/deployments", SPEC, {"spec/strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
        ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]),
    "neither more nor less": (
        "apps/deployments", SPEC, {"spec/strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}},
        ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]),
    "a daemon set without labels": (
        "apps/daemonsets", SPEC, {"spec/selector": {}, "spec/template/metadata": None},
        ["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"]),
    "a daemon set with both": (
        "apps/daemonsets", SPEC, {"spec/updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "101%"}}},
        ['spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%',
         "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"]),
    "a daemon set's strategy": (
        "apps/daemonsets", SPEC, {"spec/updateStrategy": {"type": "Odd"}},
        ['spec.updateStrategy: Unsupported value: {"Type":"Odd","RollingUpdate":null}: supported values: "RollingUpdate", '
         '"OnDelete"']),
    "a set, in order": (
        "apps/statefulsets", SPEC,
        {"spec/podManagementPolicy": "Odd", "spec/updateStrategy": {"type": "Odd"}, "spec/serviceName": "A.b",
         "spec/ordinals": {"start": -1}, "spec/revisionHistoryLimit": -1, "spec/minReadySeconds": -1},
        ["spec.podManagementPolicy: Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'",
         'spec.updateStrategy: Invalid value: {"Type":"Odd","RollingUpdate":null}: must be \'RollingUpdate\' or '
         "'OnDelete'",
         "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
         "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
         f'spec.serviceName: Invalid value: "A.b": {LABEL}']),
    "a set's pods get names and volumes": (
        "apps/statefulsets", SPEC,
        {"spec/template/spec/hostname": "A.b", "spec/template/spec/subdomain": "A.b",
         "spec/volumeClaimTemplates": [{"metadata": {"name": "v"}, **CLAIM}],
         "spec/template/spec/volumes": [{"name": "v", "emptyDir": {}}, {"name": "W", "emptyDir": {}}],
         "spec/template/spec/containers/0/volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        [f'spec.template.spec.volumes[1].name: Invalid value: "W": {LABEL}']),
    "a set's labels are looked at twice": (
        "apps/statefulsets", SPEC, {"spec/template/metadata/labels": {"a": "b", "c": "-"}},
        [f'spec.template.labels: Invalid value: "-": {VALUE}'] * 2),
    "a controller without anything": (
        "/replicationcontrollers", {"spec": {"minReadySeconds": -1, "replicas": -1}}, {},
        ["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0", "spec.selector: Required value",
         "spec.replicas: Invalid value: -1: must be greater than or equal to 0", "spec.template: Required value"]),
    "a revision without data": (
        "apps/controllerrevisions", {"revision": -1}, {},
        ["revision: Invalid value: -1: must be greater than or equal to 0", "data: Required value: data is mandatory"]),
    "a revision of a number": (
        "apps/controllerrevisions", {"revision": 1, "data": 1}, {},
        ["data: Required value: data must be a valid JSON object"]),
    "a budget of both": (
        "policy/poddisruptionbudgets", BUDGET, {"spec/maxUnavailable": "200%"},
        ['spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"200%",'
         '"UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set',
         'spec.maxUnavailable: Invalid value: "200%": must not be greater than 100%']),
    "a cron job's zone in its schedule": (
        "batch/cronjobs", CRON, {"spec/schedule": "TZ=UTC * * * * *"},
        ['spec.schedule: Invalid value: "TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field '
         "instead"]),
    "a cron job's own zone": (
        "batch/cronjobs", CRON, {"spec/timeZone": "local"},
        ['spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in '
         "https://www.iana.org/time-zones", 'spec.timeZone: Invalid value: "local": unknown time zone local']),
    "a cron job's restart policy": (
        "batch/cronjobs", CRON, {"spec/jobTemplate/spec/template/spec/restartPolicy": "Odd"},
        ['spec.jobTemplate.spec.template.spec.restartPolicy: Unsupported value: "Odd": supported values: "Always", '
         '"OnFailure", "Never"',
         'spec.jobTemplate.spec.template.spec.restartPolicy: Unsupported value: "Odd": supported values: "OnFailure", '
         '"Never"']),
    "exit codes of nothing": (
        "batch/cronjobs", CRON,
        {"spec/jobTemplate/spec/podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In"}}]}},
        ["spec.jobTemplate.spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: null: at least one value is "
         "required"]),
    "a success policy without indexes": (
        "batch/cronjobs", CRON, {"spec/jobTemplate/spec/successPolicy": {"rules": [{"succeededCount": 1}]}},
        ['spec.jobTemplate.spec.successPolicy: Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}: '
         "requires indexed completion mode"]),
    "an autoscaler to nothing": (
        "autoscaling/horizontalpodautoscalers", SCALER, {"spec/minReplicas": 0},
        ["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
         "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero "
         "replicas"]),
    "an odd metric": (
        "autoscaling/horizontalpodautoscalers", SCALER, {"spec/metrics": [{"type": "Odd"}]},
        ['spec.metrics[0].type: Unsupported value: "Odd": supported values: "ContainerResource", "External", "Object", '
         '"Pods", "Resource"'] * 2),
    "two sources": (
        "/persistentvolumes", VOLUME, {"spec/local": {"path": "/b"}, "spec/csi": {"driver": "d", "volumeHandle": "h"}},
        ["spec.local: Forbidden: may not specify more than 1 volume type",
         "spec.csi: Forbidden: may not specify more than 1 volume type"]),
}  # fmt: skip
BOUND = {"status/phase": "Bound"}
CHANGED: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "a set's claims": (
        "apps/statefulsets", SPEC, {"spec/serviceName": "s"},
        ["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
         "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are "
         "forbidden"]),
    "a deployment's selector": (
        "apps/deployments", SPEC,
        {"spec/selector": {"matchLabels": {"c": "d"}}, "spec/template/metadata/labels": {"c": "d"}},
        ['spec.selector: Invalid value: {"matchLabels":{"c":"d"}}: field is immutable']),
    "a daemon set's selector comes first": (
        "apps/daemonsets", SPEC, {"spec/selector": {"matchLabels": {"c": "d"}}, "spec/minReadySeconds": -1},
        ['spec.selector: Invalid value: {"matchLabels":{"c":"d"}}: field is immutable',
         f'spec.template.metadata.labels: Invalid value: {{"a":"b"}}: {NO_MATCH}',
         "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"]),
    "a pod's fields": (
        "/pods", {"spec": POD}, {"spec/hostname": "b"},
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
         "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
         "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
         "@@ -64,7 +64,7 @@\n"
         '   "SELinuxChangePolicy": null\n  },\n  "ImagePullSecrets": null,\n- "Hostname": "",\n+ "Hostname": "b",\n'
         '  "Subdomain": "",\n  "SetHostnameAsFQDN": null,\n  "Affinity": null,\n']),
    "a claim's modes": (
        "/persistentvolumeclaims", CLAIM, {"spec/accessModes": ["ReadOnlyMany"]},
        ["spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for "
         'bound claims\n@@ -1,6 +1,6 @@\n {\n  "AccessModes": [\n-  "ReadWriteOnce"\n+  "ReadOnlyMany"\n  ],\n'
         '  "Selector": null,\n  "Resources": {\n']),
    "a volume's source": (
        "/persistentvolumes", VOLUME, {"spec/hostPath": {"path": "/b"}},
        ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n"
         '@@ -2,7 +2,7 @@\n  "GCEPersistentDisk": null,\n  "AWSElasticBlockStore": null,\n  "HostPath": {\n'
         '-  "Path": "/a",\n+  "Path": "/b",\n   "Type": ""\n  },\n  "Glusterfs": null,\n']),
}  # fmt: skip


@pytest.mark.parametrize("name", NEW)
def test_a_new_object(name: str) -> None:
    what, obj, changes, wanted = NEW[name]
    assert faults_of(what, obj, changes) == wanted


@pytest.mark.parametrize("name", CHANGED)
def test_a_change(name: str) -> None:
    what, obj, changes, wanted = CHANGED[name]
    assert change_faults(what, obj, changes) == wanted


def test_a_fault_that_is_found_twice_is_said_once() -> None:
    cause = Cause("FieldValueInvalid", "Invalid value: 1", "a")
    told = invalid("Pod", "p", [cause, cause])
    assert told.status["message"] == 'Pod "p" is invalid: a: Invalid value: 1'
    assert len(told.status["details"]["causes"]) == 2


def test_a_claim_keeps_a_class_of_attributes_that_its_volume_has() -> None:
    before = {
        "spec/volumeAttributesClassName": "c",
        "status": {"phase": "Bound", "currentVolumeAttributesClassName": "c"},
    }
    for after, word in (
        ({"spec/volumeAttributesClassName": ""}, "empty string"),
        ({"spec/volumeAttributesClassName": "d"}, ""),
    ):
        found = change_faults("/persistentvolumeclaims", CLAIM, after, before=before)
        text = f"update to {word} is forbidden when status.currentVolumeAttributesClassName is not nil"
        assert found == ([f"spec.volumeAttributesClassName: Forbidden: {text}"] if word else [])
