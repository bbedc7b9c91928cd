"""Invents definitions, objects and requests at random, as users make them: mostly right, sometimes not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MANAGERS = ("ann", "bob")
NAMES = ("one", "two")
_FORMATS = ("date-time", "byte", "int32", "ipv4", "duration", "uuid", "hostname", "email", "uri")
_TEXTS = ("", "a", "b", "abc", "abcdefgh", "1h", "10.0.0.1", "2020-01-01T00:00:00Z", "ä", "x y")
_NUMBERS = (0, 1, -1, 2, 3, 10, 1.5, 2.0, -0.5, 1e10, 2**31, 2**53 + 1)

Schema = dict[str, Any]
Request = dict[str, Any]


class Inventor:
    """All that is invented from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.group = f"g{seed}.example.com"

    def _maybe(self, share: float) -> bool:
        return self.random.random() < share

    # Schemas.

    def schema(self, depth: int = 0) -> Schema:
        """Return a structural schema."""
        kinds = ["string", "integer", "number", "boolean", "either"]
        if depth < 3:
            kinds += ["object", "object", "map", "array", "byKey", "set", "open"]
        kind = self.random.choice(kinds) if depth else "object"
        made: Schema = getattr(self, f"_{kind}")(depth)
        if depth and kind != "either" and self._maybe(0.15):
            made["nullable"] = True
        return made

    def _string(self, depth: int) -> Schema:
        made: Schema = {"type": "string"}
        choice = self.random.random()
        if choice < 0.15:
            made["enum"] = ["a", "b", "abc"]
        elif choice < 0.3:
            made |= {"minLength": 1, "maxLength": 3}
        elif choice < 0.4:
            made["pattern"] = "^[a-z]*$"
        elif choice < 0.6:
            made["format"] = self.random.choice(_FORMATS)
        if self._maybe(0.2) and choice >= 0.6:
            made["default"] = self.random.choice(_TEXTS)
        return made

    def _integer(self, depth: int) -> Schema:
        made: Schema = {"type": "integer"}
        if self._maybe(0.3):
            made |= {"minimum": 0, "maximum": 5}
        if self._maybe(0.2):
            made["default"] = self.random.randint(0, 5)
        if self._maybe(0.2):
            made["format"] = self.random.choice(("int32", "int64"))
        return made

    def _number(self, depth: int) -> Schema:
        made: Schema = {"type": "number"}
        if self._maybe(0.3):
            made |= {"minimum": -1.5, "exclusiveMinimum": self._maybe(0.5)}
        return made | ({"multipleOf": 0.5} if self._maybe(0.1) else {})

    def _boolean(self, depth: int) -> Schema:
        return {"type": "boolean", **({"default": True} if self._maybe(0.2) else {})}

    def _either(self, depth: int) -> Schema:
        return {"x-kubernetes-int-or-string": True}

    def _object(self, depth: int) -> Schema:
        names = self.random.sample(["a", "b", "c", "d"], self.random.randint(1, 4))
        made: Schema = {"type": "object", "properties": {name: self.schema(depth + 1) for name in names}}
        if depth and self._maybe(0.2):
            made["required"] = [self.random.choice(names)]
        if depth and self._maybe(0.1):
            made["x-kubernetes-map-type"] = "atomic"
        return made

    def _map(self, depth: int) -> Schema:
        made: Schema = {"type": "object", "additionalProperties": self.schema(depth + 1)}
        return made | ({"maxProperties": 2} if self._maybe(0.2) else {})

    def _array(self, depth: int) -> Schema:
        made: Schema = {"type": "array", "items": self.schema(depth + 1)}
        return made | ({"maxItems": 2, "minItems": 1} if self._maybe(0.2) else {})

    def _byKey(self, depth: int) -> Schema:
        inner = self._object(depth + 1)
        inner.pop("x-kubernetes-map-type", None)
        key = {"type": "string"} if self._maybe(0.7) else {"type": "integer"}
        inner["properties"]["k"] = key
        inner["required"] = ["k"]
        return {"type": "array", "items": inner, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}

    def _set(self, depth: int) -> Schema:
        kind = self.random.choice(("string", "integer"))
        return {"type": "array", "items": {"type": kind}, "x-kubernetes-list-type": "set"}

    def _open(self, depth: int) -> Schema:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

    # Values.

    def value(self, schema: Schema) -> Any:
        """Return a value that mostly fits a schema."""
        if self._maybe(0.02):
            return self.random.choice([None, "text", 3, 1.5, True, [], {}, [1], {"a": 1}])
        if schema.get("nullable") and self._maybe(0.2):
            return None
        if "enum" in schema:
            return self.random.choice([*schema["enum"], "odd"])
        if schema.get("x-kubernetes-int-or-string"):
            return self.random.choice([1, 0, "a", "5%"])
        match schema.get("type"):
            case "string":
                return self.random.choice(_TEXTS)
            case "integer":
                return self.random.choice([0, 1, 2, 3, 4, 5, 6, -1, 2.0])
            case "number":
                return self.random.choice(_NUMBERS)
            case "boolean":
                return self._maybe(0.5)
            case "array":
                return [self.value(schema["items"]) for _ in range(self.random.randint(0, 3))]
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return self.random.choice([{}, {"a": 1}, {"a": {"b": [1, {"c": None}]}}, {"b": "x", "c": 1.0}])
        if "additionalProperties" in schema:
            chosen = self.random.sample(["p", "q", "r.s/t"], self.random.randint(0, 3))
            return {name: self.value(schema["additionalProperties"]) for name in chosen}
        required = schema.get("required", ())
        made = {
            name: self.value(inner)
            for name, inner in schema.get("properties", {}).items()
            if self._maybe(0.97 if name in required else 0.6)
        }
        return made | ({"unknown": 1} if self._maybe(0.03) else {})

    # Requests.

    def requests(self, count: int) -> Iterator[Request]:
        """Return a definition's creation and then requests about its objects."""
        spec, status = self.schema(), self.schema()
        whole = {"type": "object", "properties": {"spec": spec, "status": status}}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole}}
        if self._maybe(0.6):
            version["subresources"] = {"status": {}}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"things.{self.group}"},
            "spec": {
                "group": self.group,
                "scope": "Cluster",
                "names": {"plural": "things", "kind": "Thing"},
                "versions": [version],
            },
        }
        yield {"ask": f"POST {DEFINITIONS}", "send": definition}
        yield {"ask": f"GET {DEFINITIONS}/things.{self.group}", "until": "established"}
        for _ in range(count):
            yield self._request(spec, status)

    def _request(self, spec: Schema, status: Schema) -> Request:
        name, manager = self.random.choice(NAMES), self.random.choice(MANAGERS)
        path = f"/apis/{self.group}/v1/things"
        body: Schema = {"apiVersion": f"{self.group}/v1", "kind": "Thing", "metadata": {"name": name}}
        if self._maybe(0.9):
            body["spec"] = self.value(spec)
        if self._maybe(0.3):
            body["status"] = self.value(status)
        if self._maybe(0.2):
            body["metadata"]["labels"] = {"l": self.random.choice(("x", "y"))}
        query = f"?fieldManager={manager}" + self.random.choice(
            ("", "", "&fieldValidation=Strict", "&fieldValidation=Ignore", "&dryRun=All")
        )
        part = "/status" if self._maybe(0.15) else ""
        match self.random.choice(
            ("create", "create", "apply", "apply", "apply", "merge", "merge", "put", "get", "delete", "patch")
        ):
            case "create":
                return {"ask": f"POST {path}{query}", "send": body}
            case "apply":
                force = "&force=true" if self._maybe(0.4) else ""
                return {
                    "ask": f"PATCH {path}/{name}{part}{query}{force}",
                    "send": body,
                    "type": "application/apply-patch+yaml",
                }
            case "merge":
                patch = {field: value for field, value in body.items() if field in ("spec", "status")}
                return {
                    "ask": f"PATCH {path}/{name}{part}{query}",
                    "send": patch,
                    "type": "application/merge-patch+json",
                }
            case "put":
                body["metadata"]["resourceVersion"] = "{version}"
                return {"ask": f"PUT {path}/{name}{part}{query}", "send": body}
            case "get":
                return {"ask": f"GET {path}/{name}", "keep": {"version": "metadata.resourceVersion"}}
            case "delete" if self._maybe(0.5):
                return {"ask": f"DELETE {path}/{name}"}
        field = self.random.choice(list(spec["properties"]))
        operation = self.random.choice((
            {"op": "remove", "path": f"/spec/{field}"},
            {"op": "add", "path": f"/spec/{field}", "value": self.value(spec["properties"][field])},
            {"op": "replace", "path": f"/spec/{field}", "value": self.value(spec["properties"][field])},
        ))  # fmt: skip
        return {"ask": f"PATCH {path}/{name}{query}", "send": [operation], "type": "application/json-patch+json"}
