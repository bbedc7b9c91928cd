"""A definition of two versions whose own webhook converts: over real HTTPS, on the API server over an unmodified etcd."""

from __future__ import annotations

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
GROUP = "convert.example.com"
STRING, SPEC = {"type": "string"}, "spec"


def schema(**fields: dict[str, Any]) -> dict[str, Any]:
    spec = {"type": "object", "properties": fields, "required": sorted(fields)}
    return {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}


def definition(program: Program) -> dict[str, Any]:
    """Return a definition: v1 has an address as one text, v2 (stored) its two parts."""
    client = {"url": f"https://localhost:{program.port}/convert", "caBundle": program.bundle}
    webhook = {"conversionReviewVersions": ["v1"], "clientConfig": client}
    scale = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}
    number = {"type": "integer"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"posts.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": "posts", "singular": "post", "kind": "Post"},
            "conversion": {"strategy": "Webhook", "webhook": webhook},
            "versions": [
                {"name": "v1", "served": True, "storage": False, "schema": schema(address=STRING)},
                {
                    "name": "v2", "served": True, "storage": True, "subresources": {"scale": scale},
                    "schema": schema(host=STRING, port=STRING, size=number),
                },
            ],
        },
    }  # fmt: skip


def convert(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(obj))
    made["apiVersion"] = wanted
    spec = made["spec"]
    if wanted.endswith("/v2"):
        host, _, port = spec.pop("address").partition(":")
        spec.update(host=host, port=port, size=1)
    else:
        made["spec"] = {"address": f"{spec['host']}:{spec['port']}"}
    # What is not the webhook's to change is put right again.
    made["metadata"]["finalizers"] = ["example.com/sneaked-in"]
    made["metadata"].setdefault("annotations", {})["converted"] = wanted
    return made


def answer(request: dict[str, Any]) -> dict[str, Any]:
    wanted = request["desiredAPIVersion"]
    objects = [convert(obj, wanted) for obj in request["objects"]]
    return {"convertedObjects": objects, "result": {"status": "Success"}}


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + KEEP_TRYING_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("apiserver")
    with etcd_server(etcd, directory) as store, api_server(store.url, directory) as started:
        yield started


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(tmp_path_factory.mktemp("webhook"))
    yield made
    made.close()


@pytest.fixture
def admin(server: Server, program: Program, kubectl: Path, tmp_path: Path) -> Iterator[Kubectl]:
    made = Kubectl(kubectl, server.kubeconfig(), tmp_path)
    program.answer = answer
    made("apply", "-f", "-", text=json.dumps(definition(program)))
    made("wait", "--for=condition=Established", f"crd/posts.{GROUP}", "--timeout=20s")
    yield made
    made("delete", f"crd/posts.{GROUP}", "--timeout=30s")


def post(version: str = "v1", name: str = "one", **spec: Any) -> str:
    head = {"apiVersion": f"{GROUP}/{version}", "kind": "Post", "metadata": {"name": name}}
    return json.dumps({**head, "spec": spec})


def shown(kubectl: Kubectl, version: str, *arguments: str) -> Any:
    return json.loads(kubectl("get", f"posts.{version}.{GROUP}", *arguments, "-o", "json"))


def test_each_version_is_read_and_written_in_its_own_form(admin: Kubectl, program: Program) -> None:
    assert "created" in admin("create", "-f", "-", text=post(address="a:1"))
    assert shown(admin, "v2", "one")["spec"] == {"host": "a", "port": "1", "size": 1}
    found = shown(admin, "v1", "one")
    assert found["spec"] == {"address": "a:1"}
    assert "finalizers" not in found["metadata"]
    assert found["metadata"]["annotations"]["converted"] == f"{GROUP}/v1"
    admin("patch", f"posts.v1.{GROUP}", "one", "--type=merge", "-p", '{"spec": {"address": "b:2"}}')
    assert shown(admin, "v2", "one")["spec"]["host"] == "b"
    assert shown(admin, "v2", "one")["metadata"]["generation"] == 2
    admin("scale", f"posts.v2.{GROUP}/one", "--replicas=4")
    admin("create", "-f", "-", text=post("v2", "two", host="c", port="3", size=1))
    asked = len(program.asked)
    listed = shown(admin, "v1")["items"]
    assert [item["spec"]["address"] for item in listed] == ["b:2", "c:3"]
    assert len(program.asked) <= asked + 1
    assert shown(admin, "v1")["items"] == listed
    assert len(program.asked) <= asked + 1, "what was converted is asked for again"


def test_each_version_is_held_to_its_own_rules(admin: Kubectl) -> None:
    assert "spec.address: Required value" in admin.run("create", "-f", "-", text=post()).stderr
    assert "spec.host: Required value" in admin.run("create", "-f", "-", text=post("v2", port="1", size=1)).stderr
    assert shown(admin, "v2")["items"] == []


def test_apply_and_diff_work_in_either_version(admin: Kubectl) -> None:
    assert "created" in admin("apply", "-f", "-", text=post(address="a:1"))
    assert "unchanged" in admin("apply", "-f", "-", text=post(address="a:1"))
    assert "configured" in admin("apply", "-f", "-", text=post(address="a:2"))
    assert admin("diff", "-f", "-", text=post(address="a:2")) == ""
    options = ("--server-side", "--field-manager=me", "--force-conflicts")
    assert "serverside-applied" in admin("apply", *options, "-f", "-", text=post("v2", host="x", port="9", size=2))
    assert shown(admin, "v1", "one")["spec"] == {"address": "x:9"}


def test_watches_see_their_version(admin: Kubectl) -> None:
    admin("create", "-f", "-", text=post(address="a:1"))
    path = ("-o", "jsonpath={.apiVersion} {.spec}{'\\n'}")
    watching = admin.start("get", f"posts.v1.{GROUP}", "-w", *path)
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == f'{GROUP}/v1 {{"address":"a:1"}}'
        admin("patch", f"posts.v2.{GROUP}", "one", "--type=merge", "-p", '{"spec": {"port": "7"}}')
        assert watching.stdout.readline().strip() == f'{GROUP}/v1 {{"address":"a:7"}}'
    finally:
        watching.terminate()
        watching.communicate(timeout=10)


FAULTS: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("refusal", lambda _: {"result": {"status": "Failure", "message": "no road there"}}, "no road there"),
    ("no objects", lambda _: {"convertedObjects": [], "result": {"status": "Success"}},
     "returned 0 objects, expected 1"),
    ("other version", lambda request: {"convertedObjects": request["objects"], "result": {"status": "Success"}},
     "invalid groupVersion (expected convert.example.com/v2, received convert.example.com/v1)"),
    ("other name", lambda request: {"convertedObjects": [
        {**convert(request["objects"][0], f"{GROUP}/v2"), "metadata": {"name": "x"}}],
        "result": {"status": "Success"}}, "must have the same name: one != x"),
    ("other question", lambda _: {"uid": "0", "convertedObjects": []}, "expected response.uid="),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "told"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_what_a_webhook_does_wrong_is_told(
    admin: Kubectl, program: Program, reply: Callable[[dict[str, Any]], dict[str, Any]], told: str
) -> None:
    program.answer = reply
    refused = admin.run("create", "-f", "-", text=post(address="a:1")).stderr
    assert f"conversion webhook for {GROUP}/v1, Kind=Post" in refused
    assert told in refused
    assert shown(admin, "v2")["items"] == []


def test_a_definition_goes_without_its_webhook(admin: Kubectl, program: Program) -> None:
    admin("create", "-f", "-", text=post(address="a:1"))
    program.answer = lambda _: {"result": {"status": "Failure", "message": "gone"}}
    assert "gone" in admin.run("get", f"posts.v1.{GROUP}", "one").stderr
    assert shown(admin, "v2", "one")["spec"]["host"] == "a"
    admin("delete", f"crd/posts.{GROUP}", "--timeout=30s")
    program.answer = answer
    admin("apply", "-f", "-", text=json.dumps(definition(program)))
