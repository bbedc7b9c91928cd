"""Defaults: what Kubernetes writes into what a client left out."""

from typing import Any

import pytest

from control.api import schema
from control.api.defaulting import DEPENDENT, apply_defaults, image_tag
from control.api.facts.defaults import PLAIN


def test_a_pod_gets_all_that_kubectl_shows() -> None:
    pod: dict[str, Any] = {
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "nginx",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                }
            ],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}],
            "hostNetwork": True,
            "serviceAccountName": "me",
        }
    }
    apply_defaults(pod, "core.v1.Pod")
    spec = pod["spec"]
    container = spec["containers"][0]
    assert spec["restartPolicy"] == "Always"
    assert spec["dnsPolicy"] == "ClusterFirst"
    assert spec["enableServiceLinks"] is True
    assert spec["serviceAccount"] == "me"
    assert container["imagePullPolicy"] == "Always"
    assert container["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert container["resources"]["requests"] == {"cpu": "1"}
    assert container["livenessProbe"]["httpGet"] == {"port": 80, "path": "/", "scheme": "HTTP"}
    assert container["livenessProbe"]["failureThreshold"] == 3
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert spec["volumes"] == [
        {"name": "v", "emptyDir": {}},
        {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
    ]


def test_a_deployment_gets_its_strategy_and_its_template_no_requests() -> None:
    deployment: dict[str, Any] = {
        "spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}}
    }
    apply_defaults(deployment, "apps.v1.Deployment")
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert deployment["spec"]["replicas"] == 1
    assert "requests" not in deployment["spec"]["template"]["spec"]["containers"][0]["resources"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param(
            {"ports": [{"port": 80}]},
            {
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "type": "ClusterIP",
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
            },
            id="cluster ip",
        ),
        pytest.param(
            {"type": "LoadBalancer", "sessionAffinity": "ClientIP"},
            {
                "type": "LoadBalancer",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster",
                "allocateLoadBalancerNodePorts": True,
            },
            id="load balancer",
        ),
        pytest.param(
            {"type": "ExternalName", "externalName": "a.b"},
            {"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"},
            id="external name",
        ),
    ],
)
def test_services(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    service = {"spec": given}
    apply_defaults(service, "core.v1.Service")
    assert service["spec"] == wanted


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("nginx", "latest"), ("nginx:1.2", "1.2"), ("r:5000/nginx", "latest"), ("r:5000/a/b:x", "x"),
        ("nginx@sha256:00", ""), ("nginx:1@sha256:00", "1"),
    ],
)  # fmt: skip
def test_image_tags(image: str, tag: str) -> None:
    assert image_tag(image) == tag


def test_secret_strings_become_data() -> None:
    secret: dict[str, Any] = {"stringData": {"a": "b"}, "data": {"a": "x", "c": "y"}}
    apply_defaults(secret, "core.v1.Secret")
    assert secret == {"type": "Opaque", "data": {"a": "Yg==", "c": "y"}}


@pytest.mark.parametrize(
    ("given", "completions", "parallelism"), [({}, 1, 1), ({"parallelism": 3}, None, 3), ({"completions": 2}, 2, 1)]
)
def test_jobs(given: dict[str, Any], completions: int | None, parallelism: int) -> None:
    job = {"spec": given}
    apply_defaults(job, "batch.v1.Job")
    assert (job["spec"].get("completions"), job["spec"]["parallelism"]) == (completions, parallelism)
    assert job["spec"]["backoffLimit"] == 6


def test_defaults_name_fields_that_exist() -> None:
    for name, values in PLAIN.items():
        assert not set(values) - set(schema.definition(name).fields), name
    assert all(schema.definition(name) for name in DEPENDENT)


@pytest.mark.parametrize("name", ["core.v1.Pod", "apps.v1.Deployment", "core.v1.Service", "batch.v1.CronJob"])
def test_defaulting_twice_changes_nothing(name: str) -> None:
    once: dict[str, Any] = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}
    apply_defaults(once, name)
    text = repr(once)
    apply_defaults(once, name)
    assert repr(once) == text


@pytest.mark.parametrize(
    ("resources", "containers", "wanted"),
    [
        ({}, [{"requests": {"cpu": "1"}}], {}),
        ({"limits": {"cpu": "2"}}, [{}], {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}),
        (
            {"limits": {"cpu": "2"}},
            [{"requests": {"cpu": "500m"}}, {"requests": {"cpu": "1", "memory": "1Gi", "other.com/x": "1"}}],
            {"limits": {"cpu": "2"}, "requests": {"cpu": "1500m", "memory": "1Gi"}},
        ),
        ({"requests": {"cpu": "1"}}, [{"limits": {"memory": "1Gi"}}], {"requests": {"cpu": "1"}}),
        (
            {"requests": {"cpu": "1"}},
            [{"limits": {"hugepages-2Mi": "4Mi"}}, {"limits": {"hugepages-2Mi": "2Mi"}}],
            {"limits": {"hugepages-2Mi": "6Mi"}, "requests": {"cpu": "1", "hugepages-2Mi": "6Mi"}},
        ),
    ],
    ids=["none of its own", "limits alone", "requests of containers", "requests alone", "huge pages"],
)
def test_what_a_pod_asks_for_as_a_whole(
    resources: dict[str, Any], containers: list[dict[str, Any]], wanted: dict[str, Any]
) -> None:
    listed = [{"name": f"c{index}", "resources": found} for index, found in enumerate(containers)]
    pod: dict[str, Any] = {"spec": {"resources": resources, "containers": listed}}
    apply_defaults(pod, "core.v1.Pod")
    assert pod["spec"]["resources"] == wanted


@pytest.mark.parametrize(
    ("text", "wanted"), [("100u", "1m"), ("1500u", "2m"), ("1n", "1m"), ("2", "2"), ("1500m", "1500m"), ("1e-6", "1m")]
)
def test_amounts_are_rounded_up_to_thousandths(text: str, wanted: str) -> None:
    quota: dict[str, Any] = {"spec": {"hard": {"cpu": text}}}
    apply_defaults(quota, "core.v1.ResourceQuota")
    assert quota["spec"]["hard"] == {"cpu": wanted}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}}),
        ({"type": "RollingUpdate"}, {"type": "RollingUpdate"}),
        (
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}},
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 3, "maxUnavailable": 1}},
        ),
        ({"type": "OnDelete"}, {"type": "OnDelete"}),
    ],
)
def test_updates_of_stateful_sets(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    obj: dict[str, Any] = {"spec": {"updateStrategy": given, "volumeClaimTemplates": [{}]}}
    apply_defaults(obj, "apps.v1.StatefulSet")
    assert obj["spec"]["updateStrategy"] == wanted
    assert obj["spec"]["volumeClaimTemplates"] == [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "status": {"phase": "Pending"}}
    ]


def test_the_jobs_of_a_cron_job_get_their_defaults_when_they_are_made() -> None:
    template = {"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}
    cron: dict[str, Any] = {"spec": {"jobTemplate": template}}
    apply_defaults(cron, "batch.v1.CronJob")
    assert set(cron["spec"]["jobTemplate"]["spec"]) == {"template"}
    assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"] == "ClusterFirst"
    failures = {"rules": [{"onPodConditions": [{"type": "DisruptionTarget"}]}]}
    job: dict[str, Any] = {"spec": {"podFailurePolicy": failures}}
    apply_defaults(job, "batch.v1.Job")
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert failures["rules"][0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_zero_is_left_out_where_it_says_nothing() -> None:
    level: dict[str, Any] = {"spec": {"limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Queue"}}}}
    level["spec"]["limited"]["limitResponse"]["queuing"] = {"queues": 0, "handSize": 3}
    apply_defaults(level, "flowcontrol.v1.PriorityLevelConfiguration")
    limited = level["spec"]["limited"]
    assert limited["nominalConcurrencyShares"] == 0
    assert limited["limitResponse"]["queuing"] == {"queues": 64, "handSize": 3, "queueLengthLimit": 50}


def test_volumes_have_their_defaults_and_inline_ones_do_not() -> None:
    volume: dict[str, Any] = {"spec": {"csi": {"driver": "d"}}}
    apply_defaults(volume, "core.v1.PersistentVolume")
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert volume["spec"]["volumeMode"] == "Filesystem"
    attachment: dict[str, Any] = {"spec": {"source": {"inlineVolumeSpec": {"csi": {"driver": "d"}}}}}
    apply_defaults(attachment, "storage.v1.VolumeAttachment")
    assert attachment["spec"]["source"]["inlineVolumeSpec"] == {"csi": {"driver": "d"}}
