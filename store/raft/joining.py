"""How a member finds out who it is: from its log, from the members of a cluster that it joins, or from its flags."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proto.raft import message_pb2 as pb
from store.raft.contract import MemberRecord, TLSFiles
from store.raft.disk import Directory
from store.raft.framing import FrameReader, FramingError, encode
from store.raft.handshake import PROTOCOL_VERSION
from store.raft.members import MembershipError, address_of
from store.raft.membership import Membership, from_message
from store.raft.tls import client_context
from store.raft.wal import identity_on

logger = logging.getLogger(__name__)

ASK_SECONDS_MAX = 10.0
BOOTSTRAP_SECONDS_MAX = 1.0
_READ_BYTES = 64 << 10


@dataclass(frozen=True)
class Standing:
    """Who a member is."""

    cluster_id: int
    member_id: int
    membership: Membership | None = None
    """What a member that joins was told; None where log or flags know."""


@dataclass(frozen=True)
class ToldCluster:
    """What a member says of its cluster."""

    cluster_id: int
    membership: Membership


def recorded_standing(data_dir: Path) -> Standing | None:
    """Return who the member is that a data directory belongs to, None where it holds no log."""
    path = data_dir / "member" / "raft"
    if not path.is_dir():
        return None
    directory = Directory(path)
    try:
        identity = identity_on(directory)
    finally:
        directory.close()
    return Standing(*identity) if identity is not None else None


async def join(name: str, flagged: Sequence[tuple[str, tuple[str, ...]]], tls: TLSFiles | None) -> Standing:
    """Return who a new member of an existing cluster is; ``flagged`` holds names and peer URLs of all members."""
    others = [url for other, urls in sorted(flagged) for url in urls if other != name]
    told = await ask_members(others, tls, ASK_SECONDS_MAX)
    if told is None:
        raise MembershipError(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
        )
    member_id = assigned(name, flagged, told.membership)
    return Standing(told.cluster_id, member_id, told.membership)


def assigned(name: str, flagged: Sequence[tuple[str, tuple[str, ...]]], membership: Membership) -> int:
    """Return the id that the cluster has given to a new member; raise MembershipError where the flags do not fit."""
    existing = membership.members
    if len(flagged) != len(existing):
        raise MembershipError(f"error validating peerURLs {_list(existing)}: member count is unequal")
    found = 0
    for record in existing:
        names = [other for other, urls in flagged if sorted(urls) == sorted(record.peer_urls)]
        if not names:
            urls = " ".join(record.peer_urls)
            raise MembershipError(
                f"error validating peerURLs {_list(existing)}: PeerURLs: no match found for existing member "
                f"({record.member_id:x}, [{urls}])"
            )
        if name in names:
            found = record.member_id
            if record.name not in ("", name):
                raise MembershipError(f"the peer URLs of {name} are those of member {record.name}: check --name")
    if not found:
        raise MembershipError(f"--initial-cluster does not name this member: add {name}=<its peer URL>")
    return found


async def check_not_bootstrapped(standing: Standing, others: Sequence[str], tls: TLSFiles | None) -> None:
    """Refuse to begin as a member that has been there before: it would have forgotten what it promised."""
    told = await ask_members(others, tls, BOOTSTRAP_SECONDS_MAX, quiet=True)
    if told is None or told.cluster_id != standing.cluster_id:
        return
    record = told.membership.get(standing.member_id)
    if standing.member_id in told.membership.removed or (record is not None and record.client_urls):
        raise MembershipError(
            f"member {standing.member_id:x} has already been bootstrapped: its log is not in --data-dir. "
            "Give the directory that it had, or remove the member and add it anew."
        )


async def ask_members(
    urls: Iterable[str], tls: TLSFiles | None, timeout_s: float, *, quiet: bool = False
) -> ToldCluster | None:
    """Return what the first member says that answers, None where none does in time."""
    try:
        async with asyncio.timeout(timeout_s):
            for url in urls:
                try:
                    return await _ask(url, tls)
                except (OSError, EOFError, FramingError, ValueError) as error:
                    level = logging.DEBUG if quiet else logging.WARNING
                    logger.log(level, "could not get cluster response from %s: %s", url, error)
    except TimeoutError:
        logger.log(logging.DEBUG if quiet else logging.WARNING, "no member answered in time")
    return None


async def _ask(url: str, tls: TLSFiles | None) -> ToldCluster:
    host, port = address_of(url)
    context: ssl.SSLContext | None = client_context(tls) if tls is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(encode(pb.Frame(members_request=pb.MembersRequest(version=PROTOCOL_VERSION))))
        frames = FrameReader()
        while data := await reader.read(_READ_BYTES):
            for frame in frames.feed(data):
                if frame.WhichOneof("body") != "members_reply":
                    raise FramingError("it answers with something else")
                return ToldCluster(frame.members_reply.cluster_id, from_message(frame.members_reply.membership))
        raise EOFError("it closed the connection")
    finally:
        writer.transport.abort()


def _list(records: Iterable[MemberRecord]) -> str:
    return ",".join(f"{record.member_id:x}={'+'.join(record.peer_urls)}" for record in records)
