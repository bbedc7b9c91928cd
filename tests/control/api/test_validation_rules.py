"""Rules of the lesser kinds, case by case: the path, the value that is shown, the words, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import flowcontrol
from control.api.meta import Object
from control.api.validation import ip_forms
from control.api.validation.faults import shown
from control.api.validation.internal import internal
from tests.control.api.test_validation_kinds import ALL
from tests.control.api.validating import change_faults, faults_of

NETWORKING, DEVICES, FLOW, STORAGE = (
    "networking.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "storage.k8s.io",
)
RBAC, ADMISSION, CERTIFICATES = "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "certificates.k8s.io"
ZEROS = "must not have leading 0s"
MAPPED = "must not be an IPv4-mapped IPv6 address"
EXEMPT: Object = {
    "metadata": {"name": "exempt"},
    "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}},
}
CATCH_ALL: Object = {
    "metadata": {"name": "catch-all"},
    "spec": next(each["spec"] for each in flowcontrol.flow_schemas() if each["metadata"]["name"] == "catch-all"),
}


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        ("10.9.8.7", [], []),
        ("2001:db8::ffff", [], []),
        ("2001:DB8:0::ffff", [], ['must be in canonical form ("2001:db8::ffff")']),
        ("010.009.8.7", [ZEROS], [ZEROS]),
        ("::ffff:1.2.3.4", [MAPPED], [MAPPED]),
        ("::ffff:01.2.3.4", [ZEROS], [ZEROS]),
        ("10.9.8", [ip_forms.BAD_ADDRESS], [ip_forms.BAD_ADDRESS]),
        ("fe80::1%eth0", [ip_forms.BAD_ADDRESS], [ip_forms.BAD_ADDRESS]),
        ("10.9.8.256", [ip_forms.BAD_ADDRESS], [ip_forms.BAD_ADDRESS]),
    ],
)  # fmt: skip
def test_addresses(text: str, lenient: list[str], strict: list[str]) -> None:
    assert ip_forms.address(text) == lenient
    assert ip_forms.canonical_address(text) == strict


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        ("10.0.0.0/8", [], []),
        ("::/0", [], []),
        ("2001:DB8::/64", [], ['must be in canonical form ("2001:db8::/64")']),
        ("10.0.0.0/08", [f"{ZEROS} in IP or prefix length"], [f"{ZEROS} in IP or prefix length"]),
        ("010.0.0.0/8", [f"{ZEROS} in IP or prefix length"], [f"{ZEROS} in IP or prefix length"]),
        ("192.168.0.5/24", ["must not have bits set beyond the prefix length"], ["must not have bits set beyond the prefix length"]),
        ("10.0.0.0/33", [ip_forms.BAD_CIDR], [ip_forms.BAD_CIDR]),
        ("10.0.0.0/+8", [ip_forms.BAD_CIDR], [ip_forms.BAD_CIDR]),
        ("10.0.0.0", [ip_forms.BAD_CIDR], [ip_forms.BAD_CIDR]),
    ],
)  # fmt: skip
def test_ranges(text: str, lenient: list[str], strict: list[str]) -> None:
    assert ip_forms.cidr(text) == lenient
    assert ip_forms.canonical_cidr(text) == strict


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("plain", '"plain"'), ('say "a\\b"', '"say \\"a\\\\b\\""'), ("a\nb\x01", '"a\\nb\\x01"'),
        ("Grüße ☃", '"Grüße ☃"'), ("\u200b", '"\\u200b"'), (None, "null"), (True, "true"), (3, "3"),
        (["a", "b"], '["a","b"]'),
    ],
)  # fmt: skip
def test_values_are_shown_as_go_shows_them(value: Any, wanted: str) -> None:
    assert shown(value) == wanted


def test_structures_are_shown_with_all_their_fields() -> None:
    wanted = {"PersistentVolumeName": "v", "InlineVolumeSpec": None}
    assert internal(f"{STORAGE.split('.')[0]}.v1.VolumeAttachmentSource", {"persistentVolumeName": "v"}) == wanted
    assert internal("core.v1.HTTPGetAction", {"port": 80}) == {
        "Path": "", "Port": 80, "Host": "", "Scheme": "", "HTTPHeaders": None,
    }  # fmt: skip
    assert internal("core.v1.EventSource", None) is None


BAD: dict[str, tuple[str, Object, dict[str, Any], list[str]]] = {
    "an ingress of nothing": (
        f"{NETWORKING}/ingresses", {"spec": {}}, {},
        ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]),
    "three ranges of services": (
        f"{NETWORKING}/servicecidrs", {"spec": {"cidrs": ["10.0.0.0/8", "fd00::/8", "fc00::/8"]}}, {},
        ['spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/8","fd00::/8","fc00::/8"]}: may only hold up to 2 values']),
    "two ranges of one family": (
        f"{NETWORKING}/servicecidrs", {"spec": {"cidrs": ["10.0.0.0/8", "11.0.0.0/8"]}}, {},
        ['spec.cidrs: Invalid value: ["10.0.0.0/8","11.0.0.0/8"]: may specify no more than one IP for each IP family, '
         "i.e 192.168.0.0/24 and 2001:db8::/64"]),
    "an address that is not its own name": (
        f"{NETWORKING}/ipaddresses", ALL[f"{NETWORKING}/ipaddresses"], {"metadata/name": "2001:DB8::1"},
        ['metadata.name: Invalid value: "2001:DB8::1": must be in canonical form ("2001:db8::1")']),
    "the exempt level made a limited one": (
        f"{FLOW}/prioritylevelconfigurations", EXEMPT, {"spec/limited": {"limitResponse": {"type": "Reject"}}},
        ["spec.limited: Forbidden: must be nil if the type is not Limited",
         'spec: Invalid value: {"Type":"Exempt","Limited":{"NominalConcurrencyShares":30,"LimitResponse":{"Type":'
         '"Reject","Queuing":null},"LendablePercent":0,"BorrowingLimitPercent":null},"Exempt":{'
         '"NominalConcurrencyShares":0,"LendablePercent":0}}: spec of \'exempt\' except the \'spec.exempt\' field must '
         "equal the fixed value"]),
    "seats of the exempt level": (
        f"{FLOW}/prioritylevelconfigurations", EXEMPT,
        {"spec/exempt": {"nominalConcurrencyShares": -1, "lendablePercent": 101}},
        ["spec.exempt.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
         "spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"]),
    "a version that a policy's parameters lack": (
        f"{ADMISSION}/validatingadmissionpolicies", ALL[f"{ADMISSION}/validatingadmissionpolicies"],
        {"spec/paramKind/apiVersion": "rules.example.com/"},
        ['spec.paramKind.apiVersion: Invalid value: "rules.example.com/": version must be specified']),
    "messages of policies": (
        f"{ADMISSION}/validatingadmissionpolicies", ALL[f"{ADMISSION}/validatingadmissionpolicies"],
        {"spec/validations/0/message": "a\rb", "spec/validations/0/reason": "Unauthorized"},
        ['spec.validations[0].message: Invalid value: "a\\rb": message must not contain line breaks',
         'spec.validations[0].reason: Unsupported value: "Unauthorized": supported values: "Forbidden", "Invalid", '
         '"RequestEntityTooLarge"']),
    "actions of a binding": (
        f"{ADMISSION}/validatingadmissionpolicybindings", ALL[f"{ADMISSION}/validatingadmissionpolicybindings"],
        {"spec/validationActions": ["Stop", "Stop"], "spec/policyName": "", "spec/matchResources": {"matchPolicy": "x"}},
        ["spec.policyName: Required value",
         'spec.matchResouces.matchPolicy: Unsupported value: "x": supported values: "Equivalent", "Exact"',
         'spec.validationActions[0]: Unsupported value: "Stop": supported values: "Audit", "Deny", "Warn"',
         'spec.validationActions[1]: Unsupported value: "Stop": supported values: "Audit", "Deny", "Warn"',
         'spec.validationActions[1]: Duplicate value: "Stop"']),
    "usages of a certificate": (
        f"{CERTIFICATES}/certificatesigningrequests", ALL[f"{CERTIFICATES}/certificatesigningrequests"],
        {"spec/request": "YWJj", "spec/usages": [], "spec/expirationSeconds": 599},
        ['spec.request: Invalid value: "YWJj": PEM block type must be CERTIFICATE REQUEST',
         "spec.usages: Required value",
         "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"]),
    "an event of the old form in the new group": (
        "events.k8s.io/events", ALL["events.k8s.io/events"],
        {"series": {"count": 1}, "deprecatedCount": 2, "deprecatedSource": {"host": "n"},
         "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z"},
        ['series.count: Invalid value: "": should be at least 2', "series.lastObservedTime: Required value",
         'firstTimestamp: Invalid value: "": needs to be unset', 'count: Invalid value: "": needs to be unset',
         'source: Invalid value: "": needs to be unset']),
    "an event of nothing in particular": (
        "events.k8s.io/events", ALL["events.k8s.io/events"], {"regarding/namespace": "", "metadata/namespace": "n"},
        ['involvedObject.namespace: Invalid value: "": does not match event.namespace']),
    "capacities by request": (
        f"{DEVICES}/resourceslices", ALL[f"{DEVICES}/resourceslices"],
        {"spec/devices/0/allowMultipleAllocations": True,
         "spec/devices/0/capacity": {"memory": {"value": "10Gi", "requestPolicy": {
             "default": "1Gi", "validRange": {"min": "2Gi", "max": "20Gi"}}}}},
        ['spec.devices[0].capacity[memory].requestPolicy.validRange.min: Invalid value: "1Gi": default is less than min: '
         "2Gi",
         'spec.devices[0].capacity[memory].requestPolicy.validRange.max: Invalid value: "20Gi": max is larger than '
         "capacity value: 10Gi"]),
    "names of attributes": (
        f"{DEVICES}/resourceslices", ALL[f"{DEVICES}/resourceslices"],
        {"spec/devices/0/attributes": {"/x": {"bool": True}, "a/b/c": {"bool": True}}},
        ['spec.devices[0].attributes[/x]: Invalid value: "": the domain must not be empty']),
    "metadata of a template of claims": (
        f"{DEVICES}/resourceclaimtemplates", ALL[f"{DEVICES}/resourceclaimtemplates"],
        {"spec/metadata": {"name": "n", "labels": {"a": "b"}}}, ["spec.metadata.name: Forbidden: cannot be set"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong(name: str) -> None:
    what, obj, changes, wanted = BAD[name]
    assert faults_of(what, obj, changes) == wanted


def test_fixed_objects_pass() -> None:
    assert faults_of(f"{FLOW}/prioritylevelconfigurations", EXEMPT) == []
    assert faults_of(f"{FLOW}/flowschemas", CATCH_ALL) == []
    more = {"spec/exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 10}}
    assert faults_of(f"{FLOW}/prioritylevelconfigurations", EXEMPT, more) == []


APPROVED = {"type": "Approved", "status": "True", "reason": "R", "message": "m"}
CHANGES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], list[str]]] = {
    "another role": (
        f"{RBAC}/rolebindings", "", {}, {"roleRef/name": "other"},
        ['roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"other"}: cannot '
         "change roleRef"]),
    "another holder of an address": (
        f"{NETWORKING}/ipaddresses", "", {}, {"spec/parentRef/name": "other"},
        ['spec.parentRef: Invalid value: {"Group":"","Resource":"services","Namespace":"n","Name":"other"}: field is '
         "immutable"]),
    "a range more, and a wrong one": (
        f"{NETWORKING}/servicecidrs", "", {"spec/cidrs": ["10.0.0.0/16"]}, {"spec/cidrs": ["10.0.0.0/16", "11.0.0.1/16"]},
        ['spec.cidrs[1]: Invalid value: "11.0.0.1/16": must not have bits set beyond the prefix length',
         'spec.cidrs: Invalid value: ["10.0.0.0/16","11.0.0.1/16"]: may specify no more than one IP for each IP family, '
         "i.e 192.168.0.0/24 and 2001:db8::/64"]),
    "another weight, beyond the limit": (
        "scheduling.k8s.io/priorityclasses", "", {}, {"value": 2_000_000_000},
        ["value: Forbidden: may not be changed in an update."]),
    "both decisions": (
        f"{CERTIFICATES}/certificatesigningrequests", "approval", {"status/conditions": [APPROVED]},
        {"status/conditions": [APPROVED, {**APPROVED, "type": "Denied"}]},
        ['status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive']),
    "a decision explained anew": (
        f"{CERTIFICATES}/certificatesigningrequests", "approval", {"status/conditions": [APPROVED]},
        {"status/conditions": [{**APPROVED, "message": "other"}]}, []),
    "a decision taken back by the signer": (
        f"{CERTIFICATES}/certificatesigningrequests", "status", {"status/conditions": [APPROVED]},
        {"status/conditions": []},
        ['status.conditions: Forbidden: updates may not remove a condition of type "Approved"']),
    "a certificate that is none": (
        f"{CERTIFICATES}/certificatesigningrequests", "status", {},
        {"status/certificate": "LS0tLS1CRUdJTiBLRVktLS0tLQpBQUFBCi0tLS0tRU5EIEtFWS0tLS0tCg=="},
        ['status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found "KEY"']),
    "another event": (
        "events.k8s.io/events", "", {}, {"note": "other", "regarding/name": "q"},
        ['involvedObject: Invalid value: {"Kind":"Pod","Namespace":"default","Name":"q","UID":"","APIVersion":"",'
         '"ResourceVersion":"","FieldPath":""}: field is immutable',
         'message: Invalid value: "other": field is immutable']),
    "another claim, and a wrong one": (
        f"{DEVICES}/resourceclaims", "", {}, {"spec/devices": {}},
        ['spec: Invalid value: {"Devices":{"Requests":null,"Constraints":null,"Config":null}}: field is immutable']),
    "a driver elsewhere on its node": (
        f"{STORAGE}/csinodes", "", {}, {"spec/drivers/0/nodeID": "other", "spec/drivers/0/allocatable": {"count": 3}},
        ['spec.drivers: Invalid value: {"Name":"d.example.com","NodeID":"other","TopologyKeys":["a/b"],'
         '"Allocatable":null}: field is immutable']),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_may_not_change(name: str) -> None:
    what, subresource, before, changes, wanted = CHANGES[name]
    assert change_faults(what, ALL[what], changes, subresource, before) == wanted
