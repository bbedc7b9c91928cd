"""Logs and snapshots of every former version open, and go on in the present one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from store.raft.contract import MemberRecord
from store.raft.disk import Directory
from store.raft.environment import Identity
from store.raft.journal import Journal
from store.raft.members import MembershipError
from store.raft.membership import Membership, decode, encode
from store.raft.replica import Replica
from store.raft.snapshots import Snapshot, Snapshots
from store.raft.wal import VERSION, Wal, identity_on
from tests.simulation.machines import ListMachine
from tests.simulation.world import VirtualClock

FIXTURES = Path(__file__).parent / "fixtures"
CLUSTER, MEMBER = 0xC1, 0x1
MEMBERS = Membership.of([MemberRecord(1, "a", ("http://a:1",)), MemberRecord(2, "b", ("http://b:1",))])


def copied(version: int, directory: Path) -> Directory:
    (directory / "0000000000000001.wal").write_bytes((FIXTURES / f"version-{version}.wal").read_bytes())
    return Directory(directory)


def test_a_log_of_version_1_gets_the_members_of_the_flags_and_goes_on(tmp_path: Path) -> None:
    disk = copied(1, tmp_path)
    assert identity_on(disk) == (CLUSTER, MEMBER)
    wal = Wal(disk, CLUSTER, MEMBER)
    recovered = wal.open(encode(MEMBERS))
    assert recovered.version == 1
    assert len(recovered.entries) == 4
    journal = Journal(wal, recovered)
    assert journal.memberships.current == MEMBERS
    journal.add(b"\x10more", 6, 4)
    wal.close()
    again = Wal(disk, CLUSTER, MEMBER)
    reopened = again.open(encode(Membership.of([MemberRecord(9)])))
    assert reopened.version == VERSION
    assert decode(reopened.members) == MEMBERS, "from now on the log says who the members are, not the flags"
    assert [entry[1] for entry in reopened.entries] == [2, 3, 4, 5, 6]
    again.close()


def test_a_log_of_version_1_is_not_given_to_other_members(tmp_path: Path) -> None:
    def refuse(names: bytes) -> None:
        raise MembershipError("other members")

    disk = copied(1, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(MembershipError):
        Wal(disk, CLUSTER, MEMBER).open(encode(MEMBERS), check_first=refuse)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing was written"


def test_a_log_of_version_2_opens(tmp_path: Path) -> None:
    wal = Wal(copied(2, tmp_path), CLUSTER, MEMBER)
    recovered = wal.open()
    assert [entry[1] for entry in recovered.entries] == [4, 5, 6]
    journal = Journal(wal, recovered)
    assert journal.memberships.base == MEMBERS
    assert journal.memberships.current.ids == {1, 2, 3}
    assert journal.memberships.current.get(3) == MemberRecord(3, "", ("http://c:1",), is_joining=True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_snapshot_of_every_version_opens(tmp_path: Path, version: int) -> None:
    name = Snapshot(7, 3).name
    (tmp_path / name).write_bytes((FIXTURES / f"version-{version}.snapshot").read_bytes())
    snapshots = Snapshots(Directory(tmp_path), CLUSTER)
    assert snapshots.newest() == Snapshot(7, 3)
    assert snapshots.version_of(Snapshot(7, 3)) == version


def test_a_snapshot_says_who_the_members_were(tmp_path: Path) -> None:
    (tmp_path / Snapshot(7, 3).name).write_bytes((FIXTURES / "version-2.snapshot").read_bytes())
    machine = ListMachine()
    replica = Replica(
        Identity(CLUSTER, MEMBER, ()),
        machine,
        Directory(tmp_path),
        VirtualClock(),
        random.Random(1),
        lambda _peer, _frame: None,
    )
    assert replica.membership.ids == {1, 2, 3}
    assert replica.membership.index == 6
    assert machine.applied == [(5, b"kept")]
    replica.stop()
