"""Snapshots on disk and on their way to another member."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from proto.raft import message_pb2 as pb
from store.raft.disk import Directory
from store.raft.environment import Limits
from store.raft.installs import Sender
from store.raft.snapshots import VERSION, NewerSnapshotError, Snapshot, SnapshotError, Snapshots
from tests.simulation.cluster import Cluster
from tests.simulation.world import SimulatedDisk

FIXTURES = Path(__file__).parent / "fixtures"
CLUSTER = 0xC1
CHUNKS = [b"first", b"x" * 5000, b"last"]


def written(disk: SimulatedDisk | Directory, index: int = 7) -> Snapshots:
    snapshots = Snapshots(disk, CLUSTER)
    writer = snapshots.begin(Snapshot(index, 3))
    for chunk in CHUNKS:
        writer.write(chunk)
    writer.finish()
    return snapshots


def test_a_snapshot_comes_back_in_its_chunks(tmp_path: Path) -> None:
    snapshots = written(Directory(tmp_path))
    assert snapshots.newest() == Snapshot(7, 3)
    assert list(snapshots.chunks(Snapshot(7, 3))) == CHUNKS


def test_an_unfinished_snapshot_is_not_there() -> None:
    disk = SimulatedDisk()
    snapshots = Snapshots(disk, CLUSTER)
    snapshots.begin(Snapshot(7, 3)).write(b"half")
    assert snapshots.list() == []
    Snapshots(disk, CLUSTER)
    assert disk.list() == []


def test_the_newest_two_are_kept() -> None:
    disk = SimulatedDisk()
    for index in (5, 9, 300):
        snapshots = written(disk, index)
    assert snapshots.prune() == Snapshot(9, 3)
    assert snapshots.list() == [Snapshot(9, 3), Snapshot(300, 3)]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_snapshot_is_passed_over(damage: str) -> None:
    disk = SimulatedDisk()
    written(disk, 5)
    snapshots = written(disk, 9)
    data = disk.files[Snapshot(9, 3).name].data
    for offset in range(0, len(data), 97):
        kept = bytes(data)
        if damage == "flip":
            data[offset] ^= 1
        else:
            del data[offset:]
        if not (damage == "flip" and 8 <= offset < 12):
            assert snapshots.newest() == Snapshot(5, 3), offset
        data[:] = kept


def test_a_newer_version_is_refused_by_name() -> None:
    disk = SimulatedDisk()
    snapshots = written(disk)
    disk.files[Snapshot(7, 3).name].data[8:12] = (VERSION + 1).to_bytes(4, "little")
    with pytest.raises(NewerSnapshotError, match=r"0000000000000007-0000000000000003\.snapshot.*version 3.*newer"):
        snapshots.newest()


def test_a_snapshot_of_version_1_opens(tmp_path: Path) -> None:
    name = Snapshot(7, 3).name
    (tmp_path / name).write_bytes((FIXTURES / "version-1.snapshot").read_bytes())
    snapshots = Snapshots(Directory(tmp_path), CLUSTER)
    assert list(snapshots.chunks(Snapshot(7, 3))) == CHUNKS


def test_pieces_make_the_file_again_whatever_arrives_twice() -> None:
    source = written(SimulatedDisk())
    disk = SimulatedDisk()
    target = Snapshots(disk, CLUSTER)
    size = source.size(Snapshot(7, 3))
    receiver = target.receive(Snapshot(7, 3), size)
    chance = random.Random(1)
    while not receiver.complete:
        offset = max(0, receiver.received - chance.choice((0, 0, 1000)))
        receiver.take(offset, source.piece(Snapshot(7, 3), offset, 1000))
    receiver.finish(target)
    assert list(target.chunks(Snapshot(7, 3))) == CHUNKS


def test_a_snapshot_that_arrives_damaged_is_removed() -> None:
    source = written(SimulatedDisk())
    disk = SimulatedDisk()
    target = Snapshots(disk, CLUSTER)
    data = bytearray(source.piece(Snapshot(7, 3), 0, 1 << 20))
    data[100] ^= 1
    receiver = target.receive(Snapshot(7, 3), len(data))
    receiver.take(0, bytes(data))
    with pytest.raises(SnapshotError):
        receiver.finish(target)
    assert disk.list() == []


def test_a_snapshot_of_no_use_is_not_sent_again_at_once() -> None:
    disk = SimulatedDisk()
    snapshots = written(disk)
    sent: list[pb.SnapshotPiece] = []
    sender = Sender(snapshots, 1.0, lambda _peer, frame: sent.append(frame.snapshot_piece))
    sender.help(2, term=1, now=0.0)
    sender.help(2, term=1, now=0.5)
    assert len(sent) == 1
    sender.help(2, term=1, now=1.5)
    assert len(sent) == 2, "an unanswered piece is sent again"
    sender.progress(2, pb.SnapshotProgress(term=1, index=7, offset=0), 1, 1.6)
    assert len(sent) == 2
    disk.files[Snapshot(7, 3).name].data[100] ^= 1
    sender.help(2, term=1, now=9.0)
    assert len(sent) == 2, "a damaged snapshot is not sent at all"


# In a cluster.

SMALL = Limits(request_timeout_s=3.0, snapshot_entries=5, segment_bytes=1024, group_bytes_max=1)


def busy(cluster: Cluster, writes: int) -> None:
    for _ in range(writes):
        cluster.propose(cluster.elect().member_id)
        cluster.run(0.05)


def test_the_log_is_cut_at_the_older_snapshot() -> None:
    cluster = Cluster(1, limits=SMALL)
    cluster.start_all()
    busy(cluster, 40)
    cluster.run(1.0)
    for member in cluster.members.values():
        names = member.disk.list()
        assert len([name for name in names if name.endswith(".snapshot")]) == 2
        assert "0000000000000001.wal" not in names
        assert len([name for name in names if name.endswith(".wal")]) <= 4
    cluster.check_settled()


def test_a_member_that_was_away_for_long_gets_a_snapshot_and_then_the_log() -> None:
    cluster = Cluster(2, limits=SMALL)
    cluster.start_all()
    away = next(one for one in cluster.members if one != cluster.elect().member_id)
    cluster.crash(away)
    busy(cluster, 40)
    base = min(member.replica.core._journal.base_index for member in cluster.members.values() if member.replica)
    assert base > 10
    cluster.start(away)
    cluster.run(5.0)
    busy(cluster, 2)
    cluster.run(1.0)
    cluster.check_settled()


def test_a_member_with_a_new_disk_gets_everything() -> None:
    cluster = Cluster(3, limits=SMALL)
    cluster.start_all()
    busy(cluster, 30)
    lost = next(one for one in cluster.members if one != cluster.elect().member_id)
    cluster.crash(lost)
    cluster.members[lost].disk = SimulatedDisk()
    cluster.run(2.0)
    cluster.start(lost)
    cluster.run(5.0)
    outcome = cluster.propose(lost)
    cluster.run(2.0)
    assert outcome.done
    assert outcome.error is None, "its requests are told from those of its former life"
    cluster.check_settled()


def test_a_damaged_newest_snapshot_costs_nothing() -> None:
    cluster = Cluster(4, limits=SMALL)
    cluster.start_all()
    busy(cluster, 30)
    cluster.run(1.0)
    for member_id, member in cluster.members.items():
        cluster.crash(member_id)
        newest = [name for name in member.disk.list() if name.endswith(".snapshot")][-1]
        member.disk.files[newest].data[60] ^= 1
    cluster.start_all()
    cluster.elect()
    cluster.run(2.0)
    cluster.check_settled()


def test_a_big_snapshot_is_written_while_writes_go_on() -> None:
    cluster = Cluster(5, limits=Limits(request_timeout_s=3.0, snapshot_entries=50, group_bytes_max=1))
    cluster.start_all()
    cluster.elect()
    for _ in range(49):
        cluster.propose(payload=b"big-%d-" % cluster._proposed + bytes(60_000))
        cluster.run(0.02)
    during = []
    for _ in range(60):
        during.append(cluster.propose())
        cluster.run(0.004)
    cluster.run(3.0)
    assert all(outcome.error is None for outcome in during)
    for member in cluster.members.values():
        assert any(name.endswith(".snapshot") for name in member.disk.list())
        cluster.crash(member.member_id)
    cluster.start_all()
    cluster.elect()
    cluster.run(2.0)
    cluster.check_settled()
