"""CEL rules in schemas: what they see, when they are asked, and what is told when they do not hold."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.cel.environment import CelError, compile_expression
from control.api.custom.declared import escape
from control.api.custom.rulefaults import entry_faults, expression_faults
from control.api.custom.rules import check_rules, compile_rules
from control.api.validation.faults import Faults

INTEGER: dict[str, Any] = {"type": "integer"}
STRING: dict[str, Any] = {"type": "string"}


def ruled(schema: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-kubernetes-validations": list(rules)}


def spec(*rules: dict[str, Any], **fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": ruled({"type": "object", "properties": fields}, *rules)}}


def faults_of(schema: dict[str, Any], new: Any, old: Any = None) -> list[tuple[str, str, str]]:
    tree = compile_rules(schema)
    assert tree is not None
    found = Faults()
    check_rules(tree, new, old, found)
    return [(cause.reason, cause.field, cause.message) for cause in found.causes]


REPLICAS = spec(
    {"rule": "self.low <= self.high", "messageExpression": "'low is ' + string(self.low)"},
    low=INTEGER,
    high=ruled(INTEGER, {"rule": "self >= oldSelf", "message": "may only grow", "reason": "FieldValueForbidden"}),
)
KEYED = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "properties": {"name": STRING, "size": ruled(INTEGER, {"rule": "self == oldSelf"})},
    },
}
CASES: list[tuple[str, dict[str, Any], Any, Any, list[tuple[str, str, str]]]] = [
    ("holds", REPLICAS, {"spec": {"low": 1, "high": 2}}, None, []),
    ("does not hold", REPLICAS, {"spec": {"low": 3, "high": 2}}, None,
     [("FieldValueInvalid", "spec", 'Invalid value: low is 3')]),
    ("transition", REPLICAS, {"spec": {"low": 1, "high": 2}}, {"spec": {"low": 1, "high": 3}},
     [("FieldValueForbidden", "spec.high", "Forbidden: may only grow")]),
    ("transition without a past", REPLICAS, {"spec": {"low": 1, "high": 2}}, {"spec": {"low": 1}}, []),
    ("field that is missing", spec({"rule": "self.a == 1"}, a=INTEGER), {"spec": {}}, None,
     [("FieldValueInvalid", "spec",
       'Invalid value: "object": no such key: a evaluating rule: self.a == 1')]),
    ("path of its own", spec({"rule": "self.a == 1", "fieldPath": ".a"}, a=INTEGER), {"spec": {"a": 2}}, None,
     [("FieldValueInvalid", "spec.a", 'Invalid value: failed rule: self.a == 1')]),
    ("keyed list", {"type": "object", "properties": {"l": KEYED}},
     {"l": [{"name": "b", "size": 1}, {"name": "a", "size": 2}]},
     {"l": [{"name": "a", "size": 3}, {"name": "b", "size": 1}]},
     [("FieldValueInvalid", "l[1].size", 'Invalid value: 2: failed rule: self == oldSelf')]),
    ("optional past", spec({"rule": "oldSelf.hasValue() || self.a == 0", "optionalOldSelf": True}, a=INTEGER),
     {"spec": {"a": 1}}, None,
     [("FieldValueInvalid", "spec", 'Invalid value: failed rule: oldSelf.hasValue() || self.a == 0')]),
    ("optional past that is there",
     spec({"rule": "self.a >= oldSelf.optMap(o, o.a).orValue(0)", "optionalOldSelf": True}, a=INTEGER),
     {"spec": {"a": 1}}, {"spec": {"a": 1}}, []),
    ("number is a double", spec({"rule": "self.n * 2.0 == 4.0"}, n={"type": "number"}), {"spec": {"n": 2}}, None, []),
    ("times", spec({"rule": "self.t < timestamp('2025-01-01T00:00:00Z') && self.d == duration('90s')"},
                   t={"type": "string", "format": "date-time"}, d={"type": "string", "format": "duration"}),
     {"spec": {"t": "2024-06-01T00:00:00Z", "d": "1m30s"}}, None, []),
    ("escaped names", spec({"rule": "self.foo__dash__bar == 1 && self.__namespace__ == 'x'"},
                           **{"foo-bar": INTEGER, "namespace": STRING}),
     {"spec": {"foo-bar": 1, "namespace": "x"}}, None, []),
    ("name at the root", ruled({"type": "object"}, {"rule": "self.metadata.name.startsWith('a')"}),
     {"metadata": {"name": "b"}}, None,
     [("FieldValueInvalid", "<nil>",
       """Invalid value: failed rule: self.metadata.name.startsWith('a')""")]),
    ("map", {"type": "object", "properties": {
        "m": {"type": "object", "additionalProperties": ruled(STRING, {"rule": "self.size() < 3"})}}},
     {"m": {"a": "xy", "b": "xyz"}}, None,
     [("FieldValueInvalid", "m[b]", 'Invalid value: "xyz": failed rule: self.size() < 3')]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "new", "old", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_rules(schema: dict[str, Any], new: Any, old: Any, told: list[tuple[str, str, str]]) -> None:
    assert faults_of(schema, new, old) == told


def test_a_rule_that_is_none_is_named() -> None:
    found = Faults()
    expression_faults(ruled({"type": "object"}, {"rule": "self.a =="}), "s", found)
    entry_faults(ruled({"type": "object"}, {"rule": "self.a =="}, {"rule": ""}), "s", found)
    fields = [cause.field for cause in found.causes]
    assert fields == ["s.x-kubernetes-validations[0].rule", "s.x-kubernetes-validations[1].rule"]
    assert "compilation failed: ERROR" in found.causes[0].message


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("plain", "plain"), ("a-b.c/d", "a__dash__b__dot__c__slash__d"), ("a__b", "a__underscores__b"), ("in", "__in__")],
)
def test_names_are_escaped(name: str, escaped: str) -> None:
    assert escape(name) == escaped


EXPRESSIONS: list[tuple[str, Any]] = [
    ("self.l.isSorted()", True),
    ("[3, 1, 2].max() + [3, 1, 2].min() + [3, 1].sum()", 8),
    ("['a', 'b', 'a'].indexOf('a') + ['a', 'b', 'a'].lastIndexOf('a')", 2),
    ("'abc 123'.find('[0-9]+')", "123"),
    ("'1 2 3'.findAll('[0-9]', 2)", ["1", "2"]),
    ("quantity('1Gi').isGreaterThan(quantity('500Mi'))", True),
    ("quantity('1').add(quantity('500m')) == quantity('1500m')", True),
    ("quantity('2k').sub(quantity('1k')).asInteger()", 1000),
    ("quantity('50M').compareTo(quantity('50Mi'))", -1),
    ("isQuantity('1,5')", False),
    ("ip('fe80::1').isLinkLocalUnicast() && ip('fe80::1').family() == 6", True),
    ("isIP('10.0.0.256') || isIP('fe80::1%eth0')", False),
    ("ip.isCanonical('2001:DB8::1')", False),
    ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", True),
    ("cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8", True),
    ("url('https://example.com:8080/a?x=1&x=2').getPort()", "8080"),
    ("url('https://[::1]:80/').getHostname()", "::1"),
    ("url('https://e.com/a?x=1&x=2').getQuery()", {"x": ["1", "2"]}),
    ("isURL('no url')", False),
    ("semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('1.10.0').isGreaterThan(semver('1.9.9'))", True),
    ("isSemver('v1.0')", False),
    ("sets.equivalent([1, 2], [2, 1, 1]) && sets.contains([1, 2], [2]) && !sets.intersects([1], [2])", True),
    ("!format.dns1123Label().validate('a-b').hasValue()", True),
    ("format.named('dns1123Label').value().validate('A').hasValue()", True),
    ("self.?missing.orValue('none')", "none"),
    ("'%s-%d'.format(['a', 1])", "a-1"),
]


@pytest.mark.parametrize(("text", "found"), EXPRESSIONS, ids=[case[0] for case in EXPRESSIONS])
def test_functions_of_kubernetes(text: str, found: Any) -> None:
    assert compile_expression(text, ("self",)).run({"self": {"l": [1, 2, 3]}}) == found


@pytest.mark.parametrize(
    "text",
    [
        "quantity('x').sign()",
        "ip('x').family()",
        "[].max()",
        "'a'.find('(')",
        "semver('1').major()",
        "self.l[9]",
        "1/0",
    ],
)
def test_what_fails_says_so(text: str) -> None:
    with pytest.raises(CelError):
        compile_expression(text, ("self",)).run({"self": {"l": [1]}})
