"""Sets of fields in the form in which managedFields writes them: FieldsV1, a tree of dicts.

``{"f:spec": {"f:replicas": {}, "f:ports": {".": {}, 'k:{"port":80}': {}}}}`` holds three fields: an empty dict is a
field that is owned, a dot says that its parent is owned beside what stands below it. The empty set is an empty dict at
the top, where it owns nothing. Trees are never changed once made: what did not change is shared between old and new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import orjson

Tree: TypeAlias = "dict[str, Any]"
Path: TypeAlias = "tuple[str, ...]"
LEAF: Tree = {}
"""A field that is owned; shared, never to be written into."""
DOT = "."


class FieldSetError(ValueError):
    """A value is no FieldsV1."""


def check(value: Any) -> Tree:
    """Return a value that is a FieldsV1, without what no version knows; raises FieldSetError."""
    if not isinstance(value, dict):
        raise FieldSetError("not a map")
    tree: Tree = value
    unknown = [element for element in tree if not _is_element(element)]
    for element, inner in tree.items():
        if element != DOT and element not in unknown and check(inner) is not inner:
            return {key: check(item) for key, item in tree.items() if key not in unknown}
    return {key: item for key, item in tree.items() if key not in unknown} if unknown else tree


def _is_element(element: str) -> bool:
    """Tell whether an element of a path is of a known kind; raises FieldSetError where it is none at all."""
    kind = element[:2]
    if kind == "f:" or element == DOT:
        return True
    if len(kind) < 2 or kind[1] != ":":
        raise FieldSetError(f"missing colon: {element}")
    if kind not in ("k:", "v:", "i:"):
        return False
    try:
        value = orjson.loads(element[2:])
    except orjson.JSONDecodeError as error:
        raise FieldSetError(f"{element}: {error}") from None
    if (kind == "k:" and not isinstance(value, dict)) or (kind == "i:" and not isinstance(value, int)):
        raise FieldSetError(f"not an element of a path: {element}")
    return True


def _made(is_member: bool, below: Tree) -> Tree | None:
    """Return a node of these fields below, None where it holds nothing."""
    if not below:
        return LEAF if is_member else None
    return {DOT: LEAF, **below} if is_member else below


def union(one: Tree, other: Tree) -> Tree:
    """Return the fields of either set."""
    if not one or one is other:
        return other
    made = dict(one)
    for element, inner in other.items():
        mine = made.get(element)
        if mine is None:
            made[element] = inner
        elif element != DOT and mine is not inner and mine != inner:
            made[element] = _joined(mine, inner)
    return made


def _joined(one: Tree, other: Tree) -> Tree:
    """Join two nodes below the top, where an empty one is a member."""
    if not one:
        return other if DOT in other else {DOT: LEAF, **other}
    if not other:
        return one if DOT in one else {DOT: LEAF, **one}
    return union(one, other)


def difference(one: Tree, other: Tree) -> Tree:
    """Return the fields of the first set that are not in the second."""
    common = one.keys() & other.keys()
    if not common:
        return one
    made: Tree | None = None
    for element in common:
        mine, theirs = one[element], other[element]
        left = None if element == DOT else _left(mine, theirs)
        if left is mine:
            continue
        if made is None:
            made = dict(one)
        if left is None:
            del made[element]
        else:
            made[element] = left
    return one if made is None else made


def _left(mine: Tree, theirs: Tree) -> Tree | None:
    """Return what is left of a node, None where that is nothing."""
    if not mine:
        return None if not theirs or DOT in theirs else mine
    if not theirs:
        if DOT not in mine:
            return mine
        return {element: inner for element, inner in mine.items() if element != DOT} or None
    below = difference(mine, theirs)
    if below is mine:
        return mine
    is_member = DOT in below
    return _made(is_member, {element: inner for element, inner in below.items() if element != DOT})


def intersection(one: Tree, other: Tree) -> Tree:
    """Return the fields of both sets."""
    made: Tree = {}
    for element in one.keys() & other.keys():
        mine, theirs = one[element], other[element]
        if element == DOT or not mine or not theirs:
            if element == DOT or ((not mine or DOT in mine) and (not theirs or DOT in theirs)):
                made[element] = LEAF
            continue
        below = intersection(mine, theirs)
        node = _made(DOT in below, {key: inner for key, inner in below.items() if key != DOT})
        if node is not None:
            made[element] = node
    return made


def without(tree: Tree, path: Path) -> Tree:
    """Return the set without a field and all that lies below it."""
    inner = tree.get(path[0])
    if inner is None:
        return tree
    rest = without(inner, path[1:]) if len(path) > 1 else None
    if rest is inner:
        return tree
    made = dict(tree)
    if rest:
        made[path[0]] = rest
    else:
        del made[path[0]]
    return made


def has(tree: Tree, path: Path) -> bool:
    """Tell whether a set has a field."""
    node: Any = tree
    for element in path:
        node = node.get(element)
        if node is None:
            return False
    return not node or DOT in node


def holding(path: Path) -> Tree:
    """Return the set of one field."""
    tree = LEAF
    for element in reversed(path):
        tree = {element: tree}
    return tree


def paths(tree: Tree, path: Path = ()) -> Iterator[Path]:
    """Yield the fields of a set in Kubernetes' order: those of one place before what lies below any of them."""
    ordered = [(element, tree[element]) for element in sorted(tree) if element != DOT]
    for element, inner in ordered:
        if not inner or DOT in inner:
            yield (*path, element)
    for element, inner in ordered:
        if inner:
            yield from paths(inner, (*path, element))
