"""OpenAPI documents: closed under references, with what kubectl looks for."""

import json
from typing import Any

import pytest

from control.api import openapi

PAIRS = openapi.group_versions()


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value and isinstance(value["$ref"], str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("pair", PAIRS, ids=["/".join(pair) for pair in PAIRS])
def test_documents_are_closed(pair: tuple[str, str]) -> None:
    document = openapi.document(*pair)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known
    assert document["paths"]


def test_kubectl_finds_merge_keys_kinds_and_field_validation() -> None:
    document = json.loads(openapi.document_bytes("apps", "v1"))
    spec = document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]
    assert spec["containers"]["x-kubernetes-patch-merge-key"] == "name"
    assert spec["containers"]["x-kubernetes-patch-strategy"] == "merge"
    deployment = document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]
    assert deployment["x-kubernetes-group-version-kind"] == [{"group": "apps", "kind": "Deployment", "version": "v1"}]
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Deployment"


def test_the_index_names_every_document_with_its_hash() -> None:
    paths = openapi.index()["paths"]
    assert set(paths) == {openapi.relative_path(*pair) for pair in PAIRS}
    assert paths["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")
