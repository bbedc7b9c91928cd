"""Decoding: what is kept, what is told, and in whose words."""

import json
from typing import Any

import pytest

from control.api import decode, schema
from control.api.resources import by_plural, catalog
from control.api.status import ApiError

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "creationTimestamp": None},
    "spec": {
        "replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "hostNetwork": False,
                "containers": [{"name": "c", "image": "i", "args": [], "resources": {"limits": {"cpu": 0.5}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        },
    },
}
ABOUT = 'Deployment in version "v1" cannot be handled as a Deployment: '


def deployment_with(path: str, value: Any) -> bytes:
    made = json.loads(json.dumps(DEPLOYMENT))
    target, *rest = made, *path.split(".")
    for step in rest[:-1]:
        target = target[int(step)] if step.isdigit() else target[step]
    target[rest[-1]] = value
    return json.dumps(made).encode()


def test_what_a_round_trip_drops_is_dropped() -> None:
    kept, warnings = decode.decode_json(json.dumps(DEPLOYMENT).encode(), "apps", "v1", "Deployment", "Strict")
    assert not warnings
    assert kept["metadata"] == {"name": "web"}
    assert kept["spec"]["template"]["spec"] == {
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "500m"}}}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        pytest.param(
            "spec.replicas",
            "3",
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            id="string for a number",
        ),
        pytest.param(
            "spec.replicas",
            1.5,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            id="fraction for a whole number",
        ),
        pytest.param(
            "spec.template.spec.containers.0.env",
            [{"name": "a", "value": 1}],
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type "
            "string",
            id="number for a string, in lists",
        ),
        pytest.param(
            "spec.template",
            [],
            "json: cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type v1.PodTemplateSpec",
            id="list for a structure",
        ),
        pytest.param(
            "metadata.creationTimestamp",
            "yes",
            'parsing time "yes" as "2006-01-02T15:04:05Z07:00": cannot parse "yes" as "2006"',
            id="no time",
        ),
        pytest.param("spec.foo", 1, 'strict decoding error: unknown field "spec.foo"', id="unknown"),
        pytest.param(
            "spec.template.spec.containers.0.imag",
            "x",
            'strict decoding error: unknown field "spec.template.spec.containers[0].imag"',
            id="unknown in a list",
        ),
    ],
)
def test_faults_are_told_in_kubernetes_words(path: str, value: Any, text: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode.decode_json(deployment_with(path, value), "apps", "v1", "Deployment", "Strict")
    assert caught.value.code == 400
    assert caught.value.message == ABOUT + text


def test_warn_cuts_and_tells_and_ignore_only_cuts() -> None:
    body = deployment_with("spec.foo", 1)
    kept, warnings = decode.decode_json(body, "apps", "v1", "Deployment", "Warn")
    assert warnings == ['unknown field "spec.foo"']
    assert "foo" not in kept["spec"]
    assert decode.decode_json(body, "apps", "v1", "Deployment", "Ignore")[1] == []


def test_duplicate_fields_are_found_with_their_path() -> None:
    assert decode.duplicate_fields(b'{"a":[{"b":1,"b":2}],"c":1,"c":2}') == [
        'duplicate field "c"',
        'duplicate field "a[0].b"',
    ]


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        (b'{"a" :1, "a"\n:2}', ["a"]),
        (b'{"a":"\\":", "b":1}', []),
        (b'{"a":"x\\":", "a":"y"}', ["a"]),
        (b'{"\\u0061":1,"a":2}', ["a"]),
        (b'[{"a":1},{"a":2}]', []),
        (b'{"a":{"a":{"a":1,"b":":"}}}', []),
    ],
)
def test_duplicate_fields_are_told_from_what_looks_like_them(body: bytes, faults: list[str]) -> None:
    assert decode.duplicate_fields(body) == [f'duplicate field "{name}"' for name in faults]


def test_another_version_is_refused() -> None:
    with pytest.raises(ApiError, match="does not match the expected API version"):
        decode.decode({"apiVersion": "v1", "kind": "Deployment"}, "apps", "v1", "Deployment")


def test_every_definition_of_every_package_compiles() -> None:
    packages = {served.definition.rsplit(".", 1)[0] for served in catalog()}
    for package in packages:
        for name in schema.names(package):
            if not schema.definition(name).scalar:
                assert decode.clean({}, name) == ({}, [])


def test_every_served_resource_has_a_definition() -> None:
    assert all(schema.definition(served.definition).is_object for served in catalog())
    pods = by_plural("", "v1", "pods")
    assert pods is not None
    assert pods.short_names == ("po",)
    assert {entry.name for entry in pods.subresources} >= {"binding", "eviction", "exec", "log", "status"}


def test_what_a_patch_breaks_is_an_invalid_patch() -> None:
    patched = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicaz": 2}}
    with pytest.raises(ApiError) as caught:
        decode.decode(patched, "apps", "v1", "Deployment", "Strict", patch={"spec": {"replicaz": 2}})
    assert caught.value.code == 422
    assert caught.value.message == (
        ' "" is invalid: patch: Invalid value: "map[spec:map[replicaz:2]]": strict decoding error: unknown field '
        '"spec.replicaz"'
    )
