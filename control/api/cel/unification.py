"""Whether a type may stand where another is wanted, and what unknown types are then known to be."""

from __future__ import annotations

from collections.abc import Sequence

from control.api.cel.types import DYN, Type, is_dyn, list_of, map_of, optional_of, type_of

_NULLABLE = frozenset({"opaque", "object", "timestamp", "duration"})


class Mapping:
    """What is known of the unknown types of one expression."""

    def __init__(self) -> None:
        self._found: dict[str, Type] = {}
        self._learnt: list[tuple[str, Type | None]] = []
        """What the last question taught, with what was known before."""

    def assignable(self, wanted: Type, given: Type) -> bool:
        """Tell whether a type fits, and learn from it where it does."""
        return self.all_assignable((wanted,), (given,))

    def all_assignable(self, wanted: Sequence[Type], given: Sequence[Type]) -> bool:
        """Tell whether each type fits; where one does not, nothing is learnt."""
        self._learnt.clear()
        if len(wanted) == len(given) and all(self._fits(one, two) for one, two in zip(wanted, given, strict=True)):
            return True
        for name, known in reversed(self._learnt):
            if known is None:
                del self._found[name]
            else:
                self._found[name] = known
        return False

    def _learn(self, name: str, found: Type) -> None:
        self._learnt.append((name, self._found.get(name)))
        self._found[name] = found

    def substituted(self, found: Type, *, unknown_is_dyn: bool = False) -> Type:
        """Return a type with what is known in place of what was not."""
        if found.kind == "parameter":
            known = self._found.get(found.name)
            if known is not None:
                return self.substituted(known, unknown_is_dyn=unknown_is_dyn)
            return DYN if unknown_is_dyn else found
        if not found.parameters:
            return found
        inner = [self.substituted(each, unknown_is_dyn=unknown_is_dyn) for each in found.parameters]
        return _rebuilt(found, inner)

    def _fits(self, one: Type, two: Type) -> bool:
        if two.kind == "parameter":
            valid, has_known = self._valid(one, two)
            if valid or has_known:
                return valid
        if one.kind == "parameter":
            return self._valid(two, one)[0]
        if is_dyn(one) or is_dyn(two):
            return True
        if one.kind == "null" or two.kind == "null":
            other = two if one.kind == "null" else one
            return other.kind in _NULLABLE or other.kind == "null"
        if one.kind == "type":
            return two.kind == "type"
        if one.kind in ("opaque", "list", "map"):
            return (
                one.kind == two.kind
                and one.name == two.name
                and len(one.parameters) == len(two.parameters)
                and all(self._fits(first, second) for first, second in zip(one.parameters, two.parameters, strict=True))
            )
        return one.kind == two.kind and one.name == two.name

    def _valid(self, found: Type, unknown: Type) -> tuple[bool, bool]:
        """Tell whether an unknown type may be one that is found, and whether something was known of it."""
        if found == unknown:
            return True, True
        known = self._found.get(unknown.name)
        if known is not None:
            if found == known:
                return True, True
            if self._fits(found, known):
                wider = found if less_specific(found, known) else known
                if self._free_of(unknown, wider):
                    self._learn(unknown.name, wider)
                return True, True
            return False, True
        if self._free_of(unknown, found):
            self._learn(unknown.name, found)
            return True, False
        return False, False

    def _free_of(self, unknown: Type, within: Type) -> bool:
        if unknown == within:
            return False
        if within.kind == "parameter":
            known = self._found.get(within.name)
            return known is None or self._free_of(unknown, known)
        return all(self._free_of(unknown, each) for each in within.parameters)


def less_specific(one: Type, two: Type) -> bool:
    """Tell whether a type says as much as another or less."""
    if one.kind in ("dyn", "parameter"):
        return True
    if two.kind in ("dyn", "parameter") or one.kind != two.kind:
        return False
    if one.kind == "type":
        return True
    if one.kind in ("opaque", "list", "map"):
        return (
            one.name == two.name
            and len(one.parameters) == len(two.parameters)
            and all(less_specific(first, second) for first, second in zip(one.parameters, two.parameters, strict=True))
        )
    return one == two


def _rebuilt(found: Type, inner: list[Type]) -> Type:
    match found.kind:
        case "list":
            return list_of(inner[0])
        case "map":
            return map_of(inner[0], inner[1])
        case "type":
            return type_of(inner[0])
    return optional_of(inner[0])
