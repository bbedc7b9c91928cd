"""What must hold for every object of every kind: nothing that a client can send makes the pure functions fall over."""

import copy
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.api import decode, schema
from control.api.apply import apply
from control.api.defaulting import apply_defaults
from control.api.printers.table import printer, row
from control.api.resources import Served, catalog
from control.api.status import ApiError
from control.api.strategic import strategic_merge_patch
from control.api.tracking import Manager, Scope, track_update
from control.api.validation.objects import validate
from tests.control.api.typed_values import values

NOW = datetime(2024, 5, 6, tzinfo=UTC)
ROUGH = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
KINDS = [served for served in catalog() if "list" in served.verbs and served.resource.group != "apiextensions.k8s.io"]


@st.composite
def objects(draw: st.DrawFn) -> tuple[Served, dict[str, Any]]:
    served = draw(st.sampled_from(KINDS))
    obj = draw(values(served.definition))
    for part in ("spec", "template", "webhooks", "rules", "endpoints", "subsets", "status"):
        if (field := schema.definition(served.definition).fields.get(part)) is not None and part not in obj:
            obj[part] = draw(values(field.type, 1))
    obj.update(apiVersion=served.resource.api_version, kind=served.resource.kind)
    kept, faults = decode.clean(obj, served.definition)
    assert not faults
    return served, kept


@ROUGH
@given(objects())
def test_cleaning_defaulting_validating_and_printing_take_any_object(drawn: tuple[Served, dict[str, Any]]) -> None:
    served, obj = drawn
    again, _ = decode.clean(copy.deepcopy(obj), served.definition)
    assert again == obj
    before = copy.deepcopy(obj)
    apply_defaults(obj, served.definition)
    once = copy.deepcopy(obj)
    apply_defaults(obj, served.definition)
    assert obj == once
    assert decode.clean(copy.deepcopy(obj), served.definition)[1] == []
    for cause in validate(served.resource, obj) + validate(served.resource, obj, before):
        assert cause.message
    resource = served.resource
    shown = printer(resource.group, resource.version, resource.plural)
    assert len(row(shown, obj, NOW)["cells"]) == len(shown.columns)


@ROUGH
@given(objects(), st.data())
def test_applying_takes_any_object(drawn: tuple[Served, dict[str, Any]], data: st.DataObject) -> None:
    served, obj = drawn
    wish, _ = decode.clean(data.draw(values(served.definition)), served.definition)
    manager, scope = Manager("m", "Apply", served.resource.api_version), Scope(served.definition)
    try:
        live = apply(obj, wish, manager, scope, "2024-05-06T07:08:09Z", force=True)
    except ApiError:
        # Lists whose elements lack their keys cannot be merged.
        return
    assert apply(live, wish, manager, scope, "2025-01-01T00:00:00Z", force=True) == live
    assert track_update(live, copy.deepcopy(live), manager, scope, "2025-01-01T00:00:00Z") == live


@ROUGH
@given(objects(), st.data())
def test_strategic_patches_take_any_object(drawn: tuple[Served, dict[str, Any]], data: st.DataObject) -> None:
    served, obj = drawn
    patch = data.draw(values(served.definition))
    try:
        patched = strategic_merge_patch(obj, patch, served.definition)
    except ApiError:
        # Elements without their merge key cannot be merged.
        return
    assert decode.clean(patched, served.definition)[1] == []
