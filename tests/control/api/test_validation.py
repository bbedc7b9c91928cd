"""Validation: the faults that people make, in the words that they find on the web."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.meta import Object
from control.api.resources import Resource, by_plural
from control.api.validation import ip_forms, names
from control.api.validation.objects import validate
from control.api.validation.tables import CHECKS, NEW_CHECKS, STATUS_CHECKS, UPDATE_CHECKS
from tests.control.api import validating

POD_SPEC: dict[str, Any] = {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]}
TEMPLATE: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": POD_SPEC}
WORKLOAD: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE}
JOB_TEMPLATE: dict[str, Any] = {"spec": {**POD_SPEC, "restartPolicy": "Never"}}
CLAIM: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
REQUEST = (
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHTE1EOENBUUF3RERFS01BZ0dBMVVFQXd3QllUQXFNQVVHQXl0"
    "bGNBTWhBQVppM0JBd21Fd21IZEYvc3NqWQpuYnJWQjcwV09YQm9uMm4xb2NobXFqdVVvQUF3QlFZREsyVndBMEVBSWIrZEVnd2ZI"
    "VjhnR05xcXpoUXdxYWRQCnQxdEViVDFwOW5sbXlML3YwN3MxQ0JDcS93YWd1NE0xQ3poRFFlOERXQSt1UkEraW92bjQwM0xsSFEy"
    "SkJBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg=="
)
"""A request for a certificate, signed with its key."""
OBJECTS: dict[str, dict[str, Any]] = {
    "/pods": {"spec": POD_SPEC},
    "/services": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
    "/configmaps": {"data": {"a.b": "c"}},
    "/secrets": {"stringData": {"a": "b"}},
    "/namespaces": {},
    "/nodes": {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}},
    "/serviceaccounts": {},
    "/endpoints": {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]},
    "/events": {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "x"}, "reason": "x"},
    "/persistentvolumeclaims": {"spec": CLAIM},
    "/persistentvolumes": {
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    },
    "/limitranges": {"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}},
    "/resourcequotas": {"spec": {"hard": {"pods": "3"}}},
    "apps/deployments": {"spec": WORKLOAD},
    "apps/replicasets": {"spec": WORKLOAD},
    "apps/daemonsets": {"spec": WORKLOAD},
    "apps/statefulsets": {
        "spec": {
            "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": CLAIM}],
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]
                },
            },
        },
    },
    "batch/jobs": {"spec": {"template": JOB_TEMPLATE, "selector": {}}},
    "batch/cronjobs": {"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": JOB_TEMPLATE}}}},
    "policy/poddisruptionbudgets": {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}},
    "coordination.k8s.io/leases": {"spec": {"holderIdentity": "x", "leaseDurationSeconds": 40}},
    "discovery.k8s.io/endpointslices": {
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}],
    },
    "networking.k8s.io/networkpolicies": {"spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}},
    "networking.k8s.io/ingresses": {
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    },
    "rbac.authorization.k8s.io/roles": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    "rbac.authorization.k8s.io/clusterrolebindings": {
        "roleRef": {"kind": "ClusterRole", "name": "x"}, "subjects": [{"kind": "User", "name": "u"}],
    },
    "storage.k8s.io/storageclasses": {"provisioner": "x.io/y"},
    "scheduling.k8s.io/priorityclasses": {"value": 7},
    "certificates.k8s.io/certificatesigningrequests": {
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving", "usages": ["server auth"],
            "request": REQUEST,
        },
    },
}  # fmt: skip


def made(what: str, changes: dict[str, Any] | None = None) -> tuple[Resource, Object]:
    return validating.made(what, OBJECTS[what], changes)


def faults_of(what: str, changes: dict[str, Any]) -> list[str]:
    resource, obj = made(what, changes)
    return [f"{cause.field}: {cause.message}" for cause in validate(resource, obj)]


@pytest.mark.parametrize("what", OBJECTS)
def test_what_is_right_passes_and_may_be_written_again(what: str) -> None:
    resource, obj = made(what)
    assert validate(resource, obj) == []
    assert validate(resource, copy.deepcopy(obj), obj) == []


CONTAINER = "spec/containers/0"
LABEL_FORM = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


@pytest.mark.parametrize(
    ("what", "changes", "wanted"),
    [
        ("/pods", {f"{CONTAINER}/name": None}, ["spec.containers[0].name: Required value"]),
        ("/pods", {f"{CONTAINER}/image": None}, ["spec.containers[0].image: Required value"]),
        ("/pods", {f"{CONTAINER}/name": "A_b"}, [f'spec.containers[0].name: Invalid value: "A_b": {LABEL_FORM}']),
        ("/pods", {"spec/containers": []}, ["spec.containers: Required value"]),
        (
            "/pods",
            {f"{CONTAINER}/ports/0/containerPort": 70000},
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            "/pods",
            {f"{CONTAINER}/ports/0/protocol": "HTTP"},
            ['spec.containers[0].ports[0].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"'],
        ),
        (
            "/pods",
            {f"{CONTAINER}/volumeMounts": [{"name": "v", "mountPath": "/x"}]},
            ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
        ),
        (
            "/pods",
            {"spec/volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]},
            ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "/pods",
            {f"{CONTAINER}/resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            "/pods",
            {f"{CONTAINER}/livenessProbe": {"periodSeconds": 3}},
            ["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            "/pods",
            {f"{CONTAINER}/imagePullPolicy": "Sometimes"},
            [
                'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                '"IfNotPresent", "Never"'
            ],
        ),
        ("/pods", {"metadata/name": None}, ["metadata.name: Required value: name or generateName is required"]),
        (
            "/pods",
            {"metadata/labels": {"a b": "c"}},
            [
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' "
                "or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or "
                "'123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ],
        ),
        (
            "apps/deployments",
            {"spec/selector": None},
            [
                "spec.selector: Required value",
                'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`',
            ],
        ),
        (
            "apps/deployments",
            {"spec/selector/matchLabels/app": "other"},
            [
                'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template '
                "`labels`"
            ],
        ),
        (
            "apps/deployments",
            {"spec/replicas": -1},
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "apps/deployments",
            {"spec/strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
            ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            "apps/deployments",
            {"spec/strategy": {"type": "Fast"}},
            [
                'spec.strategy: Unsupported value: {"Type":"Fast","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate"'
            ],
        ),
        (
            "apps/deployments",
            {"spec/template/spec/restartPolicy": "Never"},
            ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'],
        ),
        (
            "batch/jobs",
            {"spec/template/spec/restartPolicy": None},
            ['spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'],
        ),
        (
            "batch/cronjobs",
            {"spec/schedule": "* * *"},
            ['spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]'],
        ),
        ("/services", {"spec/ports": []}, ["spec.ports: Required value"]),
        (
            "/services",
            {"spec/ports": [{"port": 80}, {"port": 81}]},
            ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            "/services",
            {"spec/type": "Node"},
            [
                'spec.type: Unsupported value: "Node": supported values: "ClusterIP", "ExternalName", "LoadBalancer", '
                '"NodePort"'
            ],
        ),
        (
            "/services",
            {"spec/trafficDistribution": "Near", "spec/allocateLoadBalancerNodePorts": True},
            [
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                'spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", '
                '"PreferSameZone", "PreferSameNode"',
            ],
        ),
        (
            "/services",
            {"spec/ports/0/nodePort": 30000},
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            "/secrets",
            {"type": "kubernetes.io/tls"},
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        ),
        (
            "/persistentvolumeclaims",
            {"spec": {}},
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ],
        ),
        (
            "rbac.authorization.k8s.io/clusterrolebindings",
            {"roleRef/kind": "Role"},
            ['roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"'],
        ),
        (
            "coordination.k8s.io/leases",
            {"spec/leaseDurationSeconds": 0},
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
    ],
)
def test_what_is_wrong_is_told_as_kubernetes_tells_it(what: str, changes: dict[str, Any], wanted: list[str]) -> None:
    assert faults_of(what, changes) == wanted


def update_faults(what: str, changes: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    resource, before = made(what, old)
    _, after = made(what, {**(old or {}), **changes})
    return [f"{cause.field}: {cause.message}".partition("\n")[0] for cause in validate(resource, after, before)]


@pytest.mark.parametrize(
    ("what", "changes", "wanted"),
    [
        ("/pods", {f"{CONTAINER}/image": "other"}, []),
        (
            "apps/deployments",
            {"spec/selector/matchLabels/b": "c", "spec/template/metadata/labels": {"app": "web", "b": "c"}},
            ['spec.selector: Invalid value: {"matchLabels":{"app":"web","b":"c"}}: field is immutable'],
        ),
        ("apps/deployments", {"spec/replicas": 4}, []),
        (
            "/secrets",
            {"type": "x/y"},
            ['type: Invalid value: "x/y": field is immutable'],
        ),
        (
            "scheduling.k8s.io/priorityclasses",
            {"value": 8},
            ["value: Forbidden: may not be changed in an update."],
        ),
        (
            "/pods",
            {"metadata/name": "y"},
            ['metadata.name: Invalid value: "y": field is immutable'],
        ),
        (
            "/persistentvolumeclaims",
            {"spec/accessModes": ["ReadWriteMany"]},
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and "
                "volumeAttributesClassName for bound claims"
            ],
        ),
    ],
)
def test_what_may_not_change(what: str, changes: dict[str, Any], wanted: list[str]) -> None:
    assert update_faults(what, changes) == wanted


def test_a_pods_spec_stays() -> None:
    assert update_faults("/pods", {"spec/nodeName": "n2"})[0].startswith(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    )


def test_ephemeral_containers_are_only_added() -> None:
    resource, before = made("/pods")
    after = copy.deepcopy(before)
    after["spec"]["ephemeralContainers"] = [{"name": "d", "image": "i", "targetContainerName": "c"}]
    assert validate(resource, after, before, "ephemeralcontainers") == []
    told = [cause.message for cause in validate(resource, before, after, "ephemeralcontainers")]
    assert told == ['Forbidden: existing ephemeral containers "d" may not be removed\n']
    assert [cause.message for cause in validate(resource, after)] == ["Forbidden: cannot be set on create"]


def test_an_immutable_config_map_stays() -> None:
    assert update_faults("/configmaps", {"data/a.b": "d"}, {"immutable": True}) == [
        "data: Forbidden: field is immutable when `immutable` is set"
    ]


def test_a_cluster_ip_stays() -> None:
    old = {"spec/clusterIP": "10.0.0.1", "spec/clusterIPs": ["10.0.0.1"]}
    new = {"spec/clusterIP": "10.0.0.2", "spec/clusterIPs": ["10.0.0.2"]}
    assert update_faults("/services", new, old) == [
        'spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set'
    ]


def test_what_a_load_balancer_was_given_stays() -> None:
    old = {
        "spec/type": "LoadBalancer",
        "spec/externalTrafficPolicy": "Local",
        "spec/healthCheckNodePort": 30001,
        "spec/loadBalancerClass": "a.b/c",
    }
    new = {**old, "spec/healthCheckNodePort": 30002, "spec/loadBalancerClass": "a.b/d"}
    assert update_faults("/services", new, old) == [
        'spec.loadBalancerClass: Invalid value: "a.b/d": may not change once set',
        "spec.healthCheckNodePort: Forbidden: field is immutable",
    ]


def test_status_is_not_asked_for_its_spec() -> None:
    resource, obj = made("apps/deployments", {"spec/selector": None})
    assert validate(resource, obj, obj, "status") == []


def test_every_rule_belongs_to_a_kind() -> None:
    for group, plural, *_ in [*CHECKS, *NEW_CHECKS, *UPDATE_CHECKS, *STATUS_CHECKS]:
        assert by_plural(group, "v1", plural) or by_plural(group, "v2", plural)


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True))
def test_labels_are_names(text: str) -> None:
    assert names.dns_label(text) == names.dns_subdomain(text) == names.label_value(text) == []


@given(st.text(max_size=70))
def test_checks_take_any_text(text: str) -> None:
    for check in (names.dns_label, names.dns_subdomain, names.dns_1035_label, names.qualified_name, names.label_value,
                  names.port_name, names.config_key, names.environment_name, ip_forms.canonical_address, ip_forms.canonical_cidr,
                  ip_forms.canonical_interface):  # fmt: skip
        assert isinstance(check(text), list)
