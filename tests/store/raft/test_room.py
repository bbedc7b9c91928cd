"""A disk without room: nothing is promised, nothing is lost, and all goes on when there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.raft.consensus import GROUP
from store.raft.disk import DiskFullError
from store.raft.room import RETRY_S, Room
from store.raft.wal import Entry, Wal
from tests.simulation.world import SimulatedDisk
from tests.store.raft.cores import Bench


def opened(disk: SimulatedDisk, segment_bytes: int = 1 << 20) -> tuple[Wal, list[Entry]]:
    wal = Wal(disk, 0xC1, 1, segment_bytes)
    return wal, wal.open().entries


def test_what_finds_no_room_waits_and_is_written_later() -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk)
    wal.append_entry((b"one", 2, 1))
    wal.sync()
    disk.full = True
    wal.append_entry((b"two", 3, 1))
    for _ in range(3):
        with pytest.raises(DiskFullError):
            wal.sync()
    assert wal.dirty
    disk.full = False
    wal.append_entry((b"three", 4, 1))
    wal.sync()
    assert opened(disk)[1] == [(b"one", 2, 1), (b"two", 3, 1), (b"three", 4, 1)]


@pytest.mark.parametrize("calls", range(3, 9))
def test_a_segment_for_which_there_is_no_room_begins_later(calls: int) -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk, segment_bytes=200)
    wal.append_entry((bytes(200), 2, 1))
    disk.calls_until_full = calls
    wal.sync()
    assert not wal.dirty, "what was asked for is on disk"
    disk.full, disk.calls_until_full = False, -1
    wal.append_entry((b"next", 3, 1))
    wal.sync()
    assert len([name for name in disk.list() if name.endswith(".wal")]) >= 2
    assert opened(disk)[1] == [(bytes(200), 2, 1), (b"next", 3, 1)]


def test_a_log_closes_without_what_found_no_room() -> None:
    disk = SimulatedDisk()
    wal, _ = opened(disk)
    disk.full = True
    wal.append_entry((b"one", 2, 1))
    wal.close()
    disk.full = False
    assert opened(disk)[1] == []


def test_a_full_follower_acknowledges_nothing_before_there_is_room() -> None:
    bench = Bench()
    bench.disk.full = True
    bench.append([(b"x", 2, 1)])
    bench.core.tick()
    assert bench.take("acknowledgement") == []
    bench.disk.full = False
    bench.core.tick()
    [frame] = bench.take("acknowledgement")
    assert (frame.acknowledgement.success, frame.acknowledgement.next_index) == (True, 3)


def test_a_full_leader_does_not_count_itself() -> None:
    bench = Bench()
    bench.lead()
    committed = bench.core.commit_index
    bench.disk.full = True
    index = bench.core.append(GROUP)
    bench.acknowledge(2, index + 1)
    bench.core.tick()
    assert bench.core.commit_index == committed, "one copy of three is on a disk"
    bench.disk.full = False
    bench.core.tick()
    assert bench.core.commit_index == index


def test_a_single_full_member_commits_nothing() -> None:
    bench = Bench(peers=())
    bench.disk.full = True
    bench.clock.now += 5.0
    bench.core.tick()
    assert not bench.core.is_leader
    bench.disk.full = False
    bench.clock.now += 5.0
    bench.core.tick()
    bench.core.tick()
    assert bench.core.is_leader


def test_a_full_leader_hands_on_at_once_and_asks_for_room_now_and_then() -> None:
    bench = Bench()
    bench.lead()
    room = Room(bench.journal, bench.core, bench.clock.monotonic)
    index = bench.core.append(GROUP)
    bench.acknowledge(3, index)
    bench.disk.full = True
    bench.core.sync()
    assert not room.ask()
    assert not bench.core.is_leader
    assert [peer for peer, frame in bench.sent if frame.WhichOneof("body") == "timeout_now"] == [3], "it has more"
    bench.disk.full = False
    assert not room.ask(), "it is not time yet"
    bench.clock.now += RETRY_S
    assert room.ask()
    assert not room.is_full


def test_real_disks_take_back_what_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    from store.raft.disk import Directory

    directory = Directory(tmp_path / "raft")
    try:
        file = directory.create("file")
        file.write(b"kept")
        write = os.pwrite
        left = [3]

        def writes_three_bytes(descriptor: int, data: bytes, offset: int) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, "no space left on device")
            written = write(descriptor, data[: left[0]], offset)
            left[0] -= written
            return written

        monkeypatch.setattr(os, "pwrite", writes_three_bytes)
        with pytest.raises(DiskFullError):
            file.write(b"too much")
        monkeypatch.setattr(os, "pwrite", write)
        assert directory.read("file") == b"kept"
        file.write(b", and more")
        assert directory.read("file") == b"kept, and more"
        file.close()
    finally:
        directory.close()
