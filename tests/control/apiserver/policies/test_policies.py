"""ValidatingAdmissionPolicies: whom they concern, what they say, and what they do about it."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.defaulting import apply_defaults
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, POLICIES, POLICY_BINDINGS, Resource
from control.api.status import ApiError
from control.api.validation.faults import Faults
from control.api.validation.policies import check_policy, check_policy_binding
from control.apiserver.policies.plugin import ValidatingPolicies
from control.apiserver.request import RECORD, AdmissionRequest, UserInfo
from tests.control.apiserver.policies.caches import Caches

USER = UserInfo("anna")
RULES = [
    {"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
]
FEW = {"expression": "object.spec.replicas <= 5"}


def policy(*validations: dict[str, Any], **spec: Any) -> tuple[Resource, Object]:
    found = {"matchConstraints": {"resourceRules": RULES}, "validations": list(validations), **spec}
    return POLICIES, {"metadata": {"name": "p"}, "spec": found}


def binding(**spec: Any) -> tuple[Resource, Object]:
    found = {"policyName": "p", "validationActions": ["Deny"], **spec}
    return POLICY_BINDINGS, {"metadata": {"name": "b"}, "spec": found}


SPACE = NAMESPACES, {"metadata": {"name": "a", "labels": {"sea": "red"}}}


def deployment(replicas: int = 9, **labels: str) -> AdmissionRequest:
    obj = {"metadata": {"name": "d", "namespace": "a", "labels": labels}, "spec": {"replicas": replicas}}
    return AdmissionRequest("CREATE", DEPLOYMENTS, USER, "a", "d", object=obj)


async def refusal(asked: AdmissionRequest, *objects: tuple[Resource, Object]) -> str | None:
    plugin = ValidatingPolicies(Caches(SPACE, *objects), lambda *_: CONFIG_MAPS)
    await plugin.follow()
    try:
        await plugin.validate(asked)
    except ApiError as error:
        return f"{error.code} {error.reason} {error.message}"
    return None


DENIED = (
    "422 Invalid deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
)
CASES: list[tuple[str, list[tuple[Resource, Object]], AdmissionRequest, str | None]] = [
    ("holds", [policy(FEW), binding()], deployment(5), None),
    ("does not hold", [policy(FEW), binding()], deployment(), DENIED + "failed expression: object.spec.replicas <= 5"),
    ("not bound", [policy(FEW)], deployment(), None),
    ("message", [policy({**FEW, "message": "too many"}), binding()], deployment(), DENIED + "too many"),
    ("message by expression",
     [policy({**FEW, "messageExpression": "'at most 5, not ' + string(object.spec.replicas)"}), binding()],
     deployment(), DENIED + "at most 5, not 9"),
    ("reason", [policy({**FEW, "message": "no", "reason": "Forbidden"}), binding()], deployment(),
     DENIED.replace("422 Invalid", "403 Forbidden") + "no"),
    ("other resource", [policy(FEW, matchConstraints={"resourceRules": [{**RULES[0], "resources": ["pods"]}]}),
                        binding()], deployment(), None),
    ("excluded by name",
     [policy(FEW, matchConstraints={"resourceRules": RULES,
                                    "excludeResourceRules": [{**RULES[0], "resourceNames": ["d"]}]}), binding()],
     deployment(), None),
    ("namespace of the binding", [policy(FEW), binding(matchResources={"namespaceSelector": {
        "matchLabels": {"sea": "black"}}})], deployment(), None),
    ("object of the binding", [policy(FEW), binding(matchResources={"objectSelector": {
        "matchLabels": {"big": "yes"}}})], deployment(big="yes"), DENIED + "failed expression: " + FEW["expression"]),
    ("condition", [policy(FEW, matchConditions=[{"name": "c", "expression": "request.userInfo.username == 'otto'"}]),
                   binding()], deployment(), None),
    ("variables", [policy({"expression": "variables.twice <= 10"},
                          variables=[{"name": "n", "expression": "object.spec.replicas"},
                                     {"name": "twice", "expression": "variables.n * 2"}]), binding()],
     deployment(), DENIED + "failed expression: variables.twice <= 10"),
    ("error", [policy({"expression": "object.nothing > 1"}), binding()], deployment(),
     DENIED + "expression 'object.nothing > 1' resulted in error: no such key: nothing"),
    ("error that may pass", [policy({"expression": "object.nothing > 1"}, failurePolicy="Ignore"), binding()],
     deployment(), None),
    ("namespace's times", [policy({"expression": "!has(namespaceObject.metadata.creationTimestamp) || "
     "namespaceObject.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')"}), binding()],
     deployment(), None),
    ("namespace object", [policy({"expression": "namespaceObject.metadata.labels.sea == 'black'"}), binding()],
     deployment(), DENIED + "failed expression: namespaceObject.metadata.labels.sea == 'black'"),
]  # fmt: skip


@pytest.mark.parametrize(("objects", "asked", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_what_policies_say(
    objects: list[tuple[Resource, Object]], asked: AdmissionRequest, told: str | None
) -> None:
    assert await refusal(asked, *objects) == told


async def test_warnings_let_requests_pass() -> None:
    asked = deployment()
    assert await refusal(asked, policy({**FEW, "message": "too many"}), binding(validationActions=["Warn"])) is None
    assert asked.warnings == ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too many"]


async def audited(*objects: tuple[Resource, Object]) -> dict[str, str]:
    """Return what one request's audit events are annotated with."""

    told: dict[str, str] = {}

    class Told:
        def annotate(self, key: str, value: str, *, with_bodies: bool = False) -> None:
            told.setdefault(key, value)

    token = RECORD.set(Told())  # type: ignore[arg-type]
    try:
        await refusal(deployment(), *objects)
    finally:
        RECORD.reset(token)
    return told


FEWER = {"expression": "object.spec.replicas <= 3", "message": "three at most"}


async def test_audit_is_told_of_what_fails() -> None:
    told = await audited(policy({"expression": "true"}, FEWER), binding(validationActions=["Audit", "Warn"]))
    assert told == {
        "validation.policy.admission.k8s.io/validation_failure": '[{"message":"three at most","policy":"p",'
        '"binding":"b","expressionIndex":1,"validationActions":["Audit","Warn"]}]'
    }


async def test_audit_is_told_before_another_binding_refuses() -> None:
    other = POLICY_BINDINGS, {"metadata": {"name": "c"}, "spec": {"policyName": "p", "validationActions": ["Audit"]}}
    assert '"binding":"c"' in str(await audited(policy(FEW), binding(), other))


async def test_policies_annotate_by_expressions() -> None:
    notes = [
        {"key": "count", "valueExpression": "'wants ' + string(object.spec.replicas)"},
        {"key": "none", "valueExpression": "null"},
        {"key": "blank", "valueExpression": "'  '"},
        {"key": "long", "valueExpression": "'" + "ü" * 4000 + "' + '" + "ü" * 4000 + "'"},
    ]
    other = POLICY_BINDINGS, {"metadata": {"name": "c"}, "spec": {"policyName": "p", "validationActions": ["Audit"]}}
    told = await audited(policy(auditAnnotations=notes), binding(), other)
    assert told.pop("p/long") == "ü" * (5 * 1024)
    assert told == {"p/count": "wants 9"}


async def test_parameters_make_several_values_of_one_annotation() -> None:
    wanted = policy(
        auditAnnotations=[{"key": "most", "valueExpression": "params.data.most"}],
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )
    held = [
        (
            CONFIG_MAPS,
            {"metadata": {"name": f"m{most}", "namespace": "a", "labels": {"x": "y"}}, "data": {"most": most}},
        )
        for most in ("1", "2")
    ]
    told = await audited(wanted, binding(paramRef={"selector": {"matchLabels": {"x": "y"}}}), *held)
    assert told == {"p/most": "1, 2"}


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        pytest.param("object.nothing", "expression 'object.nothing' resulted in error: no such key: nothing", id="error"),
        pytest.param("7", "valueExpression '7' resulted in unsupported return type: int. "
                     "Return type must be either string or null.", id="type"),
    ],
)  # fmt: skip
async def test_an_annotation_that_fails_refuses(expression: str, told: str) -> None:
    notes = [{"key": "k", "valueExpression": expression}]
    assert await refusal(deployment(), policy(auditAnnotations=notes), binding(validationActions=["Audit"])) == (
        DENIED + told
    )


PARAMETERS = policy(
    {"expression": "object.spec.replicas <= int(params.data.most)", "messageExpression": "'most: ' + params.data.most"},
    paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
)
MOST = CONFIG_MAPS, {"metadata": {"name": "m", "namespace": "a", "labels": {"x": "y"}}, "data": {"most": "3"}}


@pytest.mark.parametrize(
    ("reference", "objects", "told"),
    [
        ({"name": "m"}, [MOST], DENIED + "most: 3"),
        ({"selector": {"matchLabels": {"x": "y"}}}, [MOST], DENIED + "most: 3"),
        ({"name": "m", "parameterNotFoundAction": "Allow"}, [], None),
        ({"name": "m", "parameterNotFoundAction": "Deny"}, [],
         DENIED + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
    ],
    ids=["by name", "by labels", "missing and allowed", "missing and denied"],
)  # fmt: skip
async def test_parameters(reference: Object, objects: list[tuple[Resource, Object]], told: str | None) -> None:
    assert await refusal(deployment(), PARAMETERS, binding(paramRef=reference), *objects) == told


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"validations": [{"expression": "1 +"}]}, "spec.validations[0].expression"),
        ({"validations": [{"expression": " "}]}, "spec.validations[0].expression"),
        ({"validations": []}, "spec.validations"),
        ({"validations": [FEW], "matchConstraints": None}, "spec.matchConstraints"),
        ({"validations": [{**FEW, "reason": "Odd"}]}, "spec.validations[0].reason"),
        ({"validations": [FEW], "variables": [{"name": "", "expression": "1"}]}, "spec.variables[0].name"),
    ],
)
def test_bad_policies_name_the_field(spec: dict[str, Any], field: str) -> None:
    faults = Faults()
    policy = {"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": RULES}, **spec}}
    apply_defaults(policy, "admissionregistration.v1.ValidatingAdmissionPolicy")
    check_policy(policy, faults)
    assert [cause.field for cause in faults.causes][:1] == [field]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"policyName": ""}, "spec.policyName"),
        ({"validationActions": []}, "spec.validationActions"),
        ({"validationActions": ["Deny", "Warn"]}, "spec.validationActions"),
        ({"validationActions": ["Shout"]}, "spec.validationActions[0]"),
        ({"paramRef": {}}, "spec.paramRef"),
    ],
)
def test_bad_bindings_name_the_field(spec: dict[str, Any], field: str) -> None:
    faults = Faults()
    check_policy_binding({"spec": {"policyName": "p", "validationActions": ["Deny"], **spec}}, faults)
    assert [cause.field for cause in faults.causes][:1] == [field]
