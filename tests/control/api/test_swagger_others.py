"""Other servers' OpenAPI v2 documents as parts of ours, whatever they hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.swagger_others import ForeignDocumentError, part_of

SHIP = {"type": "object", "properties": {"captain": {"$ref": "#/definitions/Person"}}}
PERSON = {"type": "object", "properties": {"ship": {"$ref": "#/definitions/Ship"}}}


def document(**more: Any) -> dict[str, Any]:
    body = {"name": "body", "in": "body", "schema": {"$ref": "#/definitions/Ship"}}
    post = {"parameters": [body, {"$ref": "#/parameters/p"}, {"$ref": "#/parameters/none"}], "responses": {"200": None}}
    paths = {"/apis/a/v1/ships": {"post": post, "x-mine": 1}, "/apis/a/v10/ships": {"get": {}}, "/apis/b/v1": {}}
    return {
        "paths": paths,
        "parameters": {"p": {"name": "p", "in": "query", "type": "string"}},
        "definitions": {"Ship": SHIP, "Person": PERSON, "Other": {}},
        **more,
    }


def test_paths_of_one_group_version_come_with_what_they_need() -> None:
    paths, definitions = part_of(document(), ["/apis/a/v1"], {})
    assert list(paths) == ["/apis/a/v1/ships"]
    post = paths["/apis/a/v1/ships"]["post"]
    assert [each["name"] for each in post["parameters"]] == ["body", "p"]
    assert (post["schemes"], post["responses"]) == ([], {"200": {"description": "", "schema": {}}})
    assert definitions == {"Ship": SHIP, "Person": PERSON}


def test_a_name_that_says_something_else_here_is_changed_wherever_it_stands() -> None:
    known = {"Person": {"type": "string"}, "Person_v2": {"type": "integer"}, "Ship": SHIP}
    paths, definitions = part_of(document(), ["/apis/a/v1"], known)
    assert definitions == {"Person_v3": PERSON}
    assert paths["/apis/a/v1/ships"]["post"]["parameters"][0]["schema"] == {"$ref": "#/definitions/Ship"}


@pytest.mark.parametrize("found", [None, [], {}, {"paths": []}])
def test_what_is_no_document(found: Any) -> None:
    with pytest.raises(ForeignDocumentError):
        part_of(found, ["/apis/a/v1"], {})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["#/definitions/Ship", "query", "body", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$ref", "in", "name", "type", "properties", "parameters", "responses"]), inner
        )
    ),
    max_leaves=12,
)


@given(values, values)
def test_no_document_breaks_it(item: Any, definition: Any) -> None:
    found = document(paths={"/apis/a/v1/ships": {"get": item}}, definitions={"Ship": definition})
    part_of(found, ["/apis/a/v1"], {})
