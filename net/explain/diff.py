"""Compare what a node's kernel holds with what is wanted, part by part, in words: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from net import chains
from net.chains import Chains, Jumps, Owner, Tables
from net.explain.things import Standing, Thing

Describe = Callable[[str, bytes, bytes], str]
"""Turns a set's name, a key and its data into words."""


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


def of_chains(
    part: str, wanted: Tables, standing: Tables, jumps: Jumps, owned: Owner, prefix: str = ""
) -> list[Difference]:
    """Compare iptables' chains; standing tables may bear a prefix (ip6/)."""
    found: list[Difference] = []
    for table in sorted(
        {*wanted, *jumps, *(name.removeprefix(prefix) for name in standing if name.startswith(prefix))}
    ):
        have, want = standing.get(prefix + table, {}), wanted.get(table, {})
        what = f"iptables {prefix}{table} chain"
        for chain in sorted({*want, *(name for name in have if owned(name))}):
            found += _of_chain(part, f"{what} {chain}", want.get(chain), have.get(chain))
        found += _of_jumps(part, what, have, jumps, table)
    return found


def _of_chain(part: str, what: str, want: tuple[str, ...] | None, have: tuple[str, ...] | None) -> Iterable[Difference]:
    if want is None:
        yield Difference(part, what, extra=have or ("(the chain itself)",))
    elif have is None:
        yield Difference(part, what, lacks=want or ("(the chain itself)",))
    elif not chains.same(have, want):
        lacks = tuple(rule for rule in want if not _has(have, rule))
        extra = tuple(rule for rule in have if not _has(want, rule))
        yield Difference(part, what, lacks, extra) if lacks or extra else Difference(part, what, ("(another order)",))


def _of_jumps(part: str, what: str, have: Chains, jumps: Jumps, table: str) -> Iterable[Difference]:
    lacking: dict[str, list[str]] = {}
    for jump in jumps.get(table, ()):
        if not _has(have.get(jump.chain, ()), jump.rule):
            lacking.setdefault(jump.chain, []).append(jump.rule)
    for chain, rules in sorted(lacking.items()):
        yield Difference(part, f"{what} {chain}", lacks=tuple(rules))


def _has(rules: Iterable[str], rule: str) -> bool:
    listed = tuple(rules)
    return rule in listed or any(chains.same((one,), (rule,)) for one in listed)


def of_elements(
    part: str,
    table: str,
    wanted: Mapping[str, Mapping[bytes, bytes]],
    standing: Mapping[str, Mapping[bytes, bytes]],
    describe: Describe,
) -> list[Difference]:
    """Compare the elements of nftables' sets and maps."""
    found = []
    for name in sorted({*wanted, *standing}):
        want, have = wanted.get(name, {}), standing.get(name, {})
        lacks = sorted(describe(name, key, data) for key, data in want.items() if have.get(key) != data)
        extra = sorted(describe(name, key, data) for key, data in have.items() if want.get(key) != data)
        if lacks or extra:
            found.append(Difference(part, f"nftables {table} set {name}", tuple(lacks), tuple(extra)))
    return found


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
