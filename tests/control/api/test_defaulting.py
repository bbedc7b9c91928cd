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
