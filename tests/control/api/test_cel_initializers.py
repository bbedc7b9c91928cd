"""Initializers of mutations, and what comes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.cel.admission import Expressions
from control.api.cel.authorizer import JUDGE, authorizer
from control.api.cel.errors import CelError
from control.api.cel.initializers import built


def made(expression: str, **values: Any) -> Any:
    program = Expressions(params=True, mutates=True).compile(expression)
    return built(program.run({"object": None, **values}))


DEPLOYMENT = {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 2}}
CASES: list[tuple[str, str, Any]] = [
    ("empty", "Object{}", {}),
    ("nested", "Object{spec: Object.spec{replicas: object.spec.replicas + 1}}", {"spec": {"replicas": 3}}),
    ("map", 'Object{metadata: Object.metadata{labels: {"x": "y"}}}', {"metadata": {"labels": {"x": "y"}}}),
    ("list", 'Object{spec: Object.spec{containers: [Object.spec.containers{name: "x", ports: [\n'
     '  Object.spec.containers.ports{containerPort: 80}]}]}}',
     {"spec": {"containers": [{"name": "x", "ports": [{"containerPort": 80}]}]}}),
    ("choice", 'Object{spec: object.spec.replicas > 1 ? Object.spec{replicas: 1} : Object.spec{paused: true}}',
     {"spec": {"replicas": 1}}),
    ("comments and a last comma", "Object{ // that's {it}\n spec: Object.spec{replicas: 5,}, }", {"spec": {"replicas": 5}}),
    ("names in texts", 'Object{spec: Object.spec{name: "Object.spec{a: 1}" + \'Object{\'}}',
     {"spec": {"name": "Object.spec{a: 1}Object{"}}),
    ("raw texts", 'Object{spec: Object.spec{name: r"a\\d"}}', {"spec": {"name": "a\\d"}}),
    ("escaped fields", "Object{metadata: Object.metadata{__namespace__: 'x', a__dash__b: 'y'}}",
     {"metadata": {"namespace": "x", "a-b": "y"}}),
    ("optional fields", "Object{spec: Object.spec{?replicas: object.?spec.?replicas, ?gone: object.?spec.?gone}}",
     {"spec": {"replicas": 2}}),
    ("patches", '[JSONPatch{op: "add", path: "/spec", value: Object.spec{replicas: 1}}]'
     ' + (object.spec.replicas == 2 ? [JSONPatch{op: "remove", path: "/a"}] : [])',
     [{"op": "add", "path": "/spec", "value": {"replicas": 1}}, {"op": "remove", "path": "/a"}]),
    ("a patch's field", 'JSONPatch{op: "x"}.op + string(has(JSONPatch{op: "x"}.path))', "xfalse"),
    ("equal patches", 'JSONPatch{op: "x", value: 1} == JSONPatch{op: "x", value: 1}', True),
    ("different patches", 'JSONPatch{op: "x", value: "1"} == JSONPatch{op: "x", value: 1}', False),
    ("keys in pointers", 'jsonpatch.escapeKey("k8s.io/x~y")', "k8s.io~1x~0y"),
    ("other maps", '{"Object": object.metadata.labels.map(k, {"k": k})}', {"Object": [{"k": "a"}]}),
    ("a field called so", "object.spec.replicas > 1 ? {'a': object} : {}", {"a": DEPLOYMENT}),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "value"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_expressions_build(expression: str, value: Any) -> None:
    assert made(expression, object=DEPLOYMENT) == value


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("Object{spec: Object.specx{replicas: 1}}",
         'type mismatch: unexpected type name "Object.specx", expected "Object.spec", which matches field name path'
         " from root Object type"),
        ("Object{spec: Object.spec{containers: [Object.spec.wrong{name: 'x'}]}}", '"Object.spec.wrong"'),
        ('[JSONPatch{op: "add", path: "/a", valu: 1}]', "undefined field 'valu'"),
        ("JSONPatch.x{op: 'a'}", "undeclared reference to 'JSONPatch.x'"),
        ("Object{1: 2}", "Syntax error"),
        ("Object{spec: }", "Syntax error"),
        ("Object{spec: Object.spec{", "Syntax error"),
        ("Object{spec: object.nothing}", "no such key: nothing"),
    ],
    ids=["other place", "other item", "other field", "other type", "no field", "no value", "no end", "no key"],
)  # fmt: skip
def test_faults_are_told(expression: str, told: str) -> None:
    with pytest.raises(CelError, match=told.replace("(", r"\(")):
        made(expression, object=DEPLOYMENT)


@given(st.text(alphabet="Objectspc.{}[]():,?\"'\\ \n/`rb12", max_size=60))
def test_no_text_breaks_the_compiler(text: str) -> None:
    try:
        Expressions(mutates=True).compile(text)
    except CelError:
        return


def asked(expression: str, allowed: bool = True) -> tuple[Any, list[dict[str, Any]]]:
    questions: list[dict[str, Any]] = []

    def judge(question: Any) -> tuple[bool, str]:
        questions.append(dict(question))
        return allowed, "because"

    token = JUDGE.set(judge)
    try:
        return made(expression, **authorizer({"group": "apps", "resource": "deployments"})), questions
    finally:
        JUDGE.reset(token)


def test_the_authorizer_is_asked_what_the_expression_says() -> None:
    text = "authorizer.group('').resource('pods').subresource('log').namespace('a').name('b').check('get')"
    answer, (question,) = asked(f"{text}.allowed()")
    assert answer is True
    wanted = {"group": "", "resource": "pods", "subresource": "log", "namespace": "a", "name": "b", "verb": "get"}
    assert {key: question[key] for key in wanted} == wanted
    assert asked(f"{text}.reason()", allowed=False)[0] == "because"
    assert asked(f"{text}.errored() || {text}.allowed()", allowed=False)[0] is False
    answer, (question,) = asked("authorizer.serviceAccount('x', 'y').path('/healthz').check('get').allowed()")
    assert (question["user"], question["path"]) == ("system:serviceaccount:x:y", "/healthz")
    answer, (question,) = asked("authorizer.requestResource.check('scale').allowed()")
    assert (question["resource"], question["verb"]) == ("deployments", "scale")


def test_the_authorizer_has_one_order_of_questions() -> None:
    with pytest.raises(CelError, match="found no matching overload"):
        asked("authorizer.resource('pods').check('get').allowed()")
    with pytest.raises(CelError, match="not available"):
        made("authorizer.path('/x').check('get').allowed()", **authorizer())
