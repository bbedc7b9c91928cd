"""What kubectl get shows."""

from datetime import UTC, datetime
from typing import Any

import pytest

from control.api import times
from control.api.printers import pods
from control.api.printers.table import column_definitions, printer, table
from control.api.resources import catalog

NOW = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)
CREATED = "2024-05-06T11:00:00Z"
RUNNING = {"running": {"startedAt": CREATED}}


def cells(group: str, plural: str, obj: dict[str, Any], version: str = "v1") -> list[Any]:
    obj = {"metadata": {"name": "x", "creationTimestamp": CREATED}, **obj}
    shown = printer(group, version, plural)
    made = shown.cells(obj, NOW)
    assert len(made) == len(shown.columns)
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"),
        (600, "10m"), (10799, "179m"), (10800, "3h"), (10860, "3h1m"), (28800, "8h"), (172800, "2d"), (176400, "2d1h"),
        (8 * 86400, "8d"), (730 * 86400, "2y"), (731 * 86400, "2y1d"), (8 * 365 * 86400, "8y"),
    ],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert times.human_duration(seconds) == text


def container(state: dict[str, Any], *, ready: bool = False, restarts: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": "c", "state": state, "ready": ready, "restartCount": restarts, **more}


def pod(*statuses: dict[str, Any], init: list[dict[str, Any]] | None = None, **status: Any) -> dict[str, Any]:
    specs = [{"name": entry["name"], **entry.pop("spec", {})} for entry in init or []]
    return {
        "spec": {"containers": [{"name": "c"}] * max(len(statuses), 1), "initContainers": specs},
        "status": {
            "phase": "Pending",
            "containerStatuses": list(statuses),
            "initContainerStatuses": init or [],
            **status,
        },
    }


def terminated(code: int, reason: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **({"reason": reason} if reason else {})}}


@pytest.mark.parametrize(
    ("obj", "ready", "status", "restarts"),
    [
        pytest.param(pod(), "0/1", "Pending", "0", id="new"),
        pytest.param(pod(container(RUNNING, ready=True), phase="Running"), "1/1", "Running", "0", id="running"),
        pytest.param(
            pod(container({"waiting": {"reason": "ContainerCreating"}})), "0/1", "ContainerCreating", "0", id="creating"
        ),
        pytest.param(
            pod(
                container(
                    {"waiting": {"reason": "CrashLoopBackOff"}},
                    restarts=3,
                    lastState={"terminated": {"finishedAt": "2024-05-06T11:59:30Z"}},
                ),
                phase="Running",
            ),
            "0/1",
            "CrashLoopBackOff",
            "3 (30s ago)",
            id="crash loop",
        ),
        pytest.param(pod(container(terminated(2)), phase="Failed"), "0/1", "ExitCode:2", "0", id="no reason"),
        pytest.param(pod(container(terminated(0, "Completed")), phase="Succeeded"), "0/1", "Completed", "0", id="done"),
        pytest.param(
            pod(container(RUNNING, ready=True), container(terminated(0, "Completed")), phase="Running"),
            "1/2",
            "NotReady",
            "0",
            id="one done, one running",
        ),
        pytest.param(
            pod(init=[container(RUNNING) | {"name": "i"}, container({}) | {"name": "j"}]), "0/1", "Init:0/2", "0"
        ),
        pytest.param(
            pod(init=[container(terminated(1, "Error")) | {"name": "i"}]), "0/1", "Init:Error", "0", id="init failed"
        ),
        pytest.param(
            pod(
                container(RUNNING, ready=True),
                init=[
                    container(RUNNING, ready=True, started=True) | {"name": "s", "spec": {"restartPolicy": "Always"}}
                ],
                phase="Running",
            ),
            "2/2",
            "Running",
            "0",
            id="sidecar counts",
        ),
        pytest.param(pod(reason="Evicted", phase="Failed"), "0/1", "Evicted", "0", id="reason of the pod"),
    ],
)
def test_pods(obj: dict[str, Any], ready: str, status: str, restarts: str) -> None:
    assert cells("", "pods", obj)[1:5] == [ready, status, restarts, "60m"]


def test_a_pod_being_deleted_is_terminating_unless_it_ended() -> None:
    gone = {"metadata": {"name": "x", "deletionTimestamp": CREATED}}
    assert pods.status_text(pod(container(RUNNING, ready=True), phase="Running") | gone) == "Terminating"
    assert pods.status_text(pod(container(terminated(0, "Completed")), phase="Succeeded") | gone) == "Completed"


@pytest.mark.parametrize(
    ("group", "plural", "obj", "wanted"),
    [
        pytest.param(
            "apps",
            "deployments",
            {
                "spec": {
                    "replicas": 3,
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}},
                },
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
            },
            ["x", "2/3", 3, 2, "60m", "a,b", "i,j", "app=web"],
            id="deployment",
        ),
        pytest.param(
            "",
            "services",
            {
                "spec": {
                    "type": "NodePort",
                    "clusterIP": "10.0.0.1",
                    "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}],
                    "selector": {"b": "2", "a": "1"},
                }
            },
            ["x", "NodePort", "10.0.0.1", "<none>", "80:30000/TCP", "60m", "a=1,b=2"],
            id="node port",
        ),
        pytest.param(
            "",
            "services",
            {"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}},
            ["x", "LoadBalancer", "10.0.0.1", "<pending>", "<none>", "60m", "<none>"],
            id="load balancer",
        ),
        pytest.param(
            "batch",
            "jobs",
            {
                "spec": {"completions": 2, "template": {"spec": {"containers": []}}, "selector": {}},
                "status": {"succeeded": 2, "startTime": CREATED, "completionTime": "2024-05-06T11:00:09Z",
                           "conditions": [{"type": "Complete", "status": "True"}]},
            },
            ["x", "Complete", "2/2", "9s", "60m", "", "", "<none>"],
            id="job",
        ),
        pytest.param(
            "discovery.k8s.io",
            "endpointslices",
            {
                "addressType": "IPv4",
                "ports": [{"port": 80}],
                "endpoints": [{"addresses": [f"10.0.0.{n}"]} for n in range(5)],
            },
            ["x", "IPv4", "80", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more...", "60m"],
            id="endpoint slice",
        ),
        pytest.param(
            "rbac.authorization.k8s.io", "roles", {"rules": []}, ["x", CREATED], id="kinds without columns of their own"
        ),
        pytest.param(
            "certificates.k8s.io",
            "certificatesigningrequests",
            {
                "spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
                "status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "YQ=="},
            },
            ["x", "60m", "s", "u", "60m", "Approved,Issued"],
            id="signing request",
        ),
    ],
)  # fmt: skip
def test_rows(group: str, plural: str, obj: dict[str, Any], wanted: list[Any]) -> None:
    assert cells(group, plural, obj) == wanted


def test_nodes() -> None:
    node = {
        "metadata": {
            "name": "n1",
            "creationTimestamp": CREATED,
            "labels": {"node-role.kubernetes.io/control-plane": ""},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1"},
        },
    }
    assert cells("", "nodes", node)[:7] == [
        "n1", "Ready,SchedulingDisabled", "control-plane", "60m", "v1", "10.0.0.1", "<none>",
    ]  # fmt: skip


def test_every_kind_prints_an_empty_object() -> None:
    for served in catalog():
        resource = served.resource
        cells(resource.group, resource.plural, {}, resource.version)


def test_a_table_carries_what_was_asked_for() -> None:
    shown = printer("", "v1", "pods")
    obj = {"metadata": {"name": "x"}, **pod(phase="Succeeded")}
    made = table(shown, [obj], NOW, list_metadata={"resourceVersion": "7"})
    assert [column["name"] for column in made["columnDefinitions"]][:5] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert made["rows"][0]["conditions"][0]["type"] == "Completed"
    assert table(shown, [obj], NOW, include="Object")["rows"][0]["object"] is obj
    assert table(shown, [obj], NOW, include="None", with_columns=False)["columnDefinitions"] == []
    assert column_definitions(shown)[5]["priority"] == 1


@pytest.mark.parametrize(
    ("group", "plural", "obj", "shown"),
    [
        ("storage.k8s.io", "csistoragecapacities", {"storageClassName": "fast"}, ["x", "fast", "<unset>"]),
        ("storage.k8s.io", "storageclasses",
         {"metadata": {"name": "x", "annotations": {"storageclass.beta.kubernetes.io/is-default-class": "true"}}},
         ["x (default)"]),
        ("", "resourcequotas", {"status": {"hard": {"limitsx": "1", "limits.cpu": "2"}}},
         ["x", "limitsx: 0/1", "limits.cpu: 0/2"]),
        ("networking.k8s.io", "ingresses", {"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {}]}},
         ["x", "<none>", "a,b,c + 1 more..."]),
        ("", "events", {"involvedObject": {"kind": "Node"}}, ["<unknown>", "", "", "node"]),
        ("resource.k8s.io", "resourceclaims", {"status": {"reservedFor": [{"uid": "u"}]}}, ["x", "pending"]),
        ("resource.k8s.io", "resourceclaims", {"status": {"allocation": {}, "reservedFor": [{"uid": "u"}]}},
         ["x", "allocated,reserved"]),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations",
         {"spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5}}}, ["x", "Exempt", "<none>", "<none>"]),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations",
         {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0}}}, ["x", "Limited", 0, "<none>"]),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings",
         {"spec": {"policyName": "p", "paramRef": {"name": "q"}}}, ["x", "p", "*/q"]),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings",
         {"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"a": "b"}}}}},
         ["x", "p", "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"]),
        ("", "persistentvolumeclaims",
         {"metadata": {"name": "x", "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
          "spec": {"storageClassName": "new"}}, ["x", "", "", "", "", "old"]),
    ],
)  # fmt: skip
def test_rows_as_kubernetes_makes_them(group: str, plural: str, obj: dict[str, Any], shown: list[Any]) -> None:
    assert cells(group, plural, obj)[: len(shown)] == shown
