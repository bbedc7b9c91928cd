"""Compare wanted iptables chains with standing ones and write the restore input between them: pure.

    have  KUBE-SVC-A: (r1, r2)   KUBE-SVC-B: (r3)
    want  KUBE-SVC-A: (r1)       KUBE-SVC-C: (r4)
    →     *nat
          :KUBE-SVC-A - [0:0]         a named chain is flushed by --noflush, then filled anew
          :KUBE-SVC-C - [0:0]
          :KUBE-SVC-B - [0:0]         emptied first, so that nothing refers to anything
          -A KUBE-SVC-A r1 …
          -X KUBE-SVC-B
          COMMIT

Chains that are not named stay as they are, and so do everybody else's.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping

Chains = dict[str, tuple[str, ...]]
"""The rules of each chain, without the chain's name in front."""
Tables = dict[str, Chains]
"""The chains of each table."""
Jumps = Mapping[str, tuple[tuple[str, str], ...]]
"""By table: (chain of the kernel, rule) pairs that must stand, ours alone."""
Owner = Callable[[str], bool]
"""Tells whether a chain's name is ours to change."""


def parse(saved: str) -> Tables:
    """Read iptables-save's output."""
    tables: Tables = {}
    rules: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table, rules = line[1:].strip(), {}
        elif line.startswith(":"):
            rules[line[1:].split(" ", 1)[0]] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            rules.setdefault(chain, []).append(rule)
        elif line.strip() == "COMMIT":
            tables[table] = {chain: tuple(listed) for chain, listed in rules.items()}
    return tables


def normal(rule: str) -> tuple[object, ...]:
    """Return a rule in a form in which two spellings of one rule are equal."""
    words: list[object] = []
    previous = ""
    for word in shlex.split(rule):
        words.append(round(float(word) * 0x80000000) if previous == "--probability" else word)
        previous = word
    return tuple(words)


def same(have: tuple[str, ...], want: tuple[str, ...]) -> bool:
    """Tell whether two chains hold the same rules."""
    if have == want:
        return True
    return len(have) == len(want) and all(
        mine == yours or normal(mine) == normal(yours) for mine, yours in zip(have, want, strict=True)
    )


def difference(have: Tables, want: Tables, jumps: Jumps, owned: Owner) -> str:
    """Return the iptables-restore --noflush input that turns what stands into what is wanted; "" for nothing."""
    return "".join(
        _table(table, have.get(table, {}), want.get(table, {}), jumps.get(table, ()), owned)
        for table in sorted({*want, *jumps, *have})
    )


def _table(table: str, have: Chains, want: Chains, jumps: tuple[tuple[str, str], ...], owned: Owner) -> str:
    changed = [name for name, rules in want.items() if name not in have or not same(have[name], rules)]
    obsolete = [name for name in have if name not in want and owned(name)]
    missing = [(chain, rule) for chain, rule in jumps if not _stands(have.get(chain, ()), rule)]
    stale = list(_stale_jumps(have, jumps, obsolete, owned))
    if not (changed or obsolete or missing or stale):
        return ""
    lines = [f"*{table}"]
    lines += [f":{name} - [0:0]" for name in (*changed, *obsolete)]
    for name in changed:
        lines += [f"-A {name} {rule}" for rule in want[name]]
    # The last one inserted stands first: reversed, the jumps end in the order in which they are listed.
    lines += [f"-I {chain} 1 {rule}" for chain, rule in reversed(missing)]
    lines += [f"-D {chain} {rule}" for chain, rule in stale]
    lines += [f"-X {name}" for name in obsolete]
    lines.append("COMMIT\n")
    return "\n".join(lines)


def _stands(rules: tuple[str, ...], rule: str) -> bool:
    return rule in rules or any(normal(rule) == normal(standing) for standing in rules)


def _stale_jumps(
    have: Chains, jumps: tuple[tuple[str, str], ...], obsolete: Iterable[str], owned: Owner
) -> Iterable[tuple[str, str]]:
    """Yield rules of the kernel's own chains that lead to a chain which is about to go."""
    gone = set(obsolete)
    if not gone:
        return
    wanted = {(chain, normal(rule)) for chain, rule in jumps}
    for chain, rules in have.items():
        if owned(chain):
            continue
        for rule in rules:
            words = normal(rule)
            if len(words) >= 2 and words[-2] in ("-j", "-g") and words[-1] in gone and (chain, words) not in wanted:
                yield chain, rule


def merged(have: Tables, want: Tables, jumps: Jumps, owned: Owner) -> Tables:
    """Return what stands once `difference` was applied."""
    after: Tables = {}
    for table in {*have, *want, *jumps}:
        kept = {name: rules for name, rules in have.get(table, {}).items() if not owned(name)}
        for chain, rule in jumps.get(table, ()):
            if not _stands(kept.get(chain, ()), rule):
                kept[chain] = (rule, *kept.get(chain, ()))
        after[table] = {**kept, **want.get(table, {})}
    return after
