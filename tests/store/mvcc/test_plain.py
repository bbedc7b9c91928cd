"""Requests that are recognized by their shape do what they would do step by step, on every member."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proto.etcd.rpc_pb2 import (
    CompactionRequest,
    Compare,
    PutRequest,
    PutResponse,
    RangeRequest,
    RequestOp,
    ResponseHeader,
    ResponseOp,
    TxnRequest,
    TxnResponse,
)
from proto.raft.command_pb2 import InternalRequest
from store.machine import Machine
from store.mvcc.encoding import plain_put, plain_put_of, plain_put_request, plain_range, varint
from store.mvcc.interval import Interval
from store.mvcc.plain import GuardHeld, guarded_put_of
from tests.store.mvcc.requests import delete_range, op_delete, op_range

SIZES = (1, 2, 127, 128, 300, 16_383, 16_384, 70_000)
KEYS = st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"k" * 127, b"k" * 128, b"k" * 300]))
VALUES = st.one_of(st.binary(max_size=4), st.sampled_from([b"v" * size for size in SIZES]))
PUTS = st.builds(
    PutRequest,
    key=KEYS,
    value=VALUES,
    lease=st.sampled_from([0, 0, 0, 7]),
    prev_kv=st.sampled_from([False, False, True]),
    ignore_value=st.sampled_from([False, False, True]),
)


@given(PUTS)
def test_what_is_cut_is_what_would_be_decoded(request: PutRequest) -> None:
    body = request.SerializeToString()
    cut = plain_put(body, 0)
    is_plain = request == PutRequest(key=request.key, value=request.value) and 0 < len(request.key) < 128
    assert (cut is not None) == bool(is_plain and request.value)
    payload = InternalRequest(put=request).SerializeToString()
    assert plain_put_of(payload) == cut
    if cut is not None:
        assert cut[0] == request.key
        assert PutRequest.FromString(cut[1] + b"\x12" + cut[2]) == request
        assert plain_put_request(body) == payload


@given(st.binary(max_size=40), st.integers(0, 3), st.integers(0, 255))
def test_no_bytes_are_cut_that_mean_something_else(noise: bytes, place: int, byte: int) -> None:
    request = PutRequest(key=b"key", value=b"value")
    altered = bytearray(plain_put_request(request.SerializeToString()))
    altered[place * 4] = byte
    for data in (noise, b"\x0a" + noise, bytes(altered), bytes(altered) + noise):
        cut = plain_put_of(data)
        if cut is not None:
            decoded = InternalRequest.FromString(data)
            assert decoded == InternalRequest(put=PutRequest(key=cut[0], value=decoded.put.value))
            assert decoded.SerializeToString() == data


def test_a_length_in_more_bytes_than_it_needs_is_decoded() -> None:
    assert plain_put(b"\x0a\x01k\x12\x01v", 0) == (b"k", b"\x0a\x01k", b"\x01v")
    assert plain_put(b"\x0a\x01k\x12\x81\x00v", 0) is None
    assert plain_put(b"\x0a\x01k\x12\x81\x80\x00v", 0) is None


RANGES = st.builds(
    RangeRequest,
    key=st.one_of(st.just(b""), KEYS),
    range_end=st.sampled_from([b"", b"", b"z"]),
    limit=st.sampled_from([0, 1, 2]),
    revision=st.sampled_from([0, 0, 3]),
    sort_order=st.sampled_from([RangeRequest.NONE, RangeRequest.NONE, RangeRequest.DESCEND]),
    serializable=st.booleans(),
    keys_only=st.sampled_from([False, False, True]),
    count_only=st.sampled_from([False, False, True]),
)


@given(RANGES)
def test_a_plain_range_is_for_one_key_as_of_now(request: RangeRequest) -> None:
    cut = plain_range(request.SerializeToString())
    plain = RangeRequest(key=request.key, serializable=request.serializable, limit=request.limit)
    assert (cut is not None) == (request == plain and 0 < len(request.key) < 128 and request.limit <= 1)
    assert cut is None or cut == (request.key, request.serializable)


@given(st.binary(max_size=12), st.integers(0, 9), st.integers(0, 255))
def test_no_bytes_are_a_plain_range_that_ask_for_something_else(noise: bytes, place: int, byte: int) -> None:
    altered = bytearray(RangeRequest(key=b"key", limit=1, serializable=True).SerializeToString())
    altered[place % len(altered)] = byte
    for data in (noise, b"\x0a" + noise, bytes(altered), bytes(altered) + noise):
        cut = plain_range(data)
        if cut is not None:
            decoded = RangeRequest.FromString(data)
            assert decoded == RangeRequest(key=cut[0], serializable=cut[1], limit=decoded.limit)
            assert decoded.limit <= 1


FEW_KEYS = st.sampled_from([b"a", b"b", b"k" * 127])
COMPARES = st.builds(
    Compare,
    key=FEW_KEYS,
    target=st.sampled_from([Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.VALUE]),
    result=st.sampled_from([Compare.EQUAL, Compare.EQUAL, Compare.EQUAL, Compare.GREATER]),
    range_end=st.sampled_from([b"", b"", b"", b"z"]),
)


@st.composite
def txns(draw: st.DrawFn) -> TxnRequest:
    compares = draw(st.lists(COMPARES, min_size=1, max_size=2))
    for compare in compares:
        field = draw(st.sampled_from(["version", "create_revision", "mod_revision"]))
        setattr(compare, field, draw(st.integers(0, 4)))
    put = PutRequest(key=draw(FEW_KEYS), value=draw(VALUES), prev_kv=draw(st.integers(0, 4)) == 0)
    failure = draw(st.sampled_from([[], [op_range(b"a")], [op_delete(b"a")]]))
    return TxnRequest(compare=compares, success=[RequestOp(request_put=put)], failure=failure)


STEPS = st.one_of(
    PUTS.map(lambda request: InternalRequest(put=request)),
    FEW_KEYS.map(delete_range),
    txns().map(lambda request: InternalRequest(txn=request)),
    st.just(InternalRequest(compaction=CompactionRequest(revision=3))),
)


@given(st.lists(STEPS, max_size=30), st.booleans())
def test_a_run_leaves_the_state_that_single_requests_leave(steps: list[InternalRequest], is_watched: bool) -> None:
    payloads = [step.SerializeToString() for step in steps]
    machines = [Machine(), Machine()]
    streams = [machine.watchers.open() for machine in machines]
    if is_watched:
        for stream in streams:
            stream.create(0, Interval(b"", b"\x80"), 0)
    results = [machines[0].apply(1, 0, payload) for payload in payloads]
    for place, result in enumerate(machines[1].apply_run(1, 0, payloads)):
        if isinstance(result, int):
            assert results[place] == PutResponse(header=ResponseHeader(revision=result))
        elif isinstance(result, GuardHeld):
            header = ResponseHeader(revision=result.revision)
            put = ResponseOp(response_put=PutResponse(header=header))
            assert results[place] == TxnResponse(header=header, succeeded=True, responses=[put])
        else:
            assert str(result) == str(results[place])
    assert b"".join(machines[0].snapshot()) == b"".join(machines[1].snapshot())
    revision = machines[0].store.current_revision
    assert machines[0].store.hash(revision) == machines[1].store.hash(revision)
    taken = [stream.take() for stream in streams]
    told = [[change.event(with_previous=True) for change in one.changes] if one else None for one in taken]
    assert told[0] == told[1]


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_integers_are_encoded_as_protobuf_does(value: int) -> None:
    encoded, rest = varint(value), value & (1 << 64) - 1
    decoded = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))
    assert decoded == rest
    assert [byte >> 7 for byte in encoded] == [1] * (len(encoded) - 1) + [0]


def test_the_transactions_of_api_servers_are_recognized() -> None:
    for target, field in ((Compare.MOD, "mod_revision"), (Compare.VERSION, "version")):
        compare = Compare(key=b"a", target=target, result=Compare.EQUAL)
        setattr(compare, field, 5)
        put = RequestOp(request_put=PutRequest(key=b"a", value=b"v"))
        request = TxnRequest(compare=[compare], success=[put], failure=[op_range(b"a")])
        found = guarded_put_of(InternalRequest(txn=request).SerializeToString())
        assert found is not None
        assert (found.key, found.target, found.wanted) == (b"a", target, 5)
        assert guarded_put_of(InternalRequest(txn=request, username="root").SerializeToString()) is None
