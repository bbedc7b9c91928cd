"""What a change did to the fields of an object, as trees of fields: what was written, and what is gone.

Each type of the facts is made into a shape once; the walks then only look at what differs. They see objects as Go types
would hold them: a structure that is no pointer is there even where the JSON leaves it out, so that filling it is no new
field, and a field of it that is never left out has an owner from the moment in which its structure came.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import orjson

from control.api import schema
from control.api.fieldtrees import DOT, LEAF, Path, Tree

Changes: TypeAlias = "tuple[Tree | None, Tree | None]"
"""What was written and what is gone below one place."""
MISSING: Any = object()
SHAPES_MAX = 4096
ELEMENTS_MAX = 4096
NOT_OWNED = frozenset(
    ("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
     "resourceVersion")
)  # fmt: skip
"""Metadata that nobody owns."""
_NULL_TYPES = ("Time", "MicroTime", "RawExtension")
"""Types that are structures, and null where nothing is in them."""
_ZEROES: dict[str, Any] = {
    "string": "", "bool": False, "int32": 0, "int64": 0, "float64": 0, "double": 0, "Quantity": "0", "IntOrString": 0,
    "Duration": "0s",
}  # fmt: skip


class KeysMissingError(ValueError):
    """An element of a list lacks the fields that it would be known by."""


class Shape:
    """How values of a type are taken apart; this one does not: what has one owner."""

    __slots__ = ()

    def added(self, value: Any) -> Tree:
        """Return the fields of a value that was not there."""
        return LEAF

    def gone(self, value: Any) -> Tree:
        """Return the fields of a value that is not there any more."""
        return LEAF

    def compare(self, old: Any, new: Any) -> Changes:
        """Return what differs between two values that are not equal."""
        return LEAF, None

    def stated(self, value: Any) -> Tree | None:
        """Return the fields that a configuration states; None for none."""
        return LEAF


_LEAF_SHAPE = Shape()


class Structure(Shape):
    """Named fields of different types."""

    __slots__ = ("always", "fields", "full", "others", "skipped", "zeroes")

    def __init__(self, others: Shape = _LEAF_SHAPE, full: Structure | None = None) -> None:
        self.full = full or self
        """The same, where what comes is held by a Go type as what goes always is."""
        self.others = others
        """The shape of fields that the definition lacks."""
        self.fields: dict[str, tuple[str, Shape]] = {}
        """Name → its element of a path, and its shape."""
        self.zeroes: dict[str, Any] = {}
        """What is there though the JSON may leave it out."""
        self.always: tuple[tuple[str, str, Tree], ...] = ()
        """The same as (name, element of a path, fields)."""
        self.skipped: frozenset[str] = frozenset()

    def fill(self, definition: schema.Definition, ignored: frozenset[Path], *, sparse: bool) -> None:
        """Take the fields of a definition, without what is ``ignored`` in it."""
        self.skipped = frozenset(path[0] for path in ignored if len(path) == 1)
        always = []
        for name, field in definition.fields.items():
            if name in self.skipped:
                continue
            inner = frozenset(path[1:] for path in ignored if path[0] == name and len(path) > 1)
            shape = self.fields[name] = (f"f:{name}", _of_field(field, inner, sparse=sparse))
            if (zero := zero_of(field)) is not MISSING:
                self.zeroes[name] = zero
                if not sparse:
                    always.append((name, shape[0], shape[1].added(zero)))
        self.always = tuple(always)

    def added(self, value: Any) -> Tree:
        """Return all its fields, and that it is there."""
        if type(value) is not dict:
            return LEAF
        fields, node = self.fields, {}
        for name, item in value.items():
            known = fields.get(name)
            if known is None:
                node["f:" + name] = self.others.added(item)
            else:
                node[known[0]] = known[1].added(item)
        if self.always:
            node.update({element: zero for name, element, zero in self.always if name not in value})
        if node:
            node[DOT] = LEAF
        return node

    def gone(self, value: Any) -> Tree:
        """Return all its fields, and that it was there."""
        return self.full.added(value)

    def compare(self, old: Any, new: Any) -> Changes:
        """Compare field by field."""
        if type(old or {}) is not dict or type(new or {}) is not dict:
            return LEAF, None
        zeroes, fields = self.zeroes, self.fields
        if not old and not new and not zeroes:
            return LEAF, None
        old, new = old or LEAF, new or LEAF
        written: Tree = {}
        removed: Tree = {}
        skipped = self.skipped
        for name, item in new.items():
            before = old.get(name, MISSING)
            if before is MISSING:
                before = zeroes.get(name, MISSING)
            if name in skipped or before == item:
                continue
            element, shape = fields.get(name) or ("f:" + name, self.others)
            if before is MISSING:
                written[element] = shape.added(item)
            else:
                _note(element, shape.compare(before, item), written, removed)
        for name in old.keys() - new.keys() - skipped:
            element, shape = fields.get(name) or ("f:" + name, self.others)
            after = zeroes.get(name, MISSING)
            if after is MISSING:
                removed[element] = shape.gone(old[name])
            elif after != old[name]:
                _note(element, shape.compare(old[name], after), written, removed)
        return written or None, removed or None

    def stated(self, value: Any) -> Tree | None:
        """Return the fields that are stated; the structure itself is nobody's."""
        if type(value) is not dict:
            return None if value is None else LEAF
        node: Tree = {}
        for name, item in value.items():
            if name in self.skipped:
                continue
            known = self.fields.get(name)
            below = known[1].stated(item) if known else _as_member(self.others.stated(item))
            if item is None or item == {}:
                below = LEAF
            if below is not None:
                node["f:" + name] = below
        return node or None


def _note(element: str, found: Changes, written: Tree, removed: Tree) -> None:
    if found[0] is not None:
        written[element] = found[0]
    if found[1] is not None:
        removed[element] = found[1]


def _as_member(below: Tree | None) -> Tree:
    return {DOT: LEAF, **below} if below else LEAF


class Map(Shape):
    """Values of one type by keys that are nobody's names."""

    __slots__ = ("full", "inner")

    def __init__(self, inner: Shape, full: Map | None = None) -> None:
        self.inner = inner
        self.full = full or self

    def added(self, value: Any) -> Tree:
        """Return all keys, and that there is a map."""
        if not value or type(value) is not dict:
            return LEAF
        inner = self.inner
        node: Tree = {DOT: LEAF}
        if inner is _LEAF_SHAPE:
            for name in value:
                node["f:" + name] = LEAF
        else:
            for name, item in value.items():
                node["f:" + name] = inner.added(item)
        return node

    def gone(self, value: Any) -> Tree:
        """Return all keys, and that there was a map."""
        return self.full.added(value)

    def compare(self, old: Any, new: Any) -> Changes:
        """Compare key by key."""
        if (not old and not new) or type(old or {}) is not dict or type(new or {}) is not dict:
            return LEAF, None
        old, new = old or LEAF, new or LEAF
        written: Tree = {}
        removed: Tree = {}
        for name, item in new.items():
            before = old.get(name, MISSING)
            if before is MISSING:
                written["f:" + name] = self.inner.added(item)
            elif before != item:
                _note("f:" + name, self.inner.compare(before, item), written, removed)
        for name in old.keys() - new.keys():
            removed["f:" + name] = self.inner.gone(old[name])
        return written or None, removed or None

    def stated(self, value: Any) -> Tree | None:
        """Return the keys that are stated."""
        if type(value) is not dict:
            return None if value is None else LEAF
        return {"f:" + name: _as_member(self.inner.stated(item) if item else None) for name, item in value.items()}


class Untyped(Map):
    """What no type is known of: maps are taken apart, all else has one owner."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(self)

    def compare(self, old: Any, new: Any) -> Changes:
        """Compare as the values' own forms tell."""
        forms = (type(old), type(new))
        if dict not in forms or (forms != (dict, dict) and None in (old, new)):
            return super().compare(old, new)
        if forms == (dict, dict):
            return super().compare(old, new)
        if forms[1] is dict:
            return self.added(new), None
        return LEAF, {element: inner for element, inner in self.added(old).items() if element != DOT} or None

    def stated(self, value: Any) -> Tree | None:
        """Return the keys of a map; all else is one field."""
        return super().stated(value) if type(value) is dict else LEAF


class Keyed(Shape):
    """A list whose elements are known by some of their fields, or, where it is a set, by themselves."""

    __slots__ = ("full", "inner", "keys")

    def __init__(self, inner: Shape, keys: tuple[schema.Field, ...], full: Keyed | None = None) -> None:
        self.inner = inner
        self.keys = tuple((field.name, field.default or zero_of(field)) for field in keys)
        """The fields by which elements are known, and what stands for one that an element leaves out."""
        self.full = full or self

    def element(self, item: Any) -> str:
        """Return the element of a path that names an item; raises KeysMissingError."""
        if not self.keys:
            return _element(item) if type(item) is str else f"v:{element_json(item)}"
        if type(item) is not dict:
            raise KeysMissingError(self.keys[0][0])
        if len(self.keys) == 1:
            name = self.keys[0][0]
            value = item.get(name)
            if type(value) is str and len(value) < 256:
                return _named(name, value)
        values = {}
        for name, otherwise in self.keys:
            value = item.get(name, otherwise)
            if value is None or value is MISSING:
                raise KeysMissingError(name)
            values[name] = value
        return f"k:{element_json(values)}"

    def _index(self, items: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Return items by the elements that name them, and apart those of which there are several."""
        found: dict[str, Any] = {}
        several: dict[str, list[Any]] = {}
        for item in items or ():
            element = self.element(item)
            if element in several:
                several[element].append(item)
            elif element in found:
                several[element] = [found.pop(element), item]
            else:
                found[element] = item
        return found, several

    def added(self, value: Any) -> Tree:
        """Return all elements, and that there is a list."""
        if not value or type(value) is not list:
            return LEAF
        found, several = self._index(value)
        node: Tree = {DOT: LEAF}
        for element, item in found.items():
            node[element] = self.inner.added(item)
        for element in several:
            node[element] = LEAF
        return node

    def gone(self, value: Any) -> Tree:
        """Return all elements, and that there was a list."""
        return self.full.added(value)

    def compare(self, old: Any, new: Any) -> Changes:
        """Compare element by element, whatever their order; those that stand twice have one owner."""
        if (not old and not new) or type(old or []) is not list or type(new or []) is not list:
            return LEAF, None
        before, several_before = self._index(old)
        after, several_after = self._index(new)
        written: Tree = {}
        removed: Tree = {}
        for element, item in after.items():
            if element not in before:
                written[element] = self.inner.added(item)
            elif before[element] != item:
                _note(element, self.inner.compare(before[element], item), written, removed)
        for element in before.keys() - after.keys():
            removed[element] = self.inner.gone(before[element])
        for element, items in several_after.items():
            if several_before.get(element) != items:
                written[element] = LEAF
        for element in several_before.keys() - several_after.keys():
            if element not in after:
                removed[element] = LEAF
        return written or None, removed or None

    def stated(self, value: Any) -> Tree | None:
        """Return the elements that are stated."""
        if type(value) is not list:
            return None
        return {self.element(item): _as_member(self.inner.stated(item) if self.keys else None) for item in value}


_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def element_json(value: Any) -> str:
    """Return a value as it stands in an element of a path."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode().translate(_ESCAPED)


@lru_cache(maxsize=ELEMENTS_MAX)
def _named(key: str, value: str) -> str:
    return f"k:{element_json({key: value})}"


@lru_cache(maxsize=256)
def _element(value: str) -> str:
    return f"v:{element_json(value)}"


def zero_of(field: schema.Field) -> Any:
    """Return what stands in a field that the JSON leaves out; MISSING in most."""
    pointer, omitted = "p" in field.flags, "o" in field.flags
    kind = field.type
    if "z" in field.flags or kind == "" or kind == "JSON":
        return MISSING
    if pointer or kind.startswith(("[]", "{}")):
        return MISSING if omitted else None
    if kind in _NULL_TYPES:
        return None
    if schema.resolve(kind) is not None:
        return LEAF
    if kind in ("Quantity", "IntOrString", "Duration"):
        return _ZEROES[kind]
    if omitted:
        return MISSING
    word = schema.definition(kind).scalar if schema.is_reference(kind) else kind
    return _ZEROES.get(word)


_UNTYPED = Untyped()


def _of_field(field: schema.Field, ignored: frozenset[Path], *, sparse: bool) -> Shape:
    kind = field.type
    if field.map_type == "atomic":
        return _LEAF_SHAPE
    if not kind.startswith("[]"):
        return _of_type(kind, ignored, sparse=sparse)
    inner = schema.element(kind)
    if field.list_type == "set":
        return Keyed(_LEAF_SHAPE, ())
    if field.list_type != "map":
        return _LEAF_SHAPE
    fields = schema.definition(inner).fields
    keys = tuple(fields[key] for key in sorted(field.list_keys))
    full = Keyed(_of_type(inner, sparse=False), keys)
    return Keyed(_of_type(inner, sparse=True), keys, full) if sparse else full


def _of_type(kind: str, ignored: frozenset[Path] = frozenset(), *, sparse: bool) -> Shape:
    if kind == "":
        return _UNTYPED
    if kind.startswith("{}"):
        full = Map(_of_type(schema.element(kind), sparse=False))
        return Map(_of_type(schema.element(kind), sparse=True), full) if sparse else full
    if kind.startswith("[]"):
        return _LEAF_SHAPE
    found = schema.resolve(kind)
    return _LEAF_SHAPE if found is None or found.atomic else _structure(kind, ignored, sparse=sparse)


_structures: dict[tuple[str, frozenset[Path], bool], Structure] = {}


def _structure(name: str, ignored: frozenset[Path], *, sparse: bool) -> Structure:
    """Return the shape of a definition; definitions may refer to themselves."""
    found = _structures.get((name, ignored, sparse))
    if found is None:
        if len(_structures) >= SHAPES_MAX:
            # Those of custom resources come and go with their definitions.
            _structures.clear()
        full = _structure(name, ignored, sparse=False) if sparse else None
        found = _structures[name, ignored, sparse] = Structure(full=full)
        found.fill(schema.definition(name), ignored, sparse=sparse)
    return found


_METADATA = frozenset(("metadata", name) for name in NOT_OWNED)
_TOP: frozenset[Path] = frozenset({("apiVersion",), ("kind",)}) | _METADATA


@lru_cache(maxsize=1024)
def of(definition_name: str, ignored: frozenset[Path] = frozenset(), *, sparse: bool = False) -> Shape:
    """Return the shape of an object, without what nobody owns and what is ``ignored``.

    ``sparse`` is that of what an applied configuration made: what it brings is as it was sent, no Go type.
    """
    every = _TOP | ignored
    if definition_name:
        try:
            return _structure(definition_name, every, sparse=sparse)
        except KeyError:
            # A custom resource's definition went while an object of it was on its way.
            return of("", ignored, sparse=sparse)
    plain = Structure(_UNTYPED)
    metadata = schema.Definition("", {"metadata": schema.Field("metadata", "meta.v1.ObjectMeta", "o", 0)}, {}, {})
    plain.fill(metadata, every, sparse=sparse)
    return plain
