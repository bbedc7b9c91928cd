"""The check of histories finds each kind of lie, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulation.linearizability import check
from tests.store.faults.history import Call, Change, Kind, Outcome, findings
from tests.store.faults.workload import operations

DONE, REFUSED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN
K = b"k"
PUT = Call(1, Kind.PUT, K, 1, b"a", outcome=DONE, returned_at=2, revision=2, changed=True)
GET = Call(2, Kind.GET, K, 3, outcome=DONE, returned_at=4, revision=2, seen=b"a")
SWAP = Call(1, Kind.SWAP, K, 5, b"b", b"a", outcome=DONE, returned_at=6, revision=3, changed=True)
MISS = Call(1, Kind.SWAP, K, 5, b"b", b"x", outcome=DONE, returned_at=6, revision=2, seen=b"a")
DELETE = Call(1, Kind.DELETE, K, 7, outcome=DONE, returned_at=8, revision=4, changed=True)
A, B, GONE = Change(K, b"a", 2), Change(K, b"b", 3), Change(K, None, 4)


@pytest.mark.parametrize(
    ("calls", "changes"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([PUT, GET, SWAP, DELETE], [A, B, GONE], id="all kinds"),
        pytest.param([PUT, GET, MISS], [A], id="a swap that does not match"),
        pytest.param([replace(PUT, outcome=UNKNOWN)], [A], id="unknown and applied"),
        pytest.param([replace(PUT, outcome=UNKNOWN)], [], id="unknown and not applied"),
        pytest.param([replace(PUT, outcome=REFUSED)], [], id="refused"),
        pytest.param([PUT, SWAP, replace(DELETE, outcome=UNKNOWN)], [A, B, GONE], id="unknown deletion"),
        pytest.param([PUT, SWAP, replace(GET, returned_at=9)], [A, B], id="a slow read may be old"),
    ],
)
def test_what_is_right(calls: list[Call], changes: list[Change]) -> None:
    assert findings(calls, changes) == []
    assert check(operations(calls))


@pytest.mark.parametrize(
    ("calls", "changes", "what"),
    [
        pytest.param([PUT], [], "lost", id="a lost put"),
        pytest.param([PUT, SWAP], [A], "lost", id="a lost swap"),
        pytest.param([PUT, SWAP, DELETE], [A, B], "lost", id="a lost deletion"),
        pytest.param([PUT], [A, replace(A, revision=3)], "2 times", id="applied twice"),
        pytest.param([PUT], [replace(A, revision=5)], "is at 5", id="another revision"),
        pytest.param([replace(PUT, outcome=REFUSED)], [A], "refused", id="refused and applied"),
        pytest.param([PUT, MISS], [A, B], "refused", id="a swap that said no and did it"),
        pytest.param([], [A], "nobody", id="out of nowhere"),
        pytest.param([PUT, SWAP], [A, B, GONE], "nobody", id="a deletion out of nowhere"),
        pytest.param([PUT, replace(GET, seen=None)], [A], "read as None", id="a read that misses a write"),
        pytest.param([PUT, replace(GET, seen=None, revision=1)], [A], "stale", id="a stale read"),
        pytest.param([PUT, SWAP, replace(GET, called_at=7, returned_at=8)], [A, B], "stale", id="stale after a swap"),
        pytest.param([PUT, replace(SWAP, expected=b"x")], [A, B], "replaced", id="a swap of something else"),
        pytest.param([PUT, replace(MISS, expected=b"a")], [A], "matched", id="a swap refused though it matches"),
        pytest.param([PUT], [B, A], "follows", id="revisions go back"),
    ],
)
def test_what_is_wrong(calls: list[Call], changes: list[Change], what: str) -> None:
    assert any(what in finding for finding in findings(calls, changes)), findings(calls, changes)
