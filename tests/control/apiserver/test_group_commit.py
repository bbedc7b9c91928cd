"""Many changes of one key together: each once, in order, whoever is cancelled or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from control.apiserver.group_commit import GroupCommit, Turn


class Key:
    """A key that is changed by compare-and-swap, one round trip a change."""

    def __init__(self) -> None:
        self.value: list[str] = []
        self.rounds = 0
        self.open = asyncio.Event()
        self.open.set()

    async def carry_out(self, turns: Sequence[Turn[str]]) -> None:
        await self.open.wait()
        await asyncio.sleep(0)
        self.rounds += 1
        for turn in turns:
            if turn.work == "wrong":
                turn.finish(ValueError("wrong"))
                continue
            self.value.append(turn.work)
            turn.finish()


async def test_those_who_wait_go_together_and_in_order() -> None:
    key = Key()
    line = GroupCommit(key.carry_out)
    await asyncio.gather(*(line.do(str(index)) for index in range(50)))
    assert key.value == [str(index) for index in range(50)]
    # The first finds nobody else yet.
    assert key.rounds == 2


async def test_one_fault_is_no_other_ones() -> None:
    key = Key()
    line = GroupCommit(key.carry_out)
    found = await asyncio.gather(*(line.do(work) for work in ("a", "wrong", "b")), return_exceptions=True)
    assert [type(each) for each in found] == [type(None), ValueError, type(None)]
    assert key.value == ["a", "b"]


async def test_a_leader_that_is_cancelled_takes_nobody_along() -> None:
    key = Key()
    line = GroupCommit(key.carry_out)
    key.open.clear()
    tasks = [asyncio.ensure_future(line.do(str(index))) for index in range(4)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in (tasks[0], tasks[2]):
        task.cancel()
    await asyncio.sleep(0)
    key.open.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False, True, False]
    assert key.value == ["1", "3"]


async def test_what_breaks_breaks_for_all_of_the_batch() -> None:
    async def carry_out(turns: Sequence[Turn[str]]) -> None:
        raise OSError("no store")

    line = GroupCommit(carry_out)
    with pytest.raises(OSError, match="no store"):
        await line.do("a")
    with pytest.raises(OSError, match="no store"):
        await line.do("b")


async def test_a_batch_is_bounded() -> None:
    key = Key()
    line = GroupCommit(key.carry_out, batch_max=10)
    await asyncio.gather(*(line.do(str(index)) for index in range(31)))
    assert (len(key.value), key.rounds) == (31, 4)
