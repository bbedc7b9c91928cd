"""Who belongs to the cluster, and what a change makes of it: pure values.

A membership takes effect on a member as soon as its entry stands in that member's log, and ceases to where the entry is
cut off again. Each entry holds the whole membership, so that nothing has to be undone: the newest entry counts. A
leader adds the next change only when the one before it is applied, so that any two memberships that are in
effect somewhere differ by at most one vote, and any majority of one shares a member with any majority of the other.

A member that is added counts in no quorum at first: it is *joining*. The leader admits it, by a second entry,
once it has the log. So adding a member that is not started yet stops nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from proto.raft import membership_pb2 as pb
from store.raft.contract import ChangeKind, ChangeRefusal, ChangeRefusedError, MemberChange, MemberRecord

MEMBERS = b"\x11"
"""First byte of a log entry that holds a membership."""
LEARNERS_MAX = 1


@dataclass(frozen=True)
class Membership:
    """The members after one log entry, sorted by id."""

    index: int = 0
    """The entry that made it; 0 for the members of the first hour."""
    members: tuple[MemberRecord, ...] = ()
    removed: frozenset[int] = frozenset()
    """Ids that are refused for ever."""

    @classmethod
    def of(cls, members: Iterable[MemberRecord]) -> Membership:
        """The membership of the first hour."""
        return cls(0, tuple(sorted(members, key=lambda member: member.member_id)))

    @property
    def ids(self) -> frozenset[int]:
        """All members."""
        return frozenset(member.member_id for member in self.members)

    @property
    def voters(self) -> frozenset[int]:
        """Those who make up quorums."""
        return frozenset(one.member_id for one in self.members if one.votes)

    def get(self, member_id: int) -> MemberRecord | None:
        """Return a member's record."""
        for member in self.members:
            if member.member_id == member_id:
                return member
        return None

    def changed(self, change: MemberChange, index: int) -> Membership:
        """Return the membership that a change makes; raise ChangeRefusedError where it cannot be."""
        if change.kind is ChangeKind.ADD:
            return self._with(self._added(change), index)
        record = self.get(change.member_id)
        if record is None:
            raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_FOUND)
        if change.kind is ChangeKind.REMOVE:
            rest = tuple(member for member in self.members if member is not record)
            return Membership(index, rest, self.removed | {record.member_id})
        return self._with(self._altered(record, change), index)

    def _with(self, record: MemberRecord, index: int) -> Membership:
        others = (member for member in self.members if member.member_id != record.member_id)
        members = tuple(sorted((*others, record), key=lambda member: member.member_id))
        return Membership(index, members, self.removed)

    def _added(self, change: MemberChange) -> MemberRecord:
        if change.member_id in self.removed:
            raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_FOUND)
        if change.member_id in self.ids or not change.member_id:
            raise ChangeRefusedError(ChangeRefusal.MEMBER_EXISTS)
        self._check_urls(change)
        if change.is_learner and sum(member.is_learner for member in self.members) >= LEARNERS_MAX:
            raise ChangeRefusedError(ChangeRefusal.TOO_MANY_LEARNERS)
        return MemberRecord(
            change.member_id,
            peer_urls=change.peer_urls,
            is_learner=change.is_learner,
            is_joining=not change.is_learner,
        )

    def _altered(self, record: MemberRecord, change: MemberChange) -> MemberRecord:
        if change.kind is ChangeKind.UPDATE:
            self._check_urls(change)
            return replace(record, peer_urls=change.peer_urls)
        if change.kind is ChangeKind.PROMOTE:
            if not record.is_learner:
                raise ChangeRefusedError(ChangeRefusal.MEMBER_NOT_LEARNER)
            return replace(record, is_learner=False, is_joining=True)
        if change.kind is ChangeKind.PUBLISH:
            taken = any(one.name == change.name for one in self.members if one is not record)
            if not change.name or taken or record.name not in ("", change.name):
                raise ChangeRefusedError(ChangeRefusal.NAME_TAKEN)
            return replace(record, name=change.name, client_urls=change.client_urls)
        assert change.kind is ChangeKind.ADMIT, "all other kinds have gone before"
        return replace(record, is_joining=False)

    def _check_urls(self, change: MemberChange) -> None:
        others = {url for one in self.members if one.member_id != change.member_id for url in one.peer_urls}
        if others.intersection(change.peer_urls):
            raise ChangeRefusedError(ChangeRefusal.PEER_URL_EXISTS)


# On the wire and on disk.


def to_message(membership: Membership) -> pb.Membership:
    """Return a membership as a message."""
    records = [
        pb.MemberRecord(
            member_id=one.member_id,
            name=one.name,
            peer_urls=one.peer_urls,
            client_urls=one.client_urls,
            is_learner=one.is_learner,
            is_joining=one.is_joining,
        )
        for one in membership.members
    ]
    return pb.Membership(index=membership.index, members=records, removed=sorted(membership.removed))


def from_message(message: pb.Membership) -> Membership:
    """Return the membership of a message."""
    records = (
        MemberRecord(
            one.member_id, one.name, tuple(one.peer_urls), tuple(one.client_urls), one.is_learner, one.is_joining
        )
        for one in message.members
    )
    return replace(Membership.of(records), index=message.index, removed=frozenset(message.removed))


def encode(membership: Membership) -> bytes:
    """Return a membership's durable form."""
    return to_message(membership).SerializeToString()


def decode(data: bytes) -> Membership:
    """Return a membership from its durable form; raise ValueError where it is damaged."""
    try:
        return from_message(pb.Membership.FromString(data))
    except DecodeError as error:
        raise ValueError("a list of members does not decode") from error


def change_to_message(change: MemberChange) -> pb.MemberChange:
    """Return a change as a message."""
    return pb.MemberChange(
        kind=pb.MemberChange.Kind.Value(change.kind.name),
        member_id=change.member_id,
        name=change.name,
        peer_urls=change.peer_urls,
        client_urls=change.client_urls,
        is_learner=change.is_learner,
    )


def change_from_message(message: pb.MemberChange) -> MemberChange:
    """Return the change of a message; raise ValueError where its kind is unknown."""
    return MemberChange(
        ChangeKind[pb.MemberChange.Kind.Name(message.kind)],
        message.member_id,
        message.name,
        tuple(message.peer_urls),
        tuple(message.client_urls),
        message.is_learner,
    )


def entry_of(membership: Membership, change: MemberChange, origin_id: int = 0, sequence: int = 0) -> bytes:
    """Return the log entry for a membership."""
    entry = pb.MembershipEntry(
        membership=to_message(membership),
        change=change_to_message(change),
        origin_id=origin_id,
        sequence=sequence,
    )
    return MEMBERS + entry.SerializeToString()


def read_entry(command: bytes) -> pb.MembershipEntry | None:
    """Return what a log entry says of members, None where it says nothing or nothing that can be read."""
    if command[:1] != MEMBERS:
        return None
    try:
        return pb.MembershipEntry.FromString(command[1:])
    except DecodeError:
        return None


class Memberships:
    """The memberships that a log holds, over the one that it starts from."""

    def __init__(self, base: Membership) -> None:
        self._base = base
        self._entries: list[Membership] = []

    @property
    def current(self) -> Membership:
        """The one in effect."""
        return self._entries[-1] if self._entries else self._base

    @property
    def base(self) -> Membership:
        """The one that the log starts from."""
        return self._base

    def at(self, index: int) -> Membership:
        """The one in effect after an entry; never older than the one that the log starts from."""
        for membership in reversed(self._entries):
            if membership.index <= index:
                return membership
        return self._base

    def add(self, index: int, command: bytes) -> bool:
        """Take note of an entry; return whether it changes what is in effect.

        A member that has just joined knows, from its peers, a membership that is newer than the log's first entries.
        """
        entry = read_entry(command)
        if entry is None or index <= self._base.index:
            return False
        self._entries.append(replace(from_message(entry.membership), index=index))
        return True

    def cut(self, index: int) -> bool:
        """Forget the entries from an index on; return whether that changes what is in effect."""
        before = len(self._entries)
        while self._entries and self._entries[-1].index >= index:
            self._entries.pop()
        return len(self._entries) != before

    def rebase(self, index: int, base: Membership) -> None:
        """Let the log start after another entry, up to which it is given up."""
        if base.index >= self._base.index:
            self._base = base
        self._entries = [one for one in self._entries if one.index > max(index, self._base.index)]
