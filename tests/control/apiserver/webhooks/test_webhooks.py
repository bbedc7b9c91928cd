"""Webhooks over real HTTPS: a program that completes and refuses, asked by an API server over an unmodified etcd."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.apiserver.processes import Kubectl, Server, api_server, etcd_server
from tests.fakes.webhook_program import Program

pytestmark = pytest.mark.root
KEEP_TRYING_S = 20.0


@pytest.fixture(scope="module")
def server(etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("apiserver")
    with etcd_server(etcd, directory) as store, api_server(store.url, directory) as started:
        yield started


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.close()


@pytest.fixture
def kubectl(server: Server, kubectl_versions: dict[str, Path], tmp_path: Path) -> Iterator[Kubectl]:
    asked = Kubectl(kubectl_versions["sid"], server.kubeconfig(), tmp_path)
    space = f"test-{time.monotonic_ns()}"
    asked("create", "namespace", space)
    asked("label", "namespace", space, f"hooked={space}")
    asked("config", "set-context", "test", "--namespace", space)
    yield asked
    asked("delete", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "--all")


def configure(kubectl: Kubectl, kind: str, program: Program, name: str = "one", **fields: Any) -> None:
    """Make a configuration of one webhook about this namespace's ConfigMaps, and wait until it is in force."""
    space = kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}")
    hook = {
        "name": f"{name}.example.com",
        "clientConfig": {"url": f"https://localhost:{program.port}/hook", "caBundle": program.bundle},
        "rules": [
            {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "scope": "*"}
        ],
        "namespaceSelector": {"matchLabels": {"hooked": space}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
        **fields,
    }
    made = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "webhooks": [hook],
    }
    kubectl("apply", "-f", "-", text=json.dumps(made))


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + KEEP_TRYING_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(json.dumps(operations).encode()).decode(),
    }


def data_of(kubectl: Kubectl, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(kubectl("get", "configmap", name, "-o", "json")).get("data") or {}
    return found


def test_a_webhook_completes_and_warns(kubectl: Kubectl, program: Program) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        added = {"op": "add", "path": "/data/added", "value": request["userInfo"]["username"]}
        return {**patch(added, {"op": "add", "path": "/nonsense", "value": 1}), "warnings": ["the wind is rising"]}

    program.answer = answer
    configure(kubectl, "MutatingWebhookConfiguration", program)
    numbers = iter(range(1000))

    def is_completed() -> bool:
        name = f"a{next(numbers)}"
        done = kubectl.run("create", "configmap", name, "--from-literal=b=c")
        assert done.returncode == 0, done.stderr
        if not program.asked:
            return False
        assert "Warning: the wind is rising" in done.stderr
        assert data_of(kubectl, name) == {"b": "c", "added": "kubernetes-admin"}
        return True

    until(is_completed, "the webhook is not asked")
    request = program.asked[0]
    assert (request["operation"], request["resource"]["resource"], request["dryRun"]) == ("CREATE", "configmaps", False)


def test_a_webhook_refuses_whatever_is_done(kubectl: Kubectl, program: Program) -> None:
    kubectl("create", "configmap", "old", "--from-literal=a=b")
    program.answer = lambda request: {
        "allowed": False,
        "status": {"code": 403, "message": f"no {request['operation']}"},
    }
    configure(kubectl, "ValidatingWebhookConfiguration", program)
    until(lambda: kubectl.run("create", "configmap", "new", "--dry-run=server").returncode != 0, "nothing is refused")
    for arguments, operation in (
        (("create", "configmap", "new"), "CREATE"),
        (("annotate", "configmap", "old", "x=y"), "UPDATE"),
        (("delete", "configmap", "old"), "DELETE"),
    ):
        told = kubectl.run(*arguments).stderr
        assert f'admission webhook "one.example.com" denied the request: no {operation}' in told
    assert data_of(kubectl, "old") == {"a": "b"}
    assert program.asked[-1]["oldObject"]["data"] == {"a": "b"}
    assert program.asked[-1]["object"] is None


def test_a_webhook_is_asked_again_after_a_later_change(kubectl: Kubectl, program: Program) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        data = (request["object"] or {}).get("data") or {}
        if "one" not in data:
            return patch({"op": "add", "path": "/data", "value": {"one": "1"}})
        if "two" not in data:
            return patch({"op": "add", "path": "/data/two", "value": "2"})
        return patch({"op": "add", "path": "/data/seen", "value": "both"})

    program.answer = answer
    configure(kubectl, "MutatingWebhookConfiguration", program, "one", reinvocationPolicy="IfNeeded")
    configure(kubectl, "MutatingWebhookConfiguration", program, "two")
    numbers = iter(range(1000))

    def sees_both() -> bool:
        name = f"b{next(numbers)}"
        kubectl("create", "configmap", name)
        return data_of(kubectl, name) == {"one": "1", "two": "2", "seen": "both"}

    until(sees_both, "the first webhook does not see what the second did")


def test_who_does_not_answer_refuses_or_is_passed_by(kubectl: Kubectl, program: Program) -> None:
    configure(kubectl, "ValidatingWebhookConfiguration", program, failurePolicy="Fail")
    program.close()
    until(lambda: kubectl.run("create", "configmap", "new", "--dry-run=server").returncode != 0, "nothing is refused")
    assert 'failed calling webhook "one.example.com"' in kubectl.run("create", "configmap", "new").stderr
    configure(kubectl, "ValidatingWebhookConfiguration", program, failurePolicy="Ignore")
    until(lambda: kubectl.run("create", "configmap", "new").returncode == 0, "the webhook still holds things up")


def test_conditions_are_asked_before_the_webhook(kubectl: Kubectl, program: Program) -> None:
    program.answer = lambda request: {"allowed": False}
    conditions = [{"name": "marked", "expression": "'mark' in object.metadata.?labels.orValue({})"}]
    configure(kubectl, "ValidatingWebhookConfiguration", program, matchConditions=conditions)
    marked = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "marked", "labels": {"mark": "1"}}}

    def is_refused() -> bool:
        return kubectl.run("create", "--dry-run=server", "-f", "-", text=json.dumps(marked)).returncode != 0

    until(is_refused, "nothing is refused")
    kubectl("create", "configmap", "plain")


POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %(space)s}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  variables: [{name: most, expression: 'int(params.data.most)'}]
  validations:
  - {expression: object.spec.replicas <= variables.most, messageExpression: "'at most ' + params.data.most"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %(space)s}
spec:
  policyName: %(space)s
  validationActions: [Deny]
  paramRef: {name: limits, parameterNotFoundAction: Deny}
  matchResources: {namespaceSelector: {matchLabels: {hooked: %(space)s}}}
"""


def test_a_policy_needs_no_program(kubectl: Kubectl) -> None:
    space = kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}")
    kubectl("create", "configmap", "limits", "--from-literal=most=3")
    broken = kubectl.run("apply", "-f", "-", text=(POLICY % {"space": space}).replace("<= variables.most", "<= ("))
    assert "spec.validations[0].expression: Invalid value" in broken.stderr
    kubectl("apply", "-f", "-", text=POLICY % {"space": space})
    create = ("create", "deployment", "d", "--image=x", "--dry-run=server")
    try:
        until(lambda: kubectl.run(*create, "--replicas=4").returncode != 0, "nothing is refused")
        told = kubectl.run(*create, "--replicas=4").stderr
        about = f"ValidatingAdmissionPolicy '{space}' with binding '{space}' denied request: at most 3"
        assert about in told
        kubectl(*create, "--replicas=3")
    finally:
        kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", space)


MUTATION = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: %(space)s}
spec:
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions:
  - {name: bare, expression: '!object.spec.containers.exists(c, c.name == "mesh")'}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: |
        Object{
          spec: Object.spec{
            containers: [Object.spec.containers{name: "mesh", image: "mesh:" + namespaceObject.metadata.labels.hooked}]
          }
        }
  - patchType: JSONPatch
    jsonPatch:
      expression: |
        [JSONPatch{op: "add", path: "/metadata/labels", value: {"may": string(
          authorizer.group("").resource("pods").namespace(request.namespace).check("delete").allowed())}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: %(space)s}
spec:
  policyName: %(space)s
  matchResources: {namespaceSelector: {matchLabels: {hooked: %(space)s}}}
"""


def test_a_policy_completes_objects_without_a_program(kubectl: Kubectl) -> None:
    space = kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}")
    kubectl("create", "serviceaccount", "default")
    broken = kubectl.run("apply", "-f", "-", text=(MUTATION % {"space": space}).replace("op:", "opp:"))
    assert "spec.mutations[1].jsonPatch.expression: Invalid value" in broken.stderr
    assert "undefined field 'opp'" in broken.stderr
    kubectl("apply", "-f", "-", text=MUTATION % {"space": space})
    run = ("run", "p", "--image=x", "--dry-run=server", "-o", "json")
    try:
        until(lambda: "mesh" in kubectl(*run), "nothing is added")
        made = json.loads(kubectl(*run))
        assert [(each["name"], each["image"]) for each in made["spec"]["containers"]] == [
            ("p", "x"), ("mesh", f"mesh:{space}")
        ]  # fmt: skip
        assert made["metadata"]["labels"] == {"may": "true"}
        assert made["spec"]["containers"][1]["imagePullPolicy"] == "IfNotPresent"
        assert kubectl("get", "mutatingadmissionpolicy", space).splitlines()[1].split()[:2] == [space, "2"]
    finally:
        kubectl("delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", space)
