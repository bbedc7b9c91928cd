"""Rules beside the answers that the original apiextensions-apiserver gave: refused or not, in which words, how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from control.api.custom.rules import check_rules, compile_rules
from control.api.custom.structural import check_structural
from control.api.validation.faults import Faults
from tests.control.api.cel.schemas import OBJECT, place, schema

GOLDEN = Path(__file__).parents[3] / "golden" / "cel"
RULES: list[dict[str, Any]] = json.loads((GOLDEN / "rules.json").read_text())
VALUES: list[dict[str, Any]] = json.loads((GOLDEN / "values.json").read_text())
PATH = "spec.validation.openAPIV3Schema"
EXTENSION = "x-kubernetes-validations"
ABOUT = ("path", "bounded", "faults")


def bare(text: str) -> str:
    """Return a fault without the rule that it shows."""
    return text.split("}: ", 1)[-1] if '{"Rule"' in text else text


@pytest.mark.parametrize("case", RULES, ids=[f"{index}-{case['rule']}"[:60] for index, case in enumerate(RULES)])
def test_what_is_refused(case: dict[str, Any]) -> None:
    whole = schema(bounded=case["bounded"])
    place(whole, case["path"])[EXTENSION] = [{key: value for key, value in case.items() if key not in ABOUT}]
    faults = Faults()
    check_structural(whole, PATH, faults)
    found = sorted([cause.reason, cause.field.removeprefix(PATH), bare(cause.message)] for cause in faults.causes)
    assert found == case["faults"]


def test_what_rules_say_of_an_object() -> None:
    whole = schema(values=True)
    asked = [(index, case) for index, case in enumerate(VALUES) if "refused" not in case]
    entries = [{"rule": case["rule"], "message": f"rule {index}"} for index, case in asked]
    whole["properties"]["spec"][EXTENSION] = entries
    faults = Faults()
    check_structural(whole, "", faults)
    assert faults.causes == []
    tree = compile_rules(whole)
    assert tree is not None
    check_rules(tree, OBJECT, None, faults)
    told = {}
    for cause in faults.causes:
        match = re.fullmatch(r"(.*)rule (\d+)", cause.message, re.DOTALL)
        assert match is not None, cause
        told[int(match[2])] = match[1]
    assert {VALUES[index]["rule"]: text for index, text in told.items()} == {
        case["rule"]: case["told"] for _, case in asked if "told" in case
    }


@pytest.mark.parametrize(
    "case",
    [case for case in VALUES if "refused" in case],
    ids=[case["rule"][:50] for case in VALUES if "refused" in case],
)
def test_what_is_refused_for_its_constants_or_types(case: dict[str, Any]) -> None:
    whole = schema(values=True)
    whole["properties"]["spec"][EXTENSION] = [{"rule": case["rule"], "message": "x"}]
    faults = Faults()
    check_structural(whole, "", faults)
    assert case["refused"] in [bare(cause.message) for cause in faults.causes]
