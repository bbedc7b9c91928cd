"""The write-ahead log keeps what was synced, cuts what was being written, and refuses what was damaged later."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.raft import records
from store.raft.disk import Directory
from store.raft.records import Kind
from store.raft.wal import (
    RESERVE_BYTES,
    VERSION,
    CorruptWalError,
    Entry,
    ForeignWalError,
    NewerWalError,
    Recovered,
    Wal,
    suffix_after,
)
from tests.simulation.world import KilledError, PowerLossError, SimulatedDisk

FIXTURES = Path(__file__).parent / "fixtures"
CLUSTER, MEMBER = 0xC1, 0x1


def opened(disk: SimulatedDisk | Directory, segment_bytes: int = 1 << 20) -> tuple[Wal, Recovered]:
    wal = Wal(disk, CLUSTER, MEMBER, segment_bytes)
    return wal, wal.open()


def entry(index: int, term: int = 1, command: bytes = b"") -> Entry:
    return (command or b"command-%d" % index, index, term)


def filled(count: int, segment_bytes: int = 1 << 20) -> SimulatedDisk:
    """A log of entries 2.., each in a sync of its own."""
    disk = SimulatedDisk()
    wal, _ = opened(disk, segment_bytes)
    wal.set_hard_state(3, 2)
    for index in range(2, 2 + count):
        wal.append_entry(entry(index, 3))
        wal.sync()
    return disk


def last_segment(disk: SimulatedDisk) -> str:
    return disk.list()[-1]


def copy_of(disk: SimulatedDisk, name: str, data: bytes) -> SimulatedDisk:
    copy = SimulatedDisk()
    for other, content in disk.files.items():
        copy.create(other)
        copy.files[other].data[:] = data if other == name else content.data
        copy.files[other].synced = len(copy.files[other].data)
    return copy


def entries_or_refusal(disk: SimulatedDisk) -> list[Entry] | str:
    try:
        return opened(disk)[1].entries
    except (CorruptWalError, NewerWalError) as error:
        return str(error)


def test_an_empty_directory_is_a_new_log(tmp_path: Path) -> None:
    wal, recovered = opened(Directory(tmp_path / "raft"))
    assert recovered == Recovered(start=1)
    wal.close()
    assert [path.name for path in (tmp_path / "raft").glob("*.wal")] == ["0000000000000001.wal"]


def test_everything_synced_comes_back(tmp_path: Path) -> None:
    disk = Directory(tmp_path)
    wal, _ = opened(disk)
    wal.set_hard_state(5, 9)
    for index in range(2, 6):
        wal.append_entry(entry(index, 5))
    wal.truncate(4)
    wal.append_entry(entry(4, 6, b"other"))
    wal.set_commit(3)
    wal.close()
    _, recovered = opened(disk)
    assert recovered.entries == [entry(2, 5), entry(3, 5), entry(4, 6, b"other")]
    assert (recovered.term, recovered.vote, recovered.commit, recovered.start) == (5, 9, 3, 2)


def test_what_was_not_synced_may_be_gone_and_nothing_else() -> None:
    disk = filled(3)
    wal, _ = opened(disk)
    wal.append_entry(entry(5, 3))
    disk.calls_until_power_loss = 1  # after the write, before the sync
    with pytest.raises(PowerLossError):
        wal.sync()
    disk.lose_power(random.Random(0))
    _, recovered = opened(disk)
    assert recovered.entries[:3] == [entry(2, 3), entry(3, 3), entry(4, 3)]


def test_a_crash_at_any_byte_of_the_last_write_keeps_what_was_before() -> None:
    disk = filled(3)
    wal, before = opened(disk)
    name = last_segment(disk)
    durable = len(disk.files[name].data)
    for index in (5, 6, 7):
        wal.append_entry(entry(index, 3, bytes(700) + b"%d" % index))
    wal.sync()
    whole = bytes(disk.files[name].data)
    for length in range(durable, len(whole)):
        for tail in (b"", bytes(len(whole) - length)):
            copy = copy_of(disk, name, whole[:length] + tail)
            again, recovered = opened(copy)
            assert recovered.entries[:3] == before.entries
            assert (
                recovered.entries
                == [entry(i, 3) for i in (2, 3, 4)]
                + [entry(i, 3, bytes(700) + b"%d" % i) for i in (5, 6, 7)][: len(recovered.entries) - 3]
            )
            again.append_entry(entry(recovered.entries[-1][1] + 1, 4))
            again.sync()
            assert opened(copy)[1].entries[-1][2] == 4


def test_zeros_behind_the_end_are_no_damage(tmp_path: Path) -> None:
    disk = Directory(tmp_path / "raft")
    for start in range(3):
        # Nobody closes the log: what was reserved stays behind its end, as after a crash.
        wal, recovered = opened(disk)
        assert [index for _, index, _ in recovered.entries] == list(range(2, 2 + start))
        wal.append_entry(entry(2 + start))
        wal.sync()
        assert disk.size("0000000000000001.wal") > RESERVE_BYTES
    wal.close()
    assert disk.size("0000000000000001.wal") < 1000
    disk.close()


def test_zeros_behind_an_older_segment_are_no_damage_and_a_lost_record_there_is() -> None:
    disk = filled(40, segment_bytes=1000)
    older = disk.list()[1]
    content = bytes(disk.files[older].data)
    reserved = copy_of(disk, older, content + bytes(5000))
    assert entries_or_refusal(reserved) == entries_or_refusal(disk)
    last_record = content.rindex(b"command-") - 48
    lost = copy_of(disk, older, content[:last_record] + bytes(5000))
    assert isinstance(entries_or_refusal(lost), str)


def test_unwritten_sectors_of_the_last_write_are_cut() -> None:
    disk = filled(3)
    wal, before = opened(disk)
    name = last_segment(disk)
    durable = len(disk.files[name].data)
    for index in range(5, 25):
        wal.append_entry(entry(index, 3, b"x" * 200))
    wal.sync()
    whole = disk.files[name].data
    for first in range(durable // 512, len(whole) // 512):
        torn = bytearray(whole)
        start = max(first * 512, durable)
        torn[start : (first + 1) * 512] = bytes((first + 1) * 512 - start)
        _, recovered = opened(copy_of(disk, name, bytes(torn)))
        assert recovered.entries[:3] == before.entries
        assert recovered.cut_bytes > 0


def test_a_flipped_byte_before_the_last_sync_is_refused_with_place_and_remedy() -> None:
    disk = filled(4)
    name = last_segment(disk)
    whole = bytes(disk.files[name].data)
    last_record = whole.rfind(b"command-5") - 36
    trailers = 0
    for offset in range(8, last_record):
        flipped = bytearray(whole)
        flipped[offset] ^= 0x40
        found = entries_or_refusal(copy_of(disk, name, bytes(flipped)))
        if isinstance(found, str):
            assert name in found
            assert "at byte" in found or "newer" in found
        else:
            # Only filling between records may change unseen.
            trailers += 1
            assert found == [entry(index, 3) for index in range(2, 6)]
            assert whole[offset] in (records.TRAILER[0], 0), offset
    assert trailers < last_record / 4


def test_a_flipped_byte_in_the_last_record_is_no_torn_write() -> None:
    disk = filled(2)
    name = last_segment(disk)
    flipped = bytearray(disk.files[name].data)
    flipped[flipped.rfind(b"command-3") + 2] ^= 1
    with pytest.raises(CorruptWalError, match="does not check"):
        opened(copy_of(disk, name, bytes(flipped)))


def test_damage_in_an_older_segment_is_never_cut() -> None:
    disk = filled(40, segment_bytes=1024)
    name = disk.list()[0]
    with pytest.raises(CorruptWalError):
        opened(copy_of(disk, name, bytes(disk.files[name].data[:-9])))


def test_a_missing_segment_is_named() -> None:
    disk = filled(40, segment_bytes=1024)
    gone = disk.list()[1]
    del disk.files[gone]
    with pytest.raises(CorruptWalError, match=gone):
        opened(disk)


def test_segments_carry_what_older_ones_said_and_are_dropped_whole() -> None:
    disk = filled(60, segment_bytes=1024)
    wal, before = opened(disk, 1024)
    count = len(disk.list())
    assert count > 3
    wal.set_base(40, 3)
    wal.sync()
    dropped = wal.drop_through(40)
    assert 0 < dropped < count
    assert len(disk.list()) == count - dropped
    _, recovered = opened(disk, 1024)
    assert (recovered.term, recovered.vote) == (3, 2)
    assert (recovered.base_index, recovered.base_term) == (40, 3)
    assert recovered.entries == [one for one in before.entries if one[1] > 40]


def test_bases_whose_entries_went_with_dropped_segments_void_nothing() -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk, 600)
    for index in range(2, 60):
        wal.append_entry(entry(index, 3))
        if index > 10 and index % 5 == 0:
            # Two bases behind: those in the middle of a segment are older than its first entries.
            wal.set_base(index - 9, 3)
            wal.sync()
            wal.drop_through(index - 9)
        wal.sync()
        _, recovered = opened(copy_of(disk, "", b""), 600)
        assert recovered.entries == [entry(one, 3) for one in range(max(recovered.base_index, 1) + 1, index + 1)]


def test_a_log_of_another_member_or_cluster_is_refused() -> None:
    disk = filled(1)
    for cluster, member in ((CLUSTER, 9), (9, MEMBER)):
        with pytest.raises(ForeignWalError, match="belongs to member 1 of cluster c1"):
            Wal(disk, cluster, member).open()


def test_a_newer_version_is_refused_by_name_and_left_alone() -> None:
    disk = filled(1)
    data = disk.files[last_segment(disk)].data
    data[8:12] = (VERSION + 1).to_bytes(4, "little")
    before = bytes(data)
    with pytest.raises(NewerWalError, match=rf"version {VERSION + 1} by a newer Raftsman"):
        opened(disk)
    assert bytes(data) == before


def test_a_log_of_version_1_opens(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.wal").write_bytes((FIXTURES / "version-1.wal").read_bytes())
    _, recovered = opened(Directory(tmp_path))
    assert recovered.entries == [entry(2, 3), entry(3, 3), entry(4, 3), (b"last", 5, 4)]
    assert (recovered.term, recovered.vote, recovered.commit) == (4, 1, 4)


def test_a_failed_sync_ends_the_log() -> None:
    class Failing(SimulatedDisk):
        def tick(self) -> None:
            if self.calls_until_power_loss == 0:
                raise OSError(5, "input/output error")
            super().tick()

    disk = Failing()
    wal, _ = opened(disk)
    disk.calls_until_power_loss = 0
    wal.append_entry(entry(2))
    for _ in range(2):
        with pytest.raises(OSError, match="input/output"):
            wal.sync()
    disk.calls_until_power_loss = -1
    with pytest.raises(OSError, match="input/output"):
        wal.sync()


@pytest.mark.parametrize("seed", range(6))
def test_a_segment_whose_name_was_not_synced_keeps_its_entries(seed: int) -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk, segment_bytes=200)
    wal.append_entry(entry(2, command=bytes(200)))
    disk.kill_at_rename = True
    with pytest.raises(KilledError):
        wal.sync()
    disk.revive()
    wal, recovered = opened(disk)
    wal.append_entry(entry(3))
    wal.sync()
    disk.lose_power(random.Random(seed))
    assert opened(disk)[1].entries == [*recovered.entries, entry(3)]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.binary(min_size=1, max_size=600)),
        st.tuples(st.just("void"), st.integers(0, 8)),
        st.tuples(st.just("vote"), st.integers(1, 5)),
        st.tuples(st.just("sync"), st.none()),
        st.tuples(st.just("cut"), st.integers(0, 6)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(operations=OPERATIONS, seed=st.integers(0, 1 << 16), segment_bytes=st.sampled_from([700, 4096, 1 << 20]))
def test_any_history_comes_back_up_to_a_point_not_before_the_last_sync(
    operations: list[tuple[str, object]], seed: int, segment_bytes: int
) -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk, segment_bytes)
    log: list[Entry] = []
    base, term, vote = (1, 0), 0, 0
    # Each state that the log went through since the last sync is a right answer after a power loss.
    possible: list[object] = [(base, [], 0, 0)]
    for kind, argument in operations:
        if kind == "add":
            assert isinstance(argument, bytes)
            log = [*log, (argument, (log[-1][1] if log else base[0]) + 1, max(term, 1))]
            wal.append_entry(log[-1])
        elif kind == "void" and log:
            assert isinstance(argument, int)
            place = max(0, len(log) - argument)
            wal.truncate(log[place][1] if place < len(log) else log[-1][1] + 1)
            log = log[:place]
        elif kind == "vote":
            assert isinstance(argument, int)
            term, vote = term + 1, argument
            wal.set_hard_state(term, vote)
        elif kind == "cut" and log:
            assert isinstance(argument, int)
            _, index, entry_term = log[min(argument, len(log) - 1)]
            wal.set_base(index, entry_term)
            log, base = suffix_after(log, index, entry_term), (index, entry_term)
        elif kind == "sync":
            wal.sync()
            if base[0] > 1:
                wal.drop_through(base[0])
            possible = []
        possible.append((base, log, term if vote else 0, vote))
    disk.calls_until_power_loss = seed % 4
    try:
        wal.sync()
    except PowerLossError:
        disk.lose_power(random.Random(seed))
    disk.calls_until_power_loss = -1
    _, recovered = opened(disk, segment_bytes)
    found = (
        (max(recovered.base_index, 1), recovered.base_term),
        recovered.entries,
        recovered.term if recovered.vote else 0,
        recovered.vote,
    )
    assert found in possible


def test_the_suffix_after_a_snapshot() -> None:
    log = [entry(5, 2), entry(6, 2), entry(7, 3)]
    assert suffix_after(log, 4, 1) == log
    assert suffix_after(log, 6, 2) == [entry(7, 3)]
    assert suffix_after(log, 6, 1) == []
    assert suffix_after(log, 9, 4) == []
    assert suffix_after(log, 3, 1) == []


def test_a_record_says_what_kind_it_is() -> None:
    data, crc = records.encode(Kind.COMMIT, b"12345678", 7, 0)
    record = records.read(data, 0, 7)
    assert isinstance(record, records.Record)
    assert (record.kind, record.payload, record.crc, record.end) == (Kind.COMMIT, b"12345678", crc, len(data))
    assert isinstance(records.read(data, 0, 8), records.Damage)
    assert len(data) % 8 == 0
