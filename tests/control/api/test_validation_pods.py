"""What pods may say, and what Kubernetes says of those that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.api.validating import change_faults, faults_of

POD: dict[str, Any] = {
    "metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-3"}},
    "spec": {
        "hostNetwork": True, "serviceAccountName": "a", "subdomain": "s", "hostname": "h", "runtimeClassName": "fast", "terminationGracePeriodSeconds": 9,
        "securityContext": {"runAsUser": 1, "fsGroup": 2, "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                                       "labelSelector": {"matchLabels": {"a": "b"}}}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 5, "podAffinityTerm": {"topologyKey": "host", "labelSelector": {}}}]},
        },
        "volumes": [
            {"name": "e", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
            {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "a/b", "mode": 256}]}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                                                    {"downwardAPI": {"items": [{"path": "l", "fieldRef": {
                                                        "fieldPath": "metadata.labels"}}]}}]}},
            {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}},
            {"name": "i", "image": {"reference": "r"}},
        ],
        "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always",
                            "startupProbe": {"exec": {"command": ["a"]}}}],
        "containers": [{
            "name": "a", "image": "i", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "c"}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1", "hugepages-2Mi": "4Mi"}},
            "livenessProbe": {"httpGet": {"port": "http", "httpHeaders": [{"name": "X-A", "value": "b"}]}},
            "readinessProbe": {"grpc": {"port": 80}}, "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            "volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "x"},
                             {"name": "c", "mountPath": "/c", "readOnly": True},
                             {"name": "i", "mountPath": "/i"}],
            "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "runAsNonRoot": True, "procMount": "Default"},
        }],
    },
}  # fmt: skip
LABEL_FORM = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
C = "spec.containers[0]"
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "several at once": (
        {"spec/restartPolicy": "Sometimes", "spec/dnsPolicy": "Mine", "spec/containers/0/image": ""},
        [f"{C}.image: Required value",
         'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"',
         'spec.dnsPolicy: Unsupported value: "Mine": supported values: "ClusterFirstWithHostNet", "ClusterFirst", '
         '"Default", "None"'],
    ),
    "names": ({"spec/containers/0/name": "A_b"}, [f'{C}.name: Invalid value: "A_b": {LABEL_FORM}']),
    "two of a name": (
        {"spec/containers/1": {"name": "a", "image": "i"}}, ['spec.containers[1].name: Duplicate value: "a"']),
    "no such volume": ({"spec/containers/0/volumeMounts/0/name": "q"}, [f'{C}.volumeMounts[0].name: Not found: "q"']),
    "a mount twice": (
        {"spec/containers/0/volumeMounts/1/mountPath": "/e"},
        [f'{C}.volumeMounts[1].mountPath: Invalid value: "/e": must be unique']),
    "two sources": (
        {"spec/volumes/0/hostPath": {"path": "/x"}},
        ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
         f'{C}.volumeMounts[0].name: Not found: "e"']),
    "a limit below": (
        {"spec/containers/0/resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}},
        [f'{C}.resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1']),
    "half a device": (
        {"spec/containers/0/resources": {"limits": {"example.com/gpu": "500m"}}},
        [f'{C}.resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer',
         f'{C}.resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer']),
    "pages alone": (
        {"spec/containers/0/resources": {"limits": {"hugepages-2Mi": "2Mi"}}},
        [f"{C}.resources: Forbidden: HugePages require cpu or memory"]),
    "two handlers": (
        {"spec/containers/0/livenessProbe/tcpSocket": {"port": 1}},
        [f"{C}.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"]),
    "a long pause": (
        {"spec/containers/0/lifecycle/preStop/sleep/seconds": 99},
        [f"{C}.lifecycle.preStop.sleep: Invalid value: 99: must be non-negative and less than "
         "terminationGracePeriodSeconds (9)"]),
    "a grace for readiness": (
        {"spec/containers/0/readinessProbe/terminationGracePeriodSeconds": 3},
        [f"{C}.readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set for readinessProbes"]),
    "two values": (
        {"spec/containers/0/env/1/value": "x"},
        [f'{C}.env[1].valueFrom: Invalid value: "": may not be specified when `value` is not empty']),
    "a field that is none": (
        {"spec/containers/0/env/1/valueFrom/fieldRef/fieldPath": "status.odd"},
        [f'{C}.env[1].valueFrom.fieldRef.fieldPath: Invalid value: "status.odd": error converting fieldPath: field '
         "label not supported: status.odd"]),
    "a probe of an init container": (
        {"spec/initContainers/0/restartPolicy": None},
        ["spec.initContainers[0].startupProbe: Forbidden: may not be set for init containers without "
         "restartPolicy=Always"]),
    "host's port": (
        {"spec/containers/0/ports/0/hostPort": 81},
        [f"{C}.ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"]),
    "toleration": (
        {"spec/tolerations/0/effect": "NoSchedule"},
        ['spec.tolerations[0].effect: Invalid value: "NoSchedule": effect must be \'NoExecute\' when '
         "`tolerationSeconds` is set"]),
    "spread": (
        {"spec/topologySpreadConstraints/0/maxSkew": 0},
        ["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"]),
    "weight": (
        {"spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/weight": 0},
        ["spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: "
         "must be in the range 1-100"]),
    "no term": (
        {"spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms": []},
        ["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: "
         "must have at least one node selector term"]),
    "deletion cost": (
        {"metadata/annotations": {"controller.kubernetes.io/pod-deletion-cost": "+1"}},
        ['metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit '
         "integer"]),
    "ephemeral ones": (
        {"spec/ephemeralContainers": [{"name": "e", "image": "i"}]},
        ["spec.ephemeralContainers: Forbidden: cannot be set on create"]),
    "sysctl": (
        {"spec/securityContext/sysctls/0/name": "UP"},
        ['spec.securityContext.sysctls[0].name: Invalid value: "UP": must have at most 253 characters and match regex '
         "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"]),
    "a path that climbs": (
        {"spec/volumes/1/configMap/items/0/path": "../a"},
        ["spec.volumes[1].configMap.items[0].path: Invalid value: \"../a\": must not contain '..'",
         f'{C}.volumeMounts[1].name: Not found: "c"']),
}  # fmt: skip


def test_a_pod_may_have_all_this() -> None:
    assert faults_of("/pods", POD) == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told(name: str) -> None:
    changes, wanted = BAD[name]
    assert faults_of("/pods", POD, changes) == wanted


FORBIDDEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"spec/containers/0/image": "other", "spec/activeDeadlineSeconds": 5}, []),
        ({"spec/tolerations/1": {"key": "more", "operator": "Exists"}}, []),
        ({"spec/hostname": "other"}, [f"spec: Forbidden: {FORBIDDEN}"]),
        ({"spec/containers/1": {"name": "b", "image": "i"}},
         ["spec.containers: Forbidden: pod updates may not add or remove containers"]),
        ({"spec/activeDeadlineSeconds": -1},
         ["spec.activeDeadlineSeconds: Invalid value: -1: must be between 1 and 2147483647, inclusive"]),
        ({"spec/tolerations": []},
         ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]),
    ],
    ids=["image and deadline", "one more toleration", "hostname", "one more container", "deadline", "toleration"],
)  # fmt: skip
def test_what_may_change_of_a_pod(changes: dict[str, Any], begins: list[str]) -> None:
    found = change_faults("/pods", POD, changes)
    assert [fault[: len(begin)] for fault, begin in zip(found, begins, strict=False)] == begins
    assert bool(found) is bool(begins)


ENDED = {"containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}}]}
STATUSES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "what ended may not begin again": (
        {"status": ENDED, "spec/restartPolicy": "Never"},
        {"status": {"containerStatuses": [{"name": "a", "state": {"running": {}}}]}},
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]),
    "it may where pods are restarted": (
        {"status": ENDED}, {"status": {"containerStatuses": [{"name": "a", "state": {"running": {}}}]}}, []),
    "class": (
        {"status": {"qosClass": "Burstable"}}, {"status": {"qosClass": "BestEffort"}},
        ['status.qosClass: Invalid value: "BestEffort": field is immutable']),
    "addresses": (
        {}, {"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}},
        ['status.podIPs: Invalid value: [{"IP":"10.0.0.1"},{"IP":"10.0.0.2"}]: may specify no more than one IP for each '
         "IP family"]),
}  # fmt: skip


@pytest.mark.parametrize("name", STATUSES)
def test_statuses_of_pods(name: str) -> None:
    before, changes, wanted = STATUSES[name]
    assert change_faults("/pods", POD, changes, "status", before) == wanted
