"""null where a map's value is wanted is that type's zero, as Go reads it."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.decode import clean
from control.api.resources import catalog
from control.api.validation.objects import validate


@pytest.mark.parametrize(
    ("definition", "given", "kept"),
    [
        ("core.v1.VolumeResourceRequirements", {"requests": {"storage": None}}, {"requests": {"storage": "0"}}),
        ("core.v1.ResourceRequirements", {"limits": {"cpu": None}}, {"limits": {"cpu": "0"}}),
        ("core.v1.ConfigMap", {"data": {"a": None}}, {"data": {"a": ""}}),
    ],
    ids=["storage", "cpu", "text"],
)
def test_null_is_the_zero_of_its_type(definition: str, given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert clean(given, definition)[0] == kept


def test_a_claim_of_nothing_is_refused_with_a_reason() -> None:
    served = next(entry for entry in catalog() if entry.resource.plural == "persistentvolumeclaims")
    spec = {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "resources": {"requests": {"storage": None}}}
    claim = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}
    causes = validate(served.resource, clean(claim, served.definition)[0], None, "")
    assert [cause.field for cause in causes] == ["spec.resources[storage]"]
