"""Compare what a node's kernel holds with what is wanted, part by part, in words: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from net import chains
from net.explain.things import Standing, Thing


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold one thing that is not as it is wanted."""

    part: str
    """services, policy, routes, pods, host ports or masquerade."""
    what: str
    """The chain, set, route or pod that it is about."""
    lacks: tuple[str, ...] = ()
    """What is wanted and does not stand."""
    extra: tuple[str, ...] = ()
    """What stands and nobody wants."""


def of_chain(part: str, what: str, want: tuple[str, ...] | None, have: tuple[str, ...] | None) -> Iterable[Difference]:
    """Compare the rules of one chain, or the lines of a set's declaration; None is no chain."""
    if want is None:
        yield Difference(part, what, extra=have or ("(the chain itself)",))
    elif have is None:
        yield Difference(part, what, lacks=want or ("(the chain itself)",))
    elif not chains.same(have, want):
        lacks, extra = _without(want, have), _without(have, want)
        yield Difference(part, what, lacks, extra) if lacks or extra else Difference(part, what, ("(another order)",))


def _without(rules: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the rules that the others lack, whatever the spelling."""
    exact = set(others)
    left = [rule for rule in rules if rule not in exact]
    known = {chains.normal(rule) for rule in exact} if left else set()
    return tuple(rule for rule in left if chains.normal(rule) not in known)


def of_things(part: str, what: str, things: Iterable[Thing], standing: Standing) -> list[Difference]:
    """Look things up in a namespace that was read."""
    lacks = tuple(dict.fromkeys(told for thing in things if (told := thing.missing(standing))))
    return [Difference(part, what, lacks)] if lacks else []


def as_json(differences: Mapping[str, Iterable[Difference]]) -> dict[str, list[dict[str, object]]]:
    """Return differences by node as JSON-shaped values."""
    return {
        node: [{"part": d.part, "what": d.what, "lacks": list(d.lacks), "extra": list(d.extra)} for d in listed]
        for node, listed in differences.items()
    }
