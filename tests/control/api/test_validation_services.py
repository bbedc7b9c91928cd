"""Rules of services, quotas and nodes one by one: a small object, one change, every fault in Kubernetes' order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.api.validating import change_faults, faults_of

SERVICE: dict[str, Any] = {
    "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, "internalTrafficPolicy": "Cluster"}
}
ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
SET_ONCE = "may not change once set"
V4, V6 = "10.0.0.1", "fd00::1"
DUAL = {"spec/clusterIP": V4, "spec/clusterIPs": [V4, V6], "spec/ipFamilies": ["IPv4", "IPv6"],
        "spec/ipFamilyPolicy": "PreferDualStack"}  # fmt: skip
BALANCED = {"spec/type": "LoadBalancer", "spec/allocateLoadBalancerNodePorts": True,
            "spec/externalTrafficPolicy": "Cluster"}  # fmt: skip
Cases = dict[str, tuple[dict[str, Any], list[str]]]

NEW: Cases = {
    "hints that differ": (
        {"metadata": {"name": "x", "namespace": "default", "annotations": {
            "service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "Disabled"}}},
        ['metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "Auto": must match '
         "annotations[service.kubernetes.io/topology-aware-hints] when both are specified"]),
    "the kubelet's port": ({**BALANCED, "spec/ports/0/port": 10250}, []),
    "a name that begins with a digit": ({"metadata/name": "1st"}, []),
    "affinity without a config": ({"spec/sessionAffinity": "ClientIP", "spec/sessionAffinityConfig": {}}, []),
    "affinity for too long": (
        {"spec/sessionAffinity": "ClientIP", "spec/sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
        ["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than "
         "86400"]),
    "addresses without the first": (
        {"spec/clusterIPs": [V4]},
        ['spec.clusterIPs: Invalid value: ["10.0.0.1"]: must be empty when `clusterIP` is not specified']),
    "zeros before a number": (
        {"spec/externalIPs": ["010.0.0.1"]},
        ['spec.externalIPs[0]: Invalid value: "010.0.0.1": must not have leading 0s']),
    "a loopback address": (
        {"spec/externalIPs": ["127.0.0.1"], "spec/externalTrafficPolicy": "Cluster"},
        ['spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)']),
    "an empty internal policy": (
        {"spec/internalTrafficPolicy": ""},
        ['spec.internalTrafficPolicy: Unsupported value: "": supported values: "Cluster", "Local"']),
    "no port for health checks": (
        {**BALANCED, "spec/externalTrafficPolicy": "Local"}, ["spec.healthCheckNodePort: Required value"]),
    "a port for health checks of none": (
        {"spec/healthCheckNodePort": 30001},
        ["spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and "
         "`externalTrafficPolicy` is 'Local'"]),
    "a class of balancers": (
        {"spec/loadBalancerClass": "a.b/c"},
        ["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"]),
    "a range with bits behind it": (
        {**BALANCED, "spec/loadBalancerSourceRanges": ["10.0.0.1/8"]},
        ['spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length']),
    "one port twice": (
        {"spec/ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
        ['spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,'
         '"NodePort":0}']),
    "a name for ExternalName": (
        {"spec/type": "ExternalName", "spec/externalName": "-a.b."},
        ['spec.externalName: Invalid value: "-a.b": a lowercase RFC 1123 subdomain must consist of lower case '
         "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. "
         r"'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]),
}  # fmt: skip
CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "another address": (
        DUAL, {"spec/clusterIP": "10.0.0.2", "spec/clusterIPs": ["10.0.0.2", V6]},
        [f'spec.clusterIPs[0]: Invalid value: ["10.0.0.2","fd00::1"]: {SET_ONCE}']),
    "the second address goes": (
        DUAL, {"spec/clusterIPs": [V4], "spec/ipFamilies": ["IPv4"], "spec/ipFamilyPolicy": "SingleStack"}, []),
    "the second address goes in silence": (
        DUAL, {"spec/clusterIPs": [V4], "spec/ipFamilies": ["IPv4"]},
        ['spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to \'SingleStack\' when releasing the '
         f"secondary {word}" for word in ("clusterIP", "ipFamily")]),
    "other families": (
        DUAL, {"spec/ipFamilies": ["IPv6", "IPv4"]},
        [f'spec.ipFamilies[0]: Invalid value: ["IPv6","IPv4"]: {SET_ONCE}'] * 2
        + ['spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`',
           'spec.clusterIPs[1]: Invalid value: "fd00::1": expected an IPv4 value as indicated by `ipFamilies[1]`']),
    "to ExternalName": (
        {"spec/clusterIP": V4, "spec/clusterIPs": [V4]},
        {"spec/type": "ExternalName", "spec/externalName": "a.b", "spec/clusterIP": "", "spec/clusterIPs": []}, []),
    "another class of balancers": (
        {**BALANCED, "spec/loadBalancerClass": "a.b/c"}, {"spec/loadBalancerClass": "a.b/d"},
        [f'spec.loadBalancerClass: Invalid value: "a.b/d": {SET_ONCE}']),
    "another port for health checks": (
        {**BALANCED, "spec/externalTrafficPolicy": "Local", "spec/healthCheckNodePort": 30001},
        {"spec/healthCheckNodePort": 30002}, ["spec.healthCheckNodePort: Forbidden: field is immutable"]),
    "what may not change comes first": (
        {**DUAL}, {"spec/clusterIPs": [V4, "fd00::2"], "spec/ports/0/port": 0},
        [f'spec.clusterIPs[1]: Invalid value: ["10.0.0.1","fd00::2"]: {SET_ONCE}',
         "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
         "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NEW)
def test_a_service(name: str) -> None:
    changes, wanted = NEW[name]
    assert faults_of("/services", SERVICE, changes) == wanted


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_of_a_service(name: str) -> None:
    before, changes, wanted = CHANGED[name]
    assert change_faults("/services", SERVICE, changes, before=before) == wanted


QUOTA: dict[str, Any] = {"spec": {"hard": {"pods": "1", "requests.storage": "1Gi"}}}
EXISTS = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)
LIMITS: dict[str, Any] = {"spec": {"limits": [{"type": "Container"}]}}
NODE: dict[str, Any] = {"metadata": {"namespace": ""}, "spec": {}}
OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "an unknown scope": (
        "/resourcequotas", QUOTA, {"spec/scopes": ["Odd"]}, ['spec.scopes: Invalid value: ["Odd"]: unsupported scope']),
    "a scope that another resource lacks": (
        "/resourcequotas", QUOTA, {"spec/scopes": ["BestEffort"]},
        ['spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource']),
    "a selector": (
        "/resourcequotas", QUOTA,
        {"spec/scopeSelector": {"matchExpressions": [
            {"scopeName": "Terminating", "operator": "In"}, {"scopeName": "NotTerminating", "operator": "Exists"}]}},
        ['spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"Terminating",'
         '"Operator":"In","Values":null},{"ScopeName":"NotTerminating","Operator":"Exists","Values":null}]}: '
         "unsupported scope applied to resource",
         f'spec.scopeSelector.matchExpressions.operator: Invalid value: "In": {EXISTS}',
         "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' "
         "or 'NotIn' for scope selector",
         'spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"Terminating",'
         '"Operator":"In","Values":null},{"ScopeName":"NotTerminating","Operator":"Exists","Values":null}]}: '
         "unsupported scope applied to resource",
         "spec.scopeSelector.matchExpressions: Invalid value: null: conflicting scopes"]),
    "limits out of order": (
        "/limitranges", LIMITS,
        {"spec/limits/0": {"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"},
                           "maxLimitRequestRatio": {"cpu": "0.5"}}},
        ['spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
         'spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1',
         'spec.limits[0].default[cpu]: Invalid value: "2": min value 2 is greater than default value 1',
         'spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1']),
    "a pod's defaults": (
        "/limitranges", LIMITS, {"spec/limits/0": {"type": "Pod", "default": {"cpu": "1"}}},
        ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]),
    "a node's capacity": (
        "/nodes", NODE, {"status": {"capacity": {"cpu": "-1"}, "allocatable": {"cpu": "1"}}},
        ['status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0']),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_quotas_limits_and_nodes(name: str) -> None:
    what, obj, changes, wanted = OTHERS[name]
    assert faults_of(what, obj, changes) == wanted


NODE_CHANGES: Cases = {
    "it may be cordoned": ({"spec/unschedulable": True}, []),
    "its range stays": (
        {"spec/podCIDRs": ["10.1.0.0/24"]},
        ['spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid']),
    "its provider stays": (
        {"spec/providerID": "b"},
        ['spec.providerID: Forbidden: node updates may not change providerID except from "" to valid']),
    "its old name stays": ({"spec/externalID": "b"}, ["spec.externalID: Forbidden: may not be updated"]),
    "its configuration": (
        {"spec/configSource": {"configMap": {"uid": "u", "name": "a", "namespace": "b", "kubeletConfigKey": ""}}},
        ["spec.configSource.configMap.uid: Forbidden: uid must not be set in spec",
         "spec.configSource.configMap.kubeletConfigKey: Required value"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NODE_CHANGES)
def test_a_change_of_a_node(name: str) -> None:
    changes, wanted = NODE_CHANGES[name]
    before = {"spec/podCIDRs": ["10.0.0.0/24"], "spec/providerID": "a", "spec/externalID": "a"}
    assert change_faults("/nodes", NODE, changes, before=before) == wanted


def test_finalizers_of_a_namespace() -> None:
    found = change_faults("/namespaces", {"metadata": {"namespace": ""}}, {"spec/finalizers": ["odd"]}, "finalize")
    assert found == [
        'spec.finalizers[0]: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified'
    ]
