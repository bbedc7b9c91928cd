"""Custom resources as users of kubectl meet them: two versions of it, on the API server over an unmodified etcd."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.apiserver.processes import Kubectl, Server, api_server, etcd_server

pytestmark = pytest.mark.root

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: vessels.%(group)s}
spec:
  group: %(group)s
  scope: Namespaced
  names: {plural: vessels, singular: vessel, kind: Vessel, shortNames: [vs], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.oars, statusReplicasPath: .status.oars, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.port}]
    additionalPrinterColumns:
    - {name: Port, type: string, jsonPath: .spec.port}
    - {name: Oars, type: integer, jsonPath: .spec.oars}
    - {name: Afloat, type: string, jsonPath: '.status.conditions[?(@.type=="Afloat")].status'}
    - {name: Built, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [port]
            x-kubernetes-validations:
            - {rule: '!has(self.rig) || self.oars < 50', message: who sails needs few oars}
            - {rule: '!has(oldSelf.rig) || (has(self.rig) && self.rig == oldSelf.rig)', message: a rig stays}
            properties:
              port: {type: string, pattern: '^[a-z]+$', maxLength: 10}
              oars: {type: integer, minimum: 1, maximum: 100, default: 2}
              rig: {type: string, enum: [sloop, ketch]}
              draught: {x-kubernetes-int-or-string: true}
              cargo:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, tons: {type: number, default: 1}}
              notes: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              oars: {type: integer}
              selector: {type: string}
              conditions:
                type: array
                items: {type: object, properties: {type: {type: string}, status: {type: string}}}
"""
VESSEL = """
apiVersion: %(group)s/v1
kind: Vessel
metadata: {name: argo}
spec: {port: iolkos, cargo: [{name: wool, tons: 3}], notes: {captain: {name: iason}}}
"""


@pytest.fixture(scope="module")
def server(etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("apiserver")
    with etcd_server(etcd, directory) as store, api_server(store.url, directory) as started:
        yield started


class Harbour:
    """A namespace of one kubectl, and a definition in a group of its own."""

    def __init__(self, kubectl: Kubectl, space: str) -> None:
        self.kubectl = kubectl
        self.group = f"{space}.example.com"

    def text(self, template: str) -> str:
        return template % {"group": self.group}

    def apply(self, template: str, *options: str) -> str:
        return self.kubectl("apply", *options, "-f", "-", text=self.text(template))

    def refused(self, *arguments: str, text: str = "") -> str:
        """Run a command that must fail; return what it says."""
        done = self.kubectl.run(*arguments, text=self.text(text) if text else "")
        assert done.returncode != 0, done.stdout
        return done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "-o", "json"))


@pytest.fixture(params=["sid", "trixie"])
def harbour(
    request: pytest.FixtureRequest, server: Server, kubectl_versions: dict[str, Path], tmp_path: Path
) -> Iterator[Harbour]:
    asked = Kubectl(kubectl_versions[request.param], server.kubeconfig(), tmp_path)
    space = f"test-{request.param}-{time.monotonic_ns()}"
    asked("create", "namespace", space)
    asked("config", "set-context", "test", "--namespace", space)
    made = Harbour(asked, space)
    assert "created" in made.apply(DEFINITION)
    asked("wait", "--for=condition=Established", f"crd/vessels.{made.group}", "--timeout=20s")
    yield made
    asked("delete", f"crd/vessels.{made.group}", "--ignore-not-found")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_definition_is_established_and_discovered(harbour: Harbour) -> None:
    status = harbour.json("get", f"crd/vessels.{harbour.group}")["status"]
    assert {entry["type"]: entry["reason"] for entry in status["conditions"]} == {
        "NamesAccepted": "NoConflicts",
        "Established": "InitialNamesAccepted",
    }
    assert status["storedVersions"] == ["v1"]
    listed = harbour.kubectl("api-resources", f"--api-group={harbour.group}", "--no-headers", "--cached=false")
    assert listed.split() == ["vessels", "vs", f"{harbour.group}/v1", "true", "Vessel"]
    told = harbour.kubectl("explain", f"vessels.{harbour.group}", "--recursive")
    assert "draught" in told
    assert "x-kubernetes" not in told


def test_objects_are_defaulted_shown_and_applied_again(harbour: Harbour) -> None:
    assert "created" in harbour.apply(VESSEL)
    assert "unchanged" in harbour.apply(VESSEL)
    found = harbour.json("get", "vs", "argo")
    assert found["spec"] == {
        "port": "iolkos",
        "oars": 2,
        "cargo": [{"name": "wool", "tons": 3}],
        "notes": {"captain": {"name": "iason"}},
    }
    assert found["metadata"]["generation"] == 1
    rows = [line.split() for line in harbour.kubectl("get", "vessels").splitlines()]
    assert rows[0] == ["NAME", "PORT", "OARS", "AFLOAT", "BUILT"]
    assert rows[1][:3] == ["argo", "iolkos", "2"]
    assert "configured" in harbour.apply(VESSEL.replace("iolkos", "kolchis"))
    assert harbour.json("get", "vs", "argo")["metadata"]["generation"] == 2
    names = harbour.kubectl("get", "vs", "--field-selector=spec.port=kolchis", "-o", "name")
    assert names.strip() == f"vessel.{harbour.group}/argo"
    assert "argo" not in harbour.kubectl("get", "vs", "--field-selector=spec.port=iolkos", "-o", "name")


BAD: list[tuple[str, str, str]] = [
    ("unknown field", "port: iolkos, sails: 3", 'unknown field "spec.sails"'),
    ("missing field", "oars: 3", "spec.port: Required value"),
    (
        "wrong type",
        "port: 3",
        'spec.port: Invalid value: "integer": spec.port in body must be of type string: "integer"',
    ),
    (
        "pattern",
        "port: Iolkos",
        "spec.port: Invalid value: \"Iolkos\": spec.port in body should match '^[a-z]+$'",
    ),
    ("too long", "port: abcdefghijkl", "spec.port: Too long: may not be more than 10 bytes"),
    (
        "maximum",
        "port: a, oars: 101",
        "spec.oars: Invalid value: 101: spec.oars in body should be less than or equal to 100",
    ),
    ("enumeration", "port: a, rig: raft", 'spec.rig: Unsupported value: "raft": supported values: "sloop", "ketch"'),
    ("int or string", "port: a, draught: [1]", "spec.draught in body must be of type integer,string"),
    ("rule", "port: a, rig: sloop, oars: 60", 'spec: Invalid value: who sails needs few oars'),
    (
        "duplicate key",
        "port: a, cargo: [{name: x}, {name: x}]",
        'spec.cargo[1]: Duplicate value: {"name":"x"}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "told"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_objects_are_refused_with_their_fields(harbour: Harbour, spec: str, told: str) -> None:
    bad = VESSEL.split("spec:", maxsplit=1)[0] + f"spec: {{{spec}}}\n"
    assert told in harbour.refused("apply", "-f", "-", text=bad)
    assert harbour.json("get", "vessels")["items"] == []


def test_status_and_scale_are_parts_of_their_own(harbour: Harbour) -> None:
    harbour.apply(VESSEL)
    written = {"status": {"oars": 2, "conditions": [{"type": "Afloat", "status": "True"}], "leak": 1}}
    asked = ("patch", "vessel", "argo", "--type=merge", "-p")
    harbour.kubectl(*asked, json.dumps({"spec": {"port": "here"}, **written}))
    assert "status" not in harbour.json("get", "vs", "argo")
    harbour.kubectl(*asked, json.dumps({"spec": {"port": "there"}, **written}), "--subresource=status")
    found = harbour.json("get", "vs", "argo")
    assert found["status"] == {"oars": 2, "conditions": [{"type": "Afloat", "status": "True"}]}
    assert found["spec"]["port"] == "here"
    assert found["metadata"]["generation"] == 2
    assert "True" in harbour.kubectl("get", "vs", "argo")
    harbour.kubectl("scale", "vessel/argo", "--replicas=7")
    assert harbour.json("get", "vs", "argo")["spec"]["oars"] == 7
    assert "101" in harbour.refused("scale", "vessel/argo", "--replicas=101")


def test_rules_of_transitions_see_what_was(harbour: Harbour) -> None:
    harbour.apply(VESSEL.replace("port: iolkos", "port: iolkos, rig: sloop"))
    harbour.apply(VESSEL.replace("port: iolkos", "port: kolchis, rig: sloop"))
    told = harbour.refused("patch", "vessel", "argo", "--type=merge", "-p", '{"spec": {"rig": "ketch"}}')
    assert "spec: Invalid value: a rig stays" in told


def test_server_side_apply_knows_keys_and_owners(harbour: Harbour) -> None:
    def wish(cargo: str) -> str:
        return VESSEL.split("spec:", maxsplit=1)[0] + f"spec: {{port: a, cargo: [{cargo}]}}\n"

    def options(manager: str) -> tuple[str, str]:
        return "--server-side", f"--field-manager={manager}"

    harbour.apply(wish("{name: wool, tons: 1}"), *options("one"))
    harbour.apply(wish("{name: tin, tons: 2}"), *options("two"))
    names = [entry["name"] for entry in harbour.json("get", "vs", "argo")["spec"]["cargo"]]
    assert names == ["wool", "tin"]
    told = harbour.refused("apply", *options("two"), "-f", "-", text=wish("{name: wool, tons: 5}"))
    assert 'conflict with "one": .spec.cargo[name="wool"].tons' in told
    harbour.apply(wish("{name: wool, tons: 5}"), *options("two"), "--force-conflicts")
    assert harbour.json("get", "vs", "argo")["spec"]["cargo"] == [{"name": "wool", "tons": 5}]


def test_a_bad_definition_names_every_fault(harbour: Harbour) -> None:
    bad = DEFINITION.replace("vessels", "boats").replace("vs]", "bt]")
    bad = bad.replace("{type: string, pattern: '^[a-z]+$', maxLength: 10}", "{pattern: '(?=a)'}")
    bad = bad.replace("type: date", "type: time")
    told = harbour.refused("apply", "-f", "-", text=bad)
    path = "spec.validation.openAPIV3Schema.properties[spec].properties[port]"
    assert f"{path}.type: Required value: must not be empty for specified object fields" in told
    assert f'{path}.pattern: Invalid value: "(?=a)": must be a valid regular expression' in told
    assert 'spec.additionalPrinterColumns[3].type: Invalid value: "time"' in told


def test_a_rule_about_an_unknown_field_is_refused(harbour: Harbour) -> None:
    bad = DEFINITION.replace("vessels", "boats").replace("vs]", "bt]").replace("self.oars < 50", "self.oarz < 50")
    assert "undefined field 'oarz'" in harbour.refused("apply", "-f", "-", text=bad)


def test_names_that_are_taken_are_not_given_again(harbour: Harbour) -> None:
    harbour.apply(DEFINITION.replace("vessels", "hulls"))
    other = f"crd/hulls.{harbour.group}"

    def conditions() -> dict[str, str]:
        found = harbour.json("get", other).get("status") or {}
        return {entry["type"]: entry["reason"] for entry in found.get("conditions") or ()}

    try:
        until(lambda: "NamesAccepted" in conditions(), "no verdict on the names")
        assert conditions()["NamesAccepted"] == "ListKindConflict"
        assert conditions()["Established"] == "NotAccepted"
        harbour.kubectl("delete", f"crd/vessels.{harbour.group}")
        until(lambda: conditions()["Established"] == "InitialNamesAccepted", "freed names are not given")
    finally:
        harbour.kubectl("delete", other)


def test_objects_go_with_their_definition(harbour: Harbour) -> None:
    harbour.apply(VESSEL)
    held = {"metadata": {"finalizers": ["example.com/anchor"]}}
    harbour.kubectl("patch", "vessel", "argo", "--type=merge", "-p", json.dumps(held))
    definition = f"crd/vessels.{harbour.group}"
    harbour.kubectl("delete", definition, "--wait=false")

    def is_ending() -> bool:
        found = harbour.json("get", definition)["status"]["conditions"]
        return any(entry["type"] == "Terminating" and entry["status"] == "True" for entry in found)

    until(is_ending, "the definition does not say that it ends")
    until(lambda: "deletionTimestamp" in harbour.json("get", "vs", "argo")["metadata"], "the object stays")
    harbour.kubectl("patch", "vessel", "argo", "--type=merge", "-p", json.dumps({"metadata": {"finalizers": None}}))
    harbour.kubectl("wait", "--for=delete", definition, "--timeout=20s")
    assert "the server could not find the requested resource" in harbour.refused("get", "vessels")
