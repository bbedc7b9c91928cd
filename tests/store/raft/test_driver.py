"""Real members in one process: sockets, TLS, files and the loop's clock."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proto.raft import message_pb2 as pb
from store.raft.contract import ConsensusConfig, NoLeaderError, OutcomeUnknownError, Peer, RequestTooLargeError
from store.raft.disk import DirectoryInUseError
from store.raft.driver import RaftConsensus
from store.raft.framing import FrameReader, encode
from store.raft.members import MembershipError
from store.raft.tls import client_context
from store.raft.wal import CorruptWalError
from tests.simulation.machines import ListMachine
from tests.store.raft.certificates import make_authority

CLUSTER_ID = 0xC1


class Members:
    """Members on loopback that can be stopped and started again."""

    def __init__(self, directory: Path, size: int, tls: bool, request_timeout_s: float = 20.0) -> None:
        self.sockets: dict[int, socket.socket] = {}
        peers = []
        for one in range(1, size + 1):
            listener = socket.create_server(("127.0.0.1", 0))
            self.sockets[one] = listener
            peers.append(Peer(one, f"n{one}", "127.0.0.1", listener.getsockname()[1]))
        authority = make_authority(directory / "pki") if tls else None
        self.configs = {
            peer.member_id: ConsensusConfig(
                cluster_id=CLUSTER_ID,
                member=peer,
                peers=tuple(other for other in peers if other != peer),
                data_dir=directory / peer.name,
                tls=authority.issue(peer.name, f"raftsman://member/{peer.name}") if authority else None,
                heartbeat_interval_s=0.1,
                election_timeout_s=1.0,
                request_timeout_s=request_timeout_s,
            )
            for peer in peers
        }
        self.running: dict[int, RaftConsensus] = {}
        self.machines: dict[int, ListMachine] = {}

    async def start(self, one: int) -> RaftConsensus:
        self.machines[one] = ListMachine()
        member = RaftConsensus(self.configs[one], self.machines[one], self.sockets.pop(one, None))
        await member.start()
        self.running[one] = member
        return member

    async def stop(self, one: int) -> None:
        await self.running.pop(one).stop()

    async def leader(self) -> RaftConsensus:
        await eventually(lambda: any(self.serves(member) for member in self.running.values()), "a leader")
        return next(member for member in self.running.values() if self.serves(member))

    def serves(self, member: RaftConsensus) -> bool:
        return member.is_leader and all(
            other.leader_id == member.member_id for other in self.running.values() if other.term == member.term
        )

    def followers(self) -> list[RaftConsensus]:
        return [member for member in self.running.values() if not member.is_leader]


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def cluster(directory: Path, tls: bool = False, request_timeout_s: float = 20.0) -> AsyncIterator[Members]:
    members = Members(directory, 3, tls, request_timeout_s)
    try:
        for one in members.configs:
            await members.start(one)
        yield members
    finally:
        for one in list(members.running):
            await members.stop(one)
        for listener in members.sockets.values():
            listener.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_every_member_writes_and_reads_its_writes(tmp_path: Path, tls: bool) -> None:
    async with cluster(tmp_path, tls=tls) as members:
        results = [await member.propose(b"from-%d" % one) for one, member in members.running.items()]
        assert sorted(map(str, results)) == ["1", "2", "3"]
        for one, member in members.running.items():
            index = await member.read_index()
            assert member.applied_index >= index
            assert len(members.machines[one].applied) == 3


async def test_requests_that_wait_together_share_log_entries(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = await members.leader()
        before = leader.applied_index
        follower = members.followers()[0]
        await asyncio.gather(
            *(leader.propose(b"a-%d" % number) for number in range(500)),
            *(follower.propose(b"b-%d" % number) for number in range(500)),
        )
        assert leader.applied_index - before < 30
        await follower.read_index()
        assert members.machines[follower.member_id].applied == members.machines[leader.member_id].applied


async def test_writes_go_on_after_the_leader_is_gone_and_it_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = await members.leader()
        await leader.propose(b"before")
        gone = leader.member_id
        await members.stop(gone)
        survivor = members.followers()[0]
        await survivor.propose(b"after")
        again = await members.start(gone)
        await again.read_index()
        assert [payload for _, payload in members.machines[gone].applied] == [b"before", b"after"]


async def test_a_cluster_that_stops_comes_back_with_everything(tmp_path: Path) -> None:
    async with cluster(tmp_path, tls=True) as members:
        member = await members.leader()
        for number in range(20):
            await member.propose(b"%d" % number)
        for one in list(members.running):
            await members.stop(one)
        for one in members.configs:
            await members.start(one)
        await members.running[1].read_index()
        assert [payload for _, payload in members.machines[1].applied] == [b"%d" % number for number in range(20)]


async def test_without_a_quorum_nothing_is_promised(tmp_path: Path) -> None:
    members = Members(tmp_path, 3, tls=False, request_timeout_s=0.3)
    try:
        alone = await members.start(1)
        with pytest.raises(NoLeaderError):
            await alone.propose(b"x")
        with pytest.raises(NoLeaderError):
            await alone.read_index()
        with pytest.raises(NoLeaderError):
            await alone.ask_leader(b"x")
    finally:
        await members.stop(1)
        for listener in members.sockets.values():
            listener.close()


async def test_a_leader_that_loses_its_followers_does_not_know_the_outcome(tmp_path: Path) -> None:
    async with cluster(tmp_path, request_timeout_s=1.2) as members:
        leader = await members.leader()
        await leader.propose(b"x")
        for follower in members.followers():
            await members.stop(follower.member_id)
        with pytest.raises(OutcomeUnknownError):
            await leader.propose(b"y")
        assert not leader.is_leader


async def test_questions_reach_the_leader_from_every_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        for one, member in members.running.items():
            member.handle_questions(lambda body, one=one: b"%d:%s" % (one, body))  # type: ignore[misc]
        leader = await members.leader()
        for member in members.running.values():
            assert await member.ask_leader(b"hi") == b"%d:hi" % leader.member_id


async def test_a_leader_that_is_cut_off_answers_no_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease's time, say: another leader may have counted it down meanwhile."""
    async with cluster(tmp_path, request_timeout_s=1.5) as members:
        leader = await members.leader()
        await leader.propose(b"x")
        asked: list[bytes] = []
        leader.handle_questions(lambda body: asked.append(body) or b"answer")  # type: ignore[func-returns-value]
        assert await leader.ask_leader(b"before") == b"answer"
        monkeypatch.setattr(leader._replica.core, "_send_frame", lambda *_: None)
        follower = members.followers()[0]
        leader._answer(follower.member_id, pb.Question(id=1, body=b"from a follower"))
        with pytest.raises((NoLeaderError, OutcomeUnknownError)):
            await leader.ask_leader(b"from its own client")
        assert asked == [b"before"]


async def test_leadership_and_applied_entries_are_told(tmp_path: Path) -> None:
    members = Members(tmp_path, 1, tls=False)
    told: list[tuple[bool, int]] = []
    applied: list[int] = []
    member = RaftConsensus(members.configs[1], ListMachine(), members.sockets[1])
    member.on_leadership(lambda is_leader, term: told.append((is_leader, term)))
    member.on_applied(applied.append)
    await member.start()
    with pytest.raises(RequestTooLargeError):
        await member.propose(bytes(2_000_000))
    assert await member.propose(b"x") == 1
    await member.stop()
    assert told == [(True, 1)]
    assert applied == [2, 3]


async def test_waiting_requests_end_when_the_member_stops(tmp_path: Path) -> None:
    members = Members(tmp_path, 3, tls=False)
    alone = await members.start(1)
    waiting = [asyncio.ensure_future(call) for call in (alone.propose(b"x"), alone.read_index())]
    await asyncio.sleep(0)
    await members.stop(1)
    for listener in members.sockets.values():
        listener.close()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, NoLeaderError | OutcomeUnknownError) for error in done)


async def test_another_members_directory_is_refused(tmp_path: Path) -> None:
    members = Members(tmp_path, 1, tls=False)
    await members.start(1)
    await members.stop(1)
    renamed = replace(members.configs[1], member=replace(members.configs[1].member, name="other"))
    with pytest.raises(MembershipError, match="belongs to member n1"):
        RaftConsensus(renamed, ListMachine())


async def test_one_process_at_a_time_works_in_a_directory(tmp_path: Path) -> None:
    members = Members(tmp_path, 1, tls=False)
    await members.start(1)
    with pytest.raises(DirectoryInUseError, match="in use by another process"):
        RaftConsensus(members.configs[1], ListMachine())
    await members.stop(1)
    await members.start(1)
    await members.stop(1)


async def test_a_leader_that_stops_hands_on_first(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = await members.leader()
        await leader.propose(b"x")
        term = leader.term
        await eventually(lambda: all(one.applied_index == leader.applied_index for one in members.followers()), "both")
        await members.stop(leader.member_id)
        assert (await members.leader()).term == term + 1
        assert leader.leader_id != leader.member_id


async def test_leadership_moves_where_it_is_asked_to(tmp_path: Path) -> None:
    async with cluster(tmp_path) as members:
        leader = await members.leader()
        await leader.propose(b"x")
        heir = members.followers()[0].member_id
        await eventually(lambda: members.running[heir].applied_index == leader.applied_index, "the heir")
        await leader.move_leader(heir)
        assert (await members.leader()).member_id == heir
        with pytest.raises(NoLeaderError):
            await leader.move_leader(heir)


async def test_a_peer_that_dials_again_replaces_its_old_connection(tmp_path: Path) -> None:
    members = Members(tmp_path, 3, tls=False)
    await members.start(1)
    try:
        port = members.configs[1].member.port
        first_reader, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(hello(2))
        await first_reader.read(100)
        second_reader, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(hello(2))
        await second_reader.read(100)
        assert await is_closed(first_reader)
        first.close()
        second.close()
    finally:
        await members.stop(1)
        for listener in members.sockets.values():
            listener.close()


async def test_a_failing_disk_ends_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "input/output error")

    members = Members(tmp_path, 1, tls=False)

    async def run() -> None:
        member = await members.start(1)
        try:
            await member.propose(b"x")
            monkeypatch.setattr("os.fdatasync", fail)
            await member.propose(b"y")
        finally:
            await member.stop()

    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.timeout(30):
            await run()
    assert caught.group_contains(OSError, match="input/output error")


def test_a_damaged_log_is_refused_with_its_place(tmp_path: Path) -> None:
    members = Members(tmp_path, 1, tls=False)
    asyncio.run(written(members))
    [path] = (tmp_path / "n1" / "member" / "raft").glob("*.wal")
    data = bytearray(path.read_bytes())
    data[data.find(b"some payload") + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptWalError, match=str(path)):
        RaftConsensus(members.configs[1], ListMachine())


async def written(members: Members) -> None:
    member = await members.start(1)
    for _ in range(3):
        await member.propose(b"some payload")
    await members.stop(1)


# Strangers.


async def refused(config: ConsensusConfig, *frames: bytes, tls: ssl.SSLContext | None = None) -> bool:
    """Return whether the member closes the connection without a greeting."""
    reader, writer = await asyncio.open_connection("127.0.0.1", config.member.port, ssl=tls)
    writer.write(b"".join(frames))
    closed = await is_closed(reader)
    writer.close()
    return closed


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(20):
            return await reader.read() == b""
    except OSError:
        return True


def hello(member_id: int, cluster_id: int = CLUSTER_ID, version: int = 1) -> bytes:
    return encode(pb.Frame(hello=pb.Hello(version=version, cluster_id=cluster_id, member_id=member_id)))


@pytest.mark.parametrize(
    "frames",
    [
        [hello(9)],
        [hello(2, cluster_id=7)],
        [hello(2, version=99)],
        [encode(pb.Frame(vote_request=pb.VoteRequest(term=9)))],
        [b"\xff\xff\xff\xff"],
        [b"\0\0\0\x04\xff\xff\xff\xff"],
        [b"GET / HTTP/1.1\r\n\r\n"],
    ],
    ids=["unknown member", "other cluster", "other version", "no hello", "too long", "garbage", "http"],
)
async def test_strangers_are_refused(tmp_path: Path, frames: list[bytes]) -> None:
    members = Members(tmp_path, 3, tls=False)
    await members.start(1)
    try:
        assert await refused(members.configs[1], *frames)
    finally:
        await members.stop(1)
        for listener in members.sockets.values():
            listener.close()


@pytest.mark.parametrize(
    ("uris", "welcome"),
    [(("raftsman://member/n2",), True), (("raftsman://member/n3",), False), ((), False)],
    ids=["its own", "another's", "none"],
)
async def test_a_peer_is_who_its_certificate_says(tmp_path: Path, uris: tuple[str, ...], welcome: bool) -> None:
    members = Members(tmp_path, 3, tls=True)
    authority = make_authority(tmp_path / "pki")
    for one, config in members.configs.items():
        issued = authority.issue(config.member.name, f"raftsman://member/{config.member.name}")
        members.configs[one] = replace(config, tls=issued)
    context = client_context(authority.issue("dialler", *uris))
    await members.start(1)
    try:
        port = members.configs[1].member.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(hello(2))
        async with asyncio.timeout(20):
            answer = await reader.read(1000)
        assert bool(answer) == welcome
        writer.close()
    finally:
        await members.stop(1)
        for listener in members.sockets.values():
            listener.close()


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    members = Members(tmp_path, 3, tls=True)
    other = make_authority(tmp_path / "other").issue("n2", "raftsman://member/n2")
    trusting = replace(other, trusted_ca_file=tmp_path / "pki" / "ca.crt")
    await members.start(1)
    try:
        assert await refused(members.configs[1], hello(2), tls=client_context(trusting))
    finally:
        await members.stop(1)
        for listener in members.sockets.values():
            listener.close()


def test_frames_come_whole_however_the_stream_is_cut() -> None:
    frames = [pb.Frame(vote=pb.Vote(term=number)) for number in range(50)]
    stream = b"".join(map(encode, frames))
    for size in (1, 2, 3, 7, 64, len(stream)):
        reader = FrameReader()
        found: list[pb.Frame] = []
        for start in range(0, len(stream), size):
            found.extend(reader.feed(stream[start : start + size]))
        assert found == frames
