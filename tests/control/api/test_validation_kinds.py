"""Every built-in kind that clients may write has rules, and an object that is right passes all of them."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.resources import catalog
from control.api.validation.objects import validate
from control.api.validation.tables import CHECKS
from tests.control.api.test_validation import OBJECTS
from tests.control.api.validating import change_faults, faults_of, made

TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
DEVICES = {
    "requests": [
        {"name": "one", "exactly": {"deviceClassName": "gpu.example.com", "tolerations": [{"key": "a"}],
                                    "selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}},
        {"name": "any", "firstAvailable": [{"name": "big", "deviceClassName": "big", "count": 2},
                                           {"name": "all", "deviceClassName": "small", "allocationMode": "All"}]},
    ],
    "constraints": [{"requests": ["one", "any/big"], "matchAttribute": "example.com/numa"}],
    "config": [{"requests": ["any"], "opaque": {"driver": "gpu.example.com", "parameters": {"a": 1}}}],
}  # fmt: skip
RULES = [
    {"apiGroups": ["*"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods", "*/scale"]}
]
WEBHOOKS = {
    "webhooks": [
        {"name": "a.example.com", "rules": RULES, "sideEffects": "None", "admissionReviewVersions": ["v1", "v2"],
         "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/a/b"}},
         "matchConditions": [{"name": "some", "expression": "object.metadata.name != 'x'"}]},
        {"name": "b.example.com", "rules": RULES, "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1beta1"],
         "clientConfig": {"url": "https://example.com/hook"}},
    ],
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "/podtemplates": {"template": TEMPLATE},
    "/replicationcontrollers": {"spec": {"selector": {"a": "b"}, "template": TEMPLATE}},
    "apps/controllerrevisions": {"revision": 1, "data": {"a": 1}},
    "autoscaling/horizontalpodautoscalers": {
        "spec": {
            "maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "metrics": [{"type": "External", "external": {"metric": {"name": "queue"},
                                                          "target": {"type": "AverageValue", "averageValue": "30"}}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        },
    },
    "admissionregistration.k8s.io/validatingadmissionpolicies": {
        "spec": {
            "matchConstraints": {"resourceRules": [{**RULES[0], "resourceNames": ["a"]}]},
            "paramKind": {"apiVersion": "rules.example.com/v1", "kind": "Limit"},
            "variables": [{"name": "wanted", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.wanted < 5", "message": "too many", "reason": "Invalid"}],
            "auditAnnotations": [{"key": "seen", "valueExpression": "'yes'"}],
        },
    },
    "admissionregistration.k8s.io/validatingadmissionpolicybindings": {
        "spec": {"policyName": "p", "validationActions": ["Deny", "Audit"],
                 "paramRef": {"name": "l", "parameterNotFoundAction": "Deny"},
                 "matchResources": {"namespaceSelector": {"matchLabels": {"a": "b"}}}},
    },
    "admissionregistration.k8s.io/mutatingwebhookconfigurations": WEBHOOKS,
    "admissionregistration.k8s.io/validatingwebhookconfigurations": WEBHOOKS,
    "events.k8s.io/events": {
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Started", "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Start", "note": "n",
        "reportingController": "example.com/c", "reportingInstance": "c-0",
    },
    "flowcontrol.apiserver.k8s.io/flowschemas": {
        "spec": {
            "matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "low"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}},
                             {"kind": "Group", "group": {"name": "system:nodes"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
                                   "clusterScope": True}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*"]}],
            }],
        },
    },
    "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations": {
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 32}},
                                                "lendablePercent": 50, "borrowingLimitPercent": 100}},
    },
    "networking.k8s.io/ingressclasses": {
        "spec": {"controller": "example.com/ingress", "parameters": {"kind": "P", "name": "p", "apiGroup": "example.com"}},
    },
    "networking.k8s.io/ipaddresses": {
        "metadata": {"name": "10.0.0.7"}, "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "n"}},
    },
    "networking.k8s.io/servicecidrs": {"spec": {"cidrs": ["10.0.0.0/16", "fd00::/108"]}},
    "node.k8s.io/runtimeclasses": {
        "handler": "runc", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
        "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}]},
    },
    "rbac.authorization.k8s.io/clusterroles": {
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
    },
    "rbac.authorization.k8s.io/rolebindings": {
        "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "a"}],
    },
    "resource.k8s.io/deviceclasses": {
        "spec": {"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "example.com/gpu"},
    },
    "resource.k8s.io/resourceclaims": {"spec": {"devices": DEVICES}},
    "resource.k8s.io/resourceclaimtemplates": {"spec": {"spec": {"devices": DEVICES}}},
    "resource.k8s.io/resourceslices": {
        "spec": {
            "driver": "gpu.example.com", "nodeName": "n", "pool": {"name": "n/a", "resourceSliceCount": 1},
            "devices": [
                {"name": "gpu-0", "attributes": {"model": {"string": "A"}, "example.com/version": {"version": "1.2.3"}},
                 "capacity": {"memory": {"value": "40Gi", "requestPolicy": {
                     "default": "1Gi", "validRange": {"min": "1Gi", "max": "8Gi", "step": "1Gi"}}}},
                 "allowMultipleAllocations": True, "taints": [{"key": "a", "effect": "NoSchedule"}]},
            ],
        },
    },
    "storage.k8s.io/csidrivers": {"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 3600}]}},
    "storage.k8s.io/csinodes": {
        "spec": {"drivers": [{"name": "d.example.com", "nodeID": "n", "topologyKeys": ["a/b"], "allocatable": {"count": 3}}]},
    },
    "storage.k8s.io/csistoragecapacities": {"storageClassName": "fast", "capacity": "1Gi", "nodeTopology": {}},
    "storage.k8s.io/volumeattachments": {
        "spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}},
    },
    "storage.k8s.io/volumeattributesclasses": {"driverName": "d.example.com", "parameters": {"iops": "1"}},
}  # fmt: skip
ALL = {**OBJECTS, **MORE}
NO_RULES = {("", "serviceaccounts")}
"""Metadata is all that is checked of these."""
ELSEWHERE = {("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")}


@pytest.mark.parametrize("what", MORE)
def test_what_is_right_passes(what: str) -> None:
    assert faults_of(what, MORE[what]) == []


@pytest.mark.parametrize("what", MORE)
def test_what_stands_may_be_written_again(what: str) -> None:
    for subresource in ("", "status"):
        assert change_faults(what, MORE[what], {}, subresource) == []


def test_every_kind_that_may_be_written_has_rules_and_an_example() -> None:
    written = {(s.resource.group, s.resource.plural) for s in catalog() if "update" in s.verbs} - ELSEWHERE
    policies = {name for name in written if name[1].startswith("mutatingadmissionpolic")}
    assert written - NO_RULES - set(CHECKS) == set()
    assert {f"{group}/{plural}" for group, plural in written - policies} - set(ALL) == set()


def test_what_was_wrong_before_a_rule_may_stay_but_not_grow() -> None:
    old = {"spec/rules/0/http/paths/0/backend/service/port/name": "Bad_Name"}
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"name": "p"}}}}
    ingress = {"spec": {"rules": [{"http": {"paths": [path]}}]}}
    what = "networking.k8s.io/ingresses"
    assert faults_of(what, ingress, old)
    assert change_faults(what, ingress, {"metadata/labels": {"a": "b"}}, before=old) == []
    assert change_faults(what, ingress, {"spec/rules/0/host": "1.2.3.4"}, before=old) == [
        'spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address'
    ]


@pytest.mark.parametrize("what", ALL)
def test_an_empty_object_is_refused_or_has_no_needs(what: str) -> None:
    resource, obj = made(what, {})
    causes = validate(resource, obj)
    assert all(cause.message for cause in causes)
    assert len({(cause.field, cause.message) for cause in causes}) == len(causes)
