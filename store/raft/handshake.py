"""Who may connect as which member: the rules of the first frames, over values.

Without TLS a peer is whom it says it is, as long as it belongs to the same cluster. With TLS its certificate must name
it by the URI ``raftsman://member/NAME``. A member that was added has no name in the log before it has started
once: whoever comes first with a certificate for a name that is free is bound to that id, on this member at once, and
for good when it publishes its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proto.raft import message_pb2 as pb
from store.raft.contract import MemberRecord
from store.raft.members import MEMBER_URI

PROTOCOL_VERSION = 1
GUESTS_MAX = 16


class HandshakeError(Exception):
    """The other side is not the member that it should be."""


class RemovedPeerError(HandshakeError):
    """The other side was removed from the cluster; it is told so."""


@dataclass
class AddressBook:
    """What a member knows of its peers."""

    cluster_id: int
    own_id: int
    has_certificates: bool
    """Whether peers prove who they are."""
    records: dict[int, MemberRecord] = field(default_factory=dict)
    """The other members."""
    removed: frozenset[int] = frozenset()
    guests: dict[int, MemberRecord] = field(default_factory=dict)
    """Peers that this member's log does not name (yet); they named themselves."""
    bound: dict[int, str] = field(default_factory=dict)
    """Names claimed by members that have none in the log yet."""

    def get(self, member_id: int) -> MemberRecord | None:
        """Return the record of a member or a guest."""
        return self.records.get(member_id) or self.guests.get(member_id)

    def replace(self, records: dict[int, MemberRecord], removed: frozenset[int]) -> None:
        """Take other members."""
        self.records, self.removed = records, removed
        for member_id in (*records, *removed):
            self.guests.pop(member_id, None)

    def identify(self, hello: pb.Hello, certificate: dict[str, Any] | None) -> MemberRecord:
        """Return the peer that greets; raise HandshakeError where its certificate or the member list says otherwise."""
        if hello.version != PROTOCOL_VERSION:
            raise HandshakeError(f"it speaks version {hello.version} of the peer protocol, this one {PROTOCOL_VERSION}")
        if hello.cluster_id != self.cluster_id:
            raise HandshakeError(f"it belongs to cluster {hello.cluster_id:x}, this one to {self.cluster_id:x}")
        if hello.member_id == self.own_id:
            raise HandshakeError("it says that it is this very member")
        if hello.member_id in self.removed:
            raise RemovedPeerError(f"member {hello.member_id:x} was removed from the cluster")
        record = self.records.get(hello.member_id)
        if record is None:
            return self._guest(hello, certificate)
        self.check_certificate(record.name or self._bind(hello), certificate)
        return record

    def check_certificate(self, name: str, certificate: dict[str, Any] | None) -> None:
        """Refuse a peer whose certificate does not name it."""
        if not self.has_certificates:
            return
        names = certificate.get("subjectAltName", ()) if certificate else ()
        wanted = MEMBER_URI + name
        if not name or ("URI", wanted) not in names:
            raise HandshakeError(f"its certificate does not name {wanted} (URI subject alternative name): {names}")

    def may_publish(self, member_id: int, name: str) -> bool:
        """Tell whether a peer may make a name known as its own: that which its certificate gave it."""
        record = self.records.get(member_id)
        known = "" if record is None else record.name or self.bound.get(member_id, "")
        return not self.has_certificates or name == known

    def _bind(self, hello: pb.Hello) -> str:
        """Return the name that an unnamed member has claimed first."""
        if not self.has_certificates:
            return hello.name
        taken = {record.name for record in self.records.values()}
        if hello.name in taken:
            raise HandshakeError(f"it claims the name {hello.name!r} of another member")
        name = self.bound.setdefault(hello.member_id, hello.name)
        if name != hello.name:
            raise HandshakeError(f"it claims the name {hello.name!r}, but member {hello.member_id:x} is {name!r}")
        return name

    def _guest(self, hello: pb.Hello, certificate: dict[str, Any] | None) -> MemberRecord:
        """Return a peer that has joined while this member was away, as far as this one knows."""
        taken = {record.name for record in self.records.values() if record.name}
        if not hello.name or not hello.peer_urls or hello.name in taken:
            raise HandshakeError(f"member {hello.member_id:x} is not in the cluster")
        self.check_certificate(hello.name, certificate)
        known = self.guests.get(hello.member_id)
        if known is None and len(self.guests) >= GUESTS_MAX:
            raise HandshakeError(f"member {hello.member_id:x} is not in the cluster, and too many such are connected")
        if known is not None and known.name != hello.name:
            raise HandshakeError(f"member {hello.member_id:x} was {known.name!r} before and not {hello.name!r}")
        guest = MemberRecord(hello.member_id, hello.name, tuple(hello.peer_urls))
        self.guests[hello.member_id] = guest
        return guest
