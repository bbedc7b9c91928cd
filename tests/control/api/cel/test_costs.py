"""What expressions cost when they run, by upstream's own table (celcoststability_test.go), and what ends those that cost much."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.cel.environment import CALL_COST_MAX, compile_expression
from control.api.cel.errors import LimitError, TooLongError
from control.api.cel.frame import Purse
from control.api.cel.meter import Meter

SELF: dict[str, Any] = {
    "s": "Rook takes 👑", "t": "Rook takes 👑", "i": 5, "l": [1, 2, 3], "k": [1, 2, 3], "big": list(range(1000)),
    "val": {"b": 1, "d": 2}, "a1": {"b1": {"c1": 4}}, "objs": [{"f1": "a", "f2": "b"}, {"f1": "a", "f2": "b"}],
    "m": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}], "e": "Pending",
}  # fmt: skip
COSTS: list[tuple[str, int]] = [
    ("self.i == self.i", 5), ("type(self.i) == int", 4), ("double(5) < 10.0", 1), ("self.s.startsWith('Rook')", 3),
    ("!self.s.startsWith('knight')", 4), ("self.s.matches('^[^0-9]*$')", 8), ("size(self.s) == 12", 4),
    ("self.s.charAt(3) == 'k'", 4), ("self.s.indexOf('o') == 1", 4), ("self.s.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
    ("self.s.split(' ') == ['Rook', 'takes', '👑']", 6), ("self.s.substring(4, 10).trim() == 'takes'", 6),
    ("self.s.lowerAscii() == self.s.lowerAscii()", 10), ("'%o %o %o'.format([7, 8, 9]) == '7 10 11'", 2),
    ("self.e in ['Pending', 'Available']", 2), ("1 in self.l", 5), ("self.k[0] in self.l", 8),
    ("self.l + self.k == [1, 2, 3, 1, 2, 3]", 6), ("has(self.l) && has(self.k)", 2),
    ("sets.contains(self.big, [1])", 1003), ("!sets.equivalent(self.big, [1, 2, 3])", 6004),
    ("self.objs[0] == self.objs[1]", 7), ("has(self.a1.b1.c1)", 3), ("'b' in self.val", 3),
    ("self.val.all(k, self.val[k] > 0)", 17), ("!self.val.exists(k, self.val[k] == 3)", 20),
    ("self.val.exists_one(k, self.val[k] == 2)", 14), ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
    ("self.val.all(k, v, v > 0)", 13), ("self.val.existsOne(k, v, v == 2)", 10),
    ("self.val.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
    ("self.val.transformMapEntry(k, v, {k + '2': v + 1}).size() == 2", 77),
    ("self.m.all(m, !has(m.v2) || m.v2 == 'z')", 21), ("!self.m.all(m, m.k.endsWith('1'))", 18),
    ("self.m.exists(m, m.v2 == 'z')", 22), ("!self.m.all(m, m.v2 != 'z')", 20),
    ("self.m.map(m, m.v).exists(v, v == 'b1')", 55), ("self.m.map(m, has(m.v2) && m.v2 == 'z', m.v2).size() == 1", 25),
    ("self.m.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1", 39),
    ("self.m.transformList(i, m, m.v).size() == 3", 47),
]  # fmt: skip


@pytest.mark.parametrize(("text", "cost"), COSTS, ids=[text for text, _ in COSTS])
def test_costs(text: str, cost: int) -> None:
    program = compile_expression(text, ("self",))
    assert program.spend({"self": SELF}, CALL_COST_MAX) == (True, cost)
    with pytest.raises(LimitError, match="operation cancelled: actual cost limit exceeded"):
        program.spend({"self": SELF}, cost - 1)


LONG: list[tuple[str, str]] = [
    ("loops", "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"),
    ("range", "lists.range(9223372036854775807).size() > 0"),
    ("comparisons", "self.map(a, self + [a]).all(b, self.all(c, self + [c] != b))"),
    ("growing texts", "self.all(a, self.map(b, 'x').join('yyyyyyyyyy').replace('', self.map(c, 'zzzzzzzz').join()) != '')"),
    ("growing joins", "self.map(a, 'x').join(self.map(b, 'yyyyyyyyyyyyyyyyyyyyyyyyyyyy').join()).size() > 1"),
    ("sorting", "(self + self + self).sort().distinct().size() > 0"),
    ("flattening", "[self].flatten(9223372036854775807).size() > 1"),
]  # fmt: skip


@pytest.mark.parametrize("text", [text for _, text in LONG], ids=[name for name, _ in LONG])
def test_nothing_runs_long(text: str) -> None:
    program = compile_expression(text, ("self",))
    values = {"self": list(range(10_000))}
    with pytest.raises(TooLongError):
        Meter(1 << 40, Purse(20_000)).run(program, values)
    with pytest.raises(LimitError):
        program.spend(values, 100_000)


def test_asking_the_authorizer_is_not_long() -> None:
    text = "authorizer.path('/a').check('get').allowed() || true"
    from control.api.cel.admission import Expressions
    from control.api.cel.authorizer import JUDGE, authorizer

    token = JUDGE.set(lambda question: (False, ""))
    try:
        assert Meter(1 << 40, Purse(100)).run(Expressions().compile(text), authorizer()) is True
    finally:
        JUDGE.reset(token)
