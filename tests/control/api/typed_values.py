"""Draws values of any type that the facts describe."""

from typing import Any

from hypothesis import strategies as st

from control.api import quantity, schema

LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text("aé-", min_size=1, max_size=3),
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bytes": st.sampled_from(["", "YQ=="]),
    "Quantity": st.sampled_from(["1", "500m", "1Gi", "0"]).map(quantity.canonical),
    "Time": st.just("2024-05-06T07:08:09Z"),
    "MicroTime": st.just("2024-05-06T07:08:09.123456Z"),
    "IntOrString": st.sampled_from([0, 80, "http", "25%"]),
    "StringList": st.lists(st.text("ab", min_size=1, max_size=2), max_size=2),
    "RawExtension": st.just({"kind": "Other", "n": 1}),
    "FieldsV1": st.just({"f:metadata": {}}),
    "JSON": st.just({"a": [1]}),
    "Duration": st.sampled_from(["1h0m0s", "5m0s", "1.5s", "0s"]),
    "float64": st.just(1.5),
}


@st.composite
def values(draw: st.DrawFn, kind: str, depth: int = 0) -> Any:
    """Draw a value of a type, with few fields in each structure."""
    if kind.startswith("[]"):
        return [draw(values(kind[2:], depth + 1)) for _ in range(draw(st.integers(1, 2)))]
    if kind.startswith("{}"):
        return {draw(st.sampled_from(["k", "x/y"])): draw(values(kind[2:], depth + 1))}
    if not schema.is_reference(kind):
        return draw(LEAVES[kind])
    found = schema.definition(kind)
    if found.scalar:
        return draw(LEAVES[found.scalar])
    usable = [f for f in found.fields.values() if "JSONSchemaProps" not in f.type and f.name not in schema.TYPE_META]
    chosen = draw(st.lists(st.sampled_from(usable), max_size=3 if depth < 6 else 0, unique=True)) if usable else []
    return {field.name: draw(values(field.type, depth + 1)) for field in chosen}
