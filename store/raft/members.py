"""The members of the first hour, and the identities that follow from addresses as etcd makes them.

A new log begins with the members that the flags name. From then on the log alone says who belongs to the cluster
(see ``membership``), and flags that say otherwise change nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from urllib.parse import urlsplit

from store.raft.contract import ConsensusConfig, MemberRecord, Peer
from store.raft.membership import Membership

MEMBER_URI = "raftsman://member/"
"""What stands before a member's name in the URI name of its certificate."""

_MEMBER = struct.Struct("<QH")


class MembershipError(Exception):
    """The configured cluster is not the one that this member belongs to."""


def member_id(peer_urls: Iterable[str], cluster_token: str, added_at_s: int | None = None) -> int:
    """Return a member's id: a hash of its addresses, the cluster's token, and the time of one that is added later."""
    added = "" if added_at_s is None else str(added_at_s)
    digest = hashlib.sha1(("".join(sorted(peer_urls)) + cluster_token + added).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def cluster_id(member_ids: Iterable[int]) -> int:
    """Return the cluster's id: a hash of the initial members' ids."""
    packed = b"".join(struct.pack(">Q", one) for one in sorted(member_ids))
    return int.from_bytes(hashlib.sha1(packed).digest()[:8], "big")


def first_membership(config: ConsensusConfig) -> Membership:
    """Return the membership that a new log of a member begins with."""
    if config.membership is not None:
        return config.membership
    return Membership.of(_record_of(peer, config) for peer in (config.member, *config.peers))


def _record_of(peer: Peer, config: ConsensusConfig) -> MemberRecord:
    scheme = "https" if config.tls is not None else "http"
    urls = peer.peer_urls or (f"{scheme}://{peer.host}:{peer.port}",)
    return MemberRecord(peer.member_id, peer.name, urls)


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a peer URL; raise ValueError where it has none."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url!r} is no URL of the form http[s]://HOST:PORT")
    return parts.hostname, parts.port


def names_of(data: bytes) -> dict[int, str]:
    """Return names by id, from what version 1 of the log's format kept of the members."""
    names: dict[int, str] = {}
    at = 0
    while at < len(data):
        one, length = _MEMBER.unpack_from(data, at)
        at += _MEMBER.size
        names[one] = data[at : at + length].decode()
        at += length
    return names


def check_same_members(first_members: bytes, configured: Membership) -> None:
    """Refuse to go on from a log of version 1, which knew ids and names alone, with flags of another cluster."""
    recorded = names_of(first_members)
    given = {member.member_id: member.name for member in configured.members}
    if recorded and recorded != given:
        raise MembershipError(
            f"this member's log belongs to a cluster of {_list(recorded)}, but --initial-cluster names {_list(given)}. "
            "Give the flags that the cluster was made with."
        )


def check_name(name: str, own_id: int, membership: Membership) -> None:
    """Refuse to start as a member that the log does not belong to."""
    record = membership.get(own_id)
    if record is not None and record.name not in ("", name):
        raise MembershipError(
            f"this data directory belongs to member {record.name} ({own_id:x}), not to {name}: check --name and "
            "--data-dir. A member's name is part of its identity and stays."
        )


def _list(names: dict[int, str]) -> str:
    return ", ".join(f"{name} ({one:x})" for one, name in sorted(names.items()))
