"""Reading requests: paths, selectors, media types, continue tokens."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.status import ApiError
from control.apiserver import fields, paging
from control.apiserver.paging import Continue
from control.apiserver.request import parse
from control.apiserver.rest.exchange import read_query
from control.apiserver.rest.negotiate import choose, choose_discovery


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        pytest.param("GET", "/api/v1/pods", ("list", "", "v1", "pods", "", "", ""), id="list everywhere"),
        pytest.param("GET", "/api/v1/namespaces/d/pods", ("list", "", "v1", "pods", "", "d", ""), id="list"),
        pytest.param("GET", "/api/v1/namespaces/d/pods?watch=true", ("watch", "", "v1", "pods", "", "d", ""), id="watch"),
        pytest.param("GET", "/api/v1/watch/namespaces/d/pods/p", ("watch", "", "v1", "pods", "", "d", "p"), id="old watch"),
        pytest.param("GET", "/api/v1/namespaces/d/pods?fieldSelector=metadata.name%3Dp",
                     ("list", "", "v1", "pods", "", "d", "p"), id="list of one name"),
        pytest.param("GET", "/api/v1/namespaces/d/pods/p", ("get", "", "v1", "pods", "", "d", "p"), id="get"),
        pytest.param("HEAD", "/api/v1/namespaces/d/pods/p", ("get", "", "v1", "pods", "", "d", "p"), id="head"),
        pytest.param("GET", "/api/v1/namespaces/d/pods/p/log?follow=1", ("get", "", "v1", "pods", "log", "d", "p"), id="log"),
        pytest.param("POST", "/apis/apps/v1/namespaces/d/deployments",
                     ("create", "apps", "v1", "deployments", "", "d", ""), id="create"),
        pytest.param("PUT", "/apis/apps/v1/namespaces/d/deployments/w/scale",
                     ("update", "apps", "v1", "deployments", "scale", "d", "w"), id="scale"),
        pytest.param("PATCH", "/api/v1/nodes/n/status", ("patch", "", "v1", "nodes", "status", "", "n"), id="node status"),
        pytest.param("DELETE", "/api/v1/namespaces/d/pods", ("deletecollection", "", "v1", "pods", "", "d", ""), id="all"),
        pytest.param("DELETE", "/api/v1/namespaces/d", ("delete", "", "v1", "namespaces", "", "d", "d"), id="namespace"),
        pytest.param("GET", "/api/v1/namespaces", ("list", "", "v1", "namespaces", "", "", ""), id="namespaces"),
        pytest.param("PUT", "/api/v1/namespaces/d/finalize", ("update", "", "v1", "namespaces", "finalize", "d", "d"),
                     id="finalize"),
    ],
)  # fmt: skip
def test_resource_paths(method: str, url: str, expected: tuple[str, ...]) -> None:
    path, _, query = url.partition("?")
    info = parse(method, path, read_query(query.encode()))
    found = (info.verb, info.group, info.version, info.resource, info.subresource, info.namespace, info.name)
    assert info.is_resource_request
    assert found == expected


@pytest.mark.parametrize("path", ["/", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1"])
def test_other_paths(path: str) -> None:
    info = parse("GET", path, {})
    assert (info.is_resource_request, info.verb, info.path) == (False, "get", path)


def test_what_lies_behind_a_subresource_is_kept() -> None:
    info = parse("GET", "/api/v1/namespaces/d/services/s/proxy/a/b", {})
    assert (info.subresource, info.rest) == ("proxy", ("a", "b"))


@given(st.text(max_size=40), st.binary(max_size=40))
def test_no_path_or_query_breaks_reading(path: str, query: bytes) -> None:
    parse("GET", "/" + path, read_query(query))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=a", True),
        ("metadata.name==a", True),
        ("metadata.name!=a", False),
        ("metadata.namespace=n,spec.nodeName=", True),
        ("spec.nodeName!=x", True),
        ("spec.nodeName=x", False),
        (r"metadata.name=a\,b", False),
    ],
)
def test_field_selectors(text: str, matches: bool) -> None:
    assert fields.parse(text, ["spec.nodeName"]).matches("a", "n", {}) is matches


@pytest.mark.parametrize("text", ["spec.other=1", "metadata.name", "metadata.name>3"])
def test_bad_field_selectors(text: str) -> None:
    with pytest.raises(ApiError):
        fields.parse(text)


@given(st.integers(1, 1 << 62), st.text(min_size=1, max_size=60))
def test_continue_tokens_come_back(revision: int, after: str) -> None:
    assert paging.decode(paging.encode(Continue(revision, after))) == Continue(revision, after)


@given(st.text(max_size=60))
def test_wrong_continue_tokens_are_refused(text: str) -> None:
    with contextlib.suppress(ApiError):
        paging.decode(text)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ("application/json", "")),
        ("*/*", ("application/json", "")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", ("application/json", "Table")),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", ("application/json", "")),
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            ("application/json", "PartialObjectMetadataList"),
        ),
        ("application/yaml", ("application/yaml", "")),
        ("text/html, application/json;q=0.1, application/yaml;q=0.9", ("application/yaml", "")),
    ],
)
def test_media_types(header: str, expected: tuple[str, str]) -> None:
    media = choose(header)
    assert (media.type, media.transform) == expected


@given(st.text(max_size=60))
def test_no_accept_header_breaks_negotiation(header: str) -> None:
    choose_discovery(header)
    with contextlib.suppress(ApiError):
        choose(header)
