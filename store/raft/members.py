"""Who belongs to the cluster, and the identities that follow from addresses as etcd makes them.

The member list is the initial cluster's for as long as the cluster lives; it is kept in the log's metadata, so that a
change of flags cannot silently change who votes. Changes of membership will go through the log and end there too.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from store.raft.contract import Peer

MEMBER_URI = "raftsman://member/"
"""What stands before a member's name in the URI name of its certificate."""

_MEMBER = struct.Struct("<QH")


class MembershipError(Exception):
    """The configured cluster is not the one that this member belongs to."""


def member_id(peer_urls: Iterable[str], cluster_token: str) -> int:
    """Return a member's id: a hash of its addresses and the cluster's token."""
    digest = hashlib.sha1(("".join(sorted(peer_urls)) + cluster_token).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def cluster_id(member_ids: Iterable[int]) -> int:
    """Return the cluster's id: a hash of the initial members' ids."""
    packed = b"".join(struct.pack(">Q", one) for one in sorted(member_ids))
    return int.from_bytes(hashlib.sha1(packed).digest()[:8], "big")


def encode(members: Sequence[Peer]) -> bytes:
    """Return the durable form of a member list: who votes, under what name; addresses may change."""
    parts = []
    for member in sorted(members, key=lambda member: member.member_id):
        name = member.name.encode()
        parts.append(_MEMBER.pack(member.member_id, len(name)) + name)
    return b"".join(parts)


def decode(data: bytes) -> dict[int, str]:
    """Return names by id."""
    names: dict[int, str] = {}
    at = 0
    while at < len(data):
        one, length = _MEMBER.unpack_from(data, at)
        at += _MEMBER.size
        names[one] = data[at : at + length].decode()
        at += length
    return names


def check_unchanged(recorded: bytes, configured: Sequence[Peer]) -> None:
    """Refuse to start with another set of voters than the log knows."""
    if recorded and recorded != encode(configured):
        known = ", ".join(f"{name} ({one:x})" for one, name in sorted(decode(recorded).items()))
        given = ", ".join(f"{peer.name} ({peer.member_id:x})" for peer in configured)
        raise MembershipError(
            f"this member's log belongs to a cluster of {known}, but --initial-cluster names {given}. "
            "Give the flags that the cluster was made with."
        )
