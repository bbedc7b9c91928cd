"""The store's transaction by hand, the bounds of requests, and what new objects are given."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.apiserver.registry import GENERATED_BASE_MAX, NAME_LETTERS, generated_name, new_uid
from control.apiserver.rest.bounds import Bounds
from control.apiserver.wire import transaction
from proto.etcd.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 63) - 1))


@given(st.binary(max_size=200), numbers, st.one_of(st.none(), st.binary(max_size=400)), numbers)
def test_transactions_are_what_protobuf_makes_of_them(
    key: bytes, revision: int, value: bytes | None, lease: int
) -> None:
    guard = Compare(result=Compare.EQUAL, target=Compare.MOD, key=key, mod_revision=revision)
    read = RequestOp(request_range=RangeRequest(key=key))
    if value is None:
        then = RequestOp(request_delete_range=DeleteRangeRequest(key=key))
        made = transaction.guarded_delete(key, revision)
    else:
        then = RequestOp(request_put=PutRequest(key=key, value=value, lease=lease))
        made = transaction.guarded_put(key, revision, value, lease)
    wanted = TxnRequest(compare=[guard], success=[then], failure=[read])
    assert TxnRequest.FromString(made) == wanted
    if key and value != b"":
        assert made == wanted.SerializeToString()


def test_new_names_and_uids() -> None:
    uids = {new_uid() for _ in range(1000)}
    assert len(uids) == 1000
    for text in uids:
        read = uuid.UUID(text)
        assert (read.version, read.variant, str(read)) == (4, uuid.RFC_4122, text)
    names = {generated_name("web-") for _ in range(1000)}
    assert all(re.fullmatch(f"web-[{NAME_LETTERS}]{{5}}", name) for name in names)
    assert len(names) > 990
    assert {letter for name in names for letter in name[4:]} == set(NAME_LETTERS)
    assert len(generated_name("x" * 100)) == GENERATED_BASE_MAX + 5


async def test_what_takes_too_long_is_ended() -> None:
    bounds = Bounds(0.05, 0.01)
    ended = False

    async def slow() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(30)
        finally:
            ended = True

    with pytest.raises(TimeoutError):
        await bounds.within(slow())
    assert ended
    # The task itself goes on, and others are not touched.
    await bounds.within(asyncio.sleep(0.01))

    async def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await bounds.within(fails())


async def test_a_task_that_somebody_else_cancels_is_cancelled() -> None:
    bounds = Bounds(30.0, 0.01)
    task = asyncio.ensure_future(bounds.within(asyncio.sleep(30)))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
