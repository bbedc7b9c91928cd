"""The history against a plain dict."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proto.etcd.kv_pb2 import KeyValue
from store.mvcc.encoding import key_of, varint
from store.mvcc.history import History


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_it_is_a_sorted_mapping(data: st.DataObject) -> None:
    history, model = History(), dict[int, bytes]()
    count = data.draw(st.integers(0, 3000))
    for revision in range(count):
        history.append(2 * revision, b"%d" % revision)
        model[2 * revision] = b"%d" % revision
    if model:
        for revision in data.draw(st.sets(st.sampled_from(sorted(model)), max_size=1500)):
            history.drop(revision)
            del model[revision]
    start = data.draw(st.integers(0, 6100))
    assert list(history.since(start)) == [(revision, record) for revision, record in model.items() if revision >= start]
    assert len(history) == len(model)
    assert history.size_bytes == sum(map(len, model.values()))
    assert all(history.get(revision) == record for revision, record in model.items())


def test_what_is_added_while_reading_is_read() -> None:
    history = History()
    history.append(1, b"a")
    reading = history.since(0)
    assert next(reading) == (1, b"a")
    for revision in range(2, 3000):
        history.append(revision, b"b")
    assert [revision for revision, _ in reading] == list(range(2, 3000))


@given(st.binary(max_size=600))
def test_keys_are_found_in_records(key: bytes) -> None:
    assert not key or key_of(KeyValue(key=key, mod_revision=3, value=b"v").SerializeToString()) == key


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_varints_are_protobufs(value: int) -> None:
    expected = KeyValue(lease=value).SerializeToString()
    assert (b"" if value == 0 else b"\x30" + varint(value)) == expected
