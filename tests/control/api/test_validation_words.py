"""What Kubernetes says of objects that are wrong, kind by kind; of changes and of statuses too."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.api.test_validation_kinds import ALL, RULES
from tests.control.api.validating import change_faults, faults_of

NETWORKING, STORAGE, FLOW = "networking.k8s.io", "storage.k8s.io", "flowcontrol.apiserver.k8s.io"
ADMISSION, DEVICES = "admissionregistration.k8s.io", "resource.k8s.io"
BAD: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "families": (
        "/services", {"spec/ipFamilies": ["IPv4", "IPv4"], "spec/ipFamilyPolicy": "Both"},
        ['spec.ipFamilies[1]: Duplicate value: "IPv4"',
         'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", '
         '"SingleStack"']),
    "headless and more": (
        "/services", {"spec/clusterIP": "None", "spec/clusterIPs": ["None", "10.0.0.1"]},
        ['spec.clusterIPs: Invalid value: ["None","10.0.0.1"]: \'None\' must be the first and only value']),
    "external name": (
        "/services", {"spec": {"type": "ExternalName", "ipFamilyPolicy": "SingleStack"}},
        ["spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services", "spec.externalName: Required value"]),
    "ranges": (
        "/services", {"spec/loadBalancerSourceRanges": ["10.0.0.0"]},
        ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
         'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or '
         "2001:db8::/64)"]),
    "a slice of the other family": (
        "discovery.k8s.io/endpointslices", {"endpoints/0/addresses": ["fd00::1"]},
        ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address']),
    "a loop": (
        "/endpoints", {"subsets/0/addresses/0/ip": "127.0.0.1"},
        ['subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, '
         "::1/128)"]),
    "no backend": (
        f"{NETWORKING}/ingresses", {"spec/defaultBackend": {}},
        ['spec.defaultBackend: Invalid value: "": resource or service backend is required']),
    "class of an ingress": (
        f"{NETWORKING}/ingressclasses", {"spec/controller": "example.com", "spec/parameters/scope": "Namespace"},
        ['spec.controller: Invalid value: "example.com": must be a domain-prefixed path (such as "acme.io/foo")',
         "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"]),
    "ranges of services": (
        f"{NETWORKING}/servicecidrs", {"spec/cidrs": ["10.0.0.0/16", "10.1.0.0/16"]},
        ['spec.cidrs: Invalid value: ["10.0.0.0/16","10.1.0.0/16"]: may specify no more than one IP for each IP family, '
         "i.e 192.168.0.0/24 and 2001:db8::/64"]),
    "scopes": (
        "/resourcequotas", {"spec": {"hard": {"pods": "1", "odd": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}},
        ['spec.hard[odd]: Invalid value: "odd": must be a standard resource type or fully qualified',
         'spec.hard[odd]: Invalid value: "odd": must be a standard resource for quota',
         'spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes']),
    "limits out of order": (
        "/limitranges", {"spec/limits/0": {"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"},
                                           "default": {"cpu": "3"}, "defaultRequest": {"cpu": "3"}}},
        ['spec.limits[0].min[cpu]: Invalid value: "3": min value 3 is greater than max value 2',
         'spec.limits[0].defaultRequest[cpu]: Invalid value: "3": default request value 3 is greater than max value 2',
         'spec.limits[0].default[cpu]: Invalid value: "2": default value 3 is greater than max value 2']),
    "taints": (
        "/nodes", {"spec/taints/1": {"key": "a", "effect": "NoSchedule"}},
        ['metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect '
         "pair"]),
    "a key for ssh": (
        "/secrets", {"type": "kubernetes.io/ssh-auth"}, ["data[ssh-privatekey]: Required value"]),
    "a holder without a strategy": (
        "coordination.k8s.io/leases", {"spec/preferredHolder": "a"},
        ["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]),
    "a priority of the system": (
        "scheduling.k8s.io/priorityclasses", {"metadata/name": "system-mine"},
        ["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
         "system-mine is not a known system priority class"]),
    "usages": (
        "certificates.k8s.io/certificatesigningrequests", {"spec/signerName": "kubernetes.io/legacy-unknown",
                                                           "spec/usages": ["signing", "signing"]},
        ['spec.usages[1]: Duplicate value: "signing"',
         'spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this '
         "API version"]),
    "webhooks": (
        f"{ADMISSION}/validatingwebhookconfigurations",
        {"webhooks/0/name": "b.example.com", "webhooks/0/admissionReviewVersions": ["v2"],
         "webhooks/0/rules": [{**RULES[0], "resources": ["*", "pods"]}], "webhooks/1/sideEffects": None,
         "webhooks/1/clientConfig/url": "http://user@example.com/?a=b"},
        ['webhooks[0].rules[0].resources: Invalid value: ["*","pods"]: if \'*\' is present, must not specify other '
         "resources without subresources",
         'webhooks[0].admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1',
         "webhooks[1].sideEffects: Required value: must specify one of None, NoneOnDryRun",
         "webhooks[1].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: "
         "https://host[/path]",
         'webhooks[1].clientConfig.url: Invalid value: "user": user information is not permitted in the URL',
         'webhooks[1].clientConfig.url: Invalid value: "a=b": query parameters are not permitted in the URL',
         'webhooks[1].name: Duplicate value: "b.example.com"']),
    "policies": (
        f"{ADMISSION}/validatingadmissionpolicies",
        {"spec/variables/0/name": "in", "spec/validations": [], "spec/auditAnnotations": [], "spec/failurePolicy": "Stop"},
        ['spec.failurePolicy: Unsupported value: "Stop": supported values: "Fail", "Ignore"',
         'spec.variables[0].name: Invalid value: "in": name is not a valid CEL identifier',
         "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
         "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"]),
    "bindings of policies": (
        f"{ADMISSION}/validatingadmissionpolicybindings", {"spec/paramRef/selector": {}, "spec/validationActions": []},
        ["spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
         "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
         "spec.validationActions: Required value: at least one validation action is required"]),
    "flow schemas": (
        f"{FLOW}/flowschemas", {"spec/matchingPrecedence": 10001, "spec/distinguisherMethod/type": "ByName"},
        ["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
         'spec.distinguisherMethod.type: Unsupported value: {"Type":"ByName"}: supported values: "ByNamespace", "ByUser"']),
    "priority levels": (
        f"{FLOW}/prioritylevelconfigurations", {"spec/limited/limitResponse/queuing/handSize": 40},
        ["spec.limited.limitResponse.queuing.handSize: Invalid value: 40: should not be greater than queues (32)"]),
    "volumes of a class": (
        f"{STORAGE}/storageclasses", {"volumeBindingMode": "Later"},
        ['volumeBindingMode: Unsupported value: "Later": supported values: "Immediate", "WaitForFirstConsumer"']),
    "claims to devices": (
        f"{DEVICES}/resourceclaims",
        {"spec/devices/requests/0/exactly/count": -1, "spec/devices/requests/1/name": "one",
         "spec/devices/constraints/0/matchAttribute": "numa", "spec/devices/config/0/opaque/parameters": [1]},
        ["spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
         'spec.devices.requests[1]: Duplicate value: "one"',
         'spec.devices.constraints[0].requests[1]: Invalid value: "any/big": must be the name of a request in the claim or '
         "the name of a request and a subrequest separated by '/'",
         'spec.devices.constraints[0].matchAttribute: Invalid value: "numa": a fully qualified name must be a domain and a '
         "name separated by a slash",
         'spec.devices.config[0].requests[0]: Invalid value: "any": must be the name of a request in the claim or the name '
         "of a request and a subrequest separated by '/'",
         'spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object']),
    "slices of devices": (
        f"{DEVICES}/resourceslices",
        {"spec/allNodes": True, "spec/pool/resourceSliceCount": 0,
         "spec/devices/0/attributes/model": {"version": "1", "int": 3}},
        ["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
         'spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, '
         "`perDeviceNodeSelection` is required, but multiple fields are set",
         'spec.devices[0].attributes[model].version: Invalid value: "1": must be a string compatible with semver.org spec '
         "2.0.0",
         'spec.devices[0].attributes[model]: Invalid value: {"IntValue":3,"BoolValue":null,"StringValue":null,'
         '"VersionValue":"1","IntValues":null,"BoolValues":null,"StringValues":null,"VersionValues":null}: exactly one '
         "value must be specified"]),
    "jobs by index": (
        "batch/jobs", {"spec/completionMode": "Indexed", "spec/parallelism": 2},
        ["spec.completions: Required value: when completion mode is Indexed"]),
    "a long name for jobs": (
        "batch/cronjobs", {"metadata/name": "a" * 53},
        [f'metadata.name: Invalid value: "{"a" * 53}": must be no more than 52 characters']),
    "a policy of stateful sets": (
        "apps/statefulsets", {"spec/podManagementPolicy": "Odd"},
        ['spec.podManagementPolicy: Invalid value: "Odd": must be \'OrderedReady\' or \'Parallel\'']),
    "an autoscaler": (
        "autoscaling/horizontalpodautoscalers", {"spec/minReplicas": 10},
        ["spec.maxReplicas: Invalid value: 9: must be greater than or equal to `minReplicas`"]),
}  # fmt: skip
CHANGES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], list[str]]] = {
    "second address released": (
        "/services", "", {"spec/clusterIP": "10.0.0.1", "spec/clusterIPs": ["10.0.0.1", "fd00::1"]},
        {"spec/clusterIPs": ["10.0.0.1"]},
        ["spec.ipFamilyPolicy: Invalid value: null: must be set to 'SingleStack' when releasing the secondary "
         "clusterIP"]),
    "class of a claim": (
        f"{DEVICES}/resourceslices", "", {}, {"spec/driver": "other.example.com"},
        ['spec.driver: Invalid value: "other.example.com": field is immutable']),
    "ranges grow": (f"{NETWORKING}/servicecidrs", "", {"spec/cidrs": ["10.0.0.0/16"]},
                    {"spec/cidrs": ["10.0.0.0/16", "fd00::/108"]}, []),
    "ranges change": (
        f"{NETWORKING}/servicecidrs", "", {"spec/cidrs": ["10.0.0.0/16"]}, {"spec/cidrs": ["10.1.0.0/16"]},
        ['spec.cidrs[0]: Invalid value: "10.1.0.0/16": field is immutable']),
    "a decision taken back": (
        "certificates.k8s.io/certificatesigningrequests", "approval",
        {"status/conditions": [{"type": "Approved", "status": "True"}]}, {"status/conditions": []},
        ['status.conditions: Forbidden: updates may not remove a condition of type "Approved"']),
    "a decision by status": (
        "certificates.k8s.io/certificatesigningrequests", "status", {},
        {"status/conditions": [{"type": "Approved", "status": "True"}]},
        ['status.conditions: Forbidden: updates may not add a condition of type "Approved"']),
    "a certificate that is none": (
        "certificates.k8s.io/certificatesigningrequests", "status", {}, {"status/certificate": "eA=="},
        ['status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block']),
    "counts": (
        "apps/deployments", "status", {}, {"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": -1}},
        ["status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
         "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]),
    "pods that are less than none": (
        "batch/jobs", "status", {}, {"status": {"active": -1}},
        ["status.active: Invalid value: -1: must be greater than or equal to 0",
         "status.ready: Invalid value: 0: cannot set more ready pods than active"]),
    "phase": (
        "/namespaces", "status", {}, {"status/phase": "Terminating"},
        ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]),
    "a balancer's address": (
        "/services", "status", {}, {"status/loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}},
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]),
    "for whom a device is": (
        f"{DEVICES}/resourceclaims", "status", {},
        {"status/reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]},
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_in_kubernetes_words(name: str) -> None:
    what, changes, wanted = BAD[name]
    assert faults_of(what, ALL[what], changes) == wanted


@pytest.mark.parametrize("name", CHANGES)
def test_what_may_not_change_is_told(name: str) -> None:
    what, subresource, before, changes, wanted = CHANGES[name]
    assert change_faults(what, ALL[what], changes, subresource, before) == wanted
