"""MutatingAdmissionPolicies: what they make of objects, in which order, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    MUTATING_POLICIES,
    MUTATING_POLICY_BINDINGS,
    NAMESPACES,
    Resource,
    by_plural,
)
from control.api.status import ApiError
from control.api.validation.faults import Faults
from control.api.validation.mutations import check_mutating_policy, check_mutating_policy_binding
from control.apiserver import kinds, objects
from control.apiserver.admission.chain import AdmissionChain
from control.apiserver.admission.plugin import Plugin
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.policies.mutating import MutatingPolicies
from control.apiserver.request import AdmissionRequest, UserInfo
from tests.control.apiserver.policies.caches import Caches

KINDS = kinds.load()
RULES = [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]
SPACE = NAMESPACES, {"metadata": {"name": "a", "labels": {"sea": "red"}}}


def complete(resource: Resource, obj: Object, validation: str = "Ignore") -> Object:
    return objects.complete(KINDS.of(resource), obj, validation, [])


def definition(resource: Resource) -> str:
    served = by_plural(resource.group, resource.version, resource.plural)
    return served.definition if served else ""


def applies(expression: str) -> dict[str, Any]:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patches(expression: str) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


def policy(*mutations: dict[str, Any], name: str = "p", **spec: Any) -> tuple[Resource, Object]:
    found = {"matchConstraints": {"resourceRules": RULES}, "mutations": list(mutations), "reinvocationPolicy": "Never"}
    return MUTATING_POLICIES, {"metadata": {"name": name}, "spec": {**found, **spec}}


def binding(name: str = "b", policy: str = "p", **spec: Any) -> tuple[Resource, Object]:
    return MUTATING_POLICY_BINDINGS, {"metadata": {"name": name}, "spec": {"policyName": policy, **spec}}


def deployment() -> Object:
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "a"}, "spec": spec}
    return complete(DEPLOYMENTS, made)


async def admitted(*held: tuple[Resource, Object], user: str = "anna") -> Object:
    asked = AdmissionRequest("CREATE", DEPLOYMENTS, UserInfo(user), "a", "d", object=deployment())
    caches = Caches(SPACE, *held)
    plugin = MutatingPolicies(caches, lambda *_: CONFIG_MAPS, ModeAuthorizer(["AlwaysDeny"]), complete, definition)
    await plugin.follow()
    await AdmissionChain((plugin,)).mutate(asked)
    assert asked.object is not None
    return asked.object


SIDECAR = """Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [
  Object.spec.template.spec.containers{name: "mesh", image: "mesh:" + variables.tag}]}}}}"""


async def test_an_apply_configuration_is_merged_by_keys_and_completed() -> None:
    made = await admitted(policy(applies(SIDECAR), variables=[{"name": "tag", "expression": "'v1'"}]), binding())
    containers = made["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each["image"]) for each in containers] == [("c", "i"), ("mesh", "mesh:v1")]
    assert containers[1]["terminationMessagePolicy"] == "File"
    assert made["spec"]["replicas"] == 1


async def test_mutations_see_what_those_before_them_made() -> None:
    more = "Object{spec: Object.spec{replicas: object.spec.replicas + 2}}"
    made = await admitted(policy(applies(more), applies(more)), binding())
    assert made["spec"]["replicas"] == 5


PATCHES: list[tuple[str, str, Any]] = [
    ("add", '[JSONPatch{op: "add", path: "/metadata/labels", value: {"x": "y"}}]', {"x": "y"}),
    ("escaped", '[JSONPatch{op: "add", path: "/metadata/labels", value: {}},'
     ' JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}]', {"a/b": "c"}),
    ("test that holds", '[JSONPatch{op: "test", path: "/spec/replicas", value: 1},'
     ' JSONPatch{op: "add", path: "/metadata/labels", value: {"x": "y"}}]', {"x": "y"}),
    ("test that does not", '[JSONPatch{op: "add", path: "/metadata/labels", value: {"x": "y"}},'
     ' JSONPatch{op: "test", path: "/spec/replicas", value: 2}]', None),
    ("nothing", "[]", None),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "labels"), [case[1:] for case in PATCHES], ids=[case[0] for case in PATCHES])
async def test_json_patches(expression: str, labels: Any) -> None:
    made = await admitted(policy(patches(expression)), binding())
    assert made["metadata"].get("labels") == labels


DENIED = "policy 'p' with binding 'b' denied request: "
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown field", applies("Object{spec: Object.spec{nothing: 1}}"), 'unknown field "spec.nothing"'),
    ("wrong type", applies("Object{spec: Object.spec{replicas: 'x'}}"), "cannot unmarshal string"),
    ("atomic list", applies("Object{spec: Object.spec{template: Object.spec.template{spec: "
                            "Object.spec.template.spec{tolerations: []}}}}"),
     "may not mutate atomic arrays, maps or structs: .spec.template.spec.tolerations"),
    ("no object", applies("1"), "must evaluate to Object"),
    ("no list", patches("JSONPatch{op: 'add'}"), "JSONPatchType.expression should evaluate to array"),
    ("no such place", patches("[JSONPatch{op: 'remove', path: '/spec/x'}]"), "JSONPath: remove operation does not"),
    ("no such key", applies("Object{spec: Object.spec{replicas: object.x}}"), "no such key: x"),
]  # fmt: skip


@pytest.mark.parametrize(("mutation", "told"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
async def test_a_policy_that_fails_refuses_or_is_passed_by(mutation: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as caught:
        await admitted(policy(mutation), binding())
    assert caught.value.message.startswith(DENIED)
    assert told in caught.value.message
    assert (caught.value.code, caught.value.reason) == (403, "Invalid")
    assert await admitted(policy(mutation, failurePolicy="Ignore"), binding()) == deployment()


async def test_whom_a_policy_concerns() -> None:
    once = applies("Object{spec: Object.spec{replicas: 7}}")
    conditions = [{"name": "c", "expression": "request.userInfo.username == 'otto'"}]
    limited = policy(once, matchConditions=conditions)
    assert (await admitted(limited, binding()))["spec"]["replicas"] == 1
    assert (await admitted(limited, binding(), user="otto"))["spec"]["replicas"] == 7
    elsewhere = binding(matchResources={"namespaceSelector": {"matchLabels": {"sea": "black"}}})
    assert (await admitted(policy(once), elsewhere))["spec"]["replicas"] == 1
    assert (await admitted(policy(once)))["spec"]["replicas"] == 1


async def test_policies_may_ask_what_their_user_may() -> None:
    asks = applies("Object{spec: Object.spec{paused: !authorizer.requestResource.check('pause').allowed()}}")
    assert (await admitted(policy(asks), binding()))["spec"]["paused"] is True


async def test_one_that_wants_to_is_asked_again_after_a_later_change() -> None:
    counts = applies("Object{spec: Object.spec{replicas: object.spec.replicas * 2}}")
    other = policy(applies("Object{spec: Object.spec{minReadySeconds: 1}}"), name="later")
    bound = (binding(), binding("c", "later"))
    assert (await admitted(policy(counts), other, *bound))["spec"]["replicas"] == 2
    again = policy(counts, reinvocationPolicy="IfNeeded")
    assert (await admitted(again, other, *bound))["spec"]["replicas"] == 4
    # Kubernetes asks a policy again after its own change, too.
    assert (await admitted(again, binding()))["spec"]["replicas"] == 4


async def test_a_policy_is_asked_again_after_another_plugin_changed_what_it_saw() -> None:
    class Later(Plugin):
        """Completes what it finds, once."""

        async def mutate(self, request: AdmissionRequest) -> None:
            assert request.object is not None
            if request.reinvocation is not None and request.reinvocation.again:
                request.object["spec"]["minReadySeconds"] = 9

    sees = applies("Object{spec: Object.spec{progressDeadlineSeconds: object.spec.?minReadySeconds.orValue(100)}}")
    writes = policy(applies("Object{spec: Object.spec{paused: true}}"), name="other")
    asked = AdmissionRequest("CREATE", DEPLOYMENTS, UserInfo("anna"), "a", "d", object=deployment())
    for reinvocation, wanted in (("Never", 100), ("IfNeeded", 9)):
        caches = Caches(SPACE, policy(sees, reinvocationPolicy=reinvocation), binding(), writes, binding("c", "other"))
        plugin = MutatingPolicies(caches, lambda *_: CONFIG_MAPS, None, complete, definition)
        await plugin.follow()
        asked = AdmissionRequest("CREATE", DEPLOYMENTS, UserInfo("anna"), "a", "d", object=deployment())
        await AdmissionChain((Later(), plugin)).mutate(asked)
        assert asked.object is not None
        assert asked.object["spec"]["progressDeadlineSeconds"] == wanted


async def test_parameters() -> None:
    reads = applies("Object{spec: Object.spec{replicas: int(params.data.count)}}")
    wanted = policy(reads, paramKind={"apiVersion": "v1", "kind": "ConfigMap"})
    held = CONFIG_MAPS, {"metadata": {"name": "m", "namespace": "a"}, "data": {"count": "4"}}
    reference = {"name": "m", "parameterNotFoundAction": "Deny"}
    assert (await admitted(wanted, binding(paramRef=reference), held))["spec"]["replicas"] == 4
    with pytest.raises(ApiError, match="no params found for policy binding"):
        await admitted(wanted, binding(paramRef=reference))
    allowed = binding(paramRef={**reference, "parameterNotFoundAction": "Allow"})
    assert (await admitted(wanted, allowed))["spec"]["replicas"] == 1


async def test_whose_object_it_is_stays() -> None:
    renames = patches('[JSONPatch{op: "replace", path: "/metadata/name", value: "other"}]')
    assert (await admitted(policy(renames), binding()))["metadata"]["name"] == "d"


GOOD: Object = {
    **policy(applies("Object{}"))[1]["spec"],
    "failurePolicy": "Fail",
    "matchConstraints": {
        "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
        "resourceRules": [{**RULES[0], "scope": "*"}],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"mutations": []}, "spec.mutations"),
        ({"mutations": [{}]}, "spec.mutations[0].patchType"),
        ({"mutations": [{"patchType": "Merge"}]}, "spec.mutations[0].patchType"),
        ({"mutations": [{"patchType": "JSONPatch"}]}, "spec.mutations[0].jsonPatch"),
        ({"mutations": [applies("Object{")]}, "spec.mutations[0].applyConfiguration.expression"),
        ({"mutations": [{**applies("Object{}"), **patches("[]"), "patchType": "ApplyConfiguration"}]},
         "spec.mutations[0].jsonPatch"),
        ({"reinvocationPolicy": ""}, "spec.reinvocationPolicy"),
        ({"reinvocationPolicy": "Always"}, "spec.reinvocationPolicy"),
        ({"matchConstraints": None}, "spec.matchConstraints"),
        ({"variables": [{"name": "x", "expression": "1 +"}]}, "spec.variables[0].expression"),
    ],
)  # fmt: skip
def test_policies_are_held_to_their_rules(spec: dict[str, Any], field: str) -> None:
    faults, clean = Faults(), Faults()
    check_mutating_policy({"spec": {**GOOD, **spec}}, faults)
    assert [cause.field for cause in faults.causes] == [field]
    check_mutating_policy({"spec": GOOD}, clean)
    assert not clean


def test_bindings_are_held_to_their_rules() -> None:
    faults = Faults()
    check_mutating_policy_binding({"spec": {"paramRef": {}}}, faults)
    assert {cause.field for cause in faults.causes} == {
        "spec.policyName", "spec.paramRef", "spec.paramRef.parameterNotFoundAction",
    }  # fmt: skip
