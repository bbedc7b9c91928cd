"""Grows and shrinks the store's membership, as a client of etcd's Cluster service.

A further control plane's member joins as a learner, which counts in no quorum, and is promoted once it holds the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from lab.site import CLIENT_PORT, PEER_PORT
from lab.state import LabError
from proto.etcd import rpc_pb2, rpc_pb2_grpc

CALL_TIMEOUT_S = 10.0
RETRY_S = 0.5
_FINAL = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
Answer = TypeVar("Answer")


class NotYetError(Exception):
    """What passes by itself: the text says what is awaited."""


class Membership:
    """The members of one store, asked through any of them."""

    def __init__(self, pki: Path, addresses: Sequence[str]) -> None:
        credentials = grpc.ssl_channel_credentials(
            (pki / "etcd" / "ca.crt").read_bytes(),
            (pki / "apiserver-etcd-client.key").read_bytes(),
            (pki / "apiserver-etcd-client.crt").read_bytes(),
        )
        options = [("grpc.enable_http_proxy", 0)]
        self._channels = [
            grpc.aio.secure_channel(f"{address}:{CLIENT_PORT}", credentials, options) for address in addresses
        ]

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    async def _try(
        self, what: str, timeout_s: float, call: Callable[[rpc_pb2_grpc.ClusterAsyncStub], Awaitable[Answer]]
    ) -> Answer:
        """Ask one member after the other until one answers; raises LabError with the last refusal."""
        deadline, said = time.monotonic() + timeout_s, "no member is known"
        while time.monotonic() < deadline:
            for channel in self._channels:
                try:
                    return await call(rpc_pb2_grpc.ClusterStub(channel))
                except grpc.aio.AioRpcError as error:
                    said = str(error.details())
                    if error.code() in _FINAL:
                        raise LabError(f"the store refused to {what}: {said}") from error
                except NotYetError as error:
                    said = str(error)
            await asyncio.sleep(RETRY_S)
        raise LabError(f"the store did not {what} within {timeout_s:.0f} s: {said}")

    async def list(self, timeout_s: float) -> list[rpc_pb2.Member]:
        """Return the members."""
        request = rpc_pb2.MemberListRequest(linearizable=True)
        answer = await self._try(
            "name its members", timeout_s, lambda stub: stub.MemberList(request, timeout=CALL_TIMEOUT_S)
        )
        return list(answer.members)

    async def add_learner(self, name: str, address: str, timeout_s: float) -> dict[str, str]:
        """Make room for a member; return the addresses of all by name, as it starts.

        A learner that an interrupted try left, and that never started, is taken over.
        """
        url = peer_url(address)

        async def attempt(stub: rpc_pb2_grpc.ClusterAsyncStub) -> dict[str, str]:
            # Looked at anew with each try: an answer that was lost may have been a yes.
            listing = rpc_pb2.MemberListRequest(linearizable=True)
            members = list((await stub.MemberList(listing, timeout=CALL_TIMEOUT_S)).members)
            others = [member for member in members if url not in member.peerURLs]
            addresses_of(others, name, url)  # one at a time: another that joins has the right of way
            if not is_awaited(members, name, url):
                request = rpc_pb2.MemberAddRequest(peerURLs=[url], isLearner=True)
                members = list((await stub.MemberAdd(request, timeout=CALL_TIMEOUT_S)).members)
            return addresses_of(members, name, url)

        return await self._try("add a member", timeout_s, attempt)

    async def promote(self, address: str, timeout_s: float) -> None:
        """Let a learner vote, once it has caught up."""
        url = peer_url(address)
        found = [member for member in await self.list(timeout_s) if url in member.peerURLs]
        if not found:
            raise LabError(f"the store has no member at {address}")
        if not found[0].isLearner:
            return
        request = rpc_pb2.MemberPromoteRequest(ID=found[0].ID)
        await self._try(
            "let the new member vote", timeout_s, lambda stub: stub.MemberPromote(request, timeout=CALL_TIMEOUT_S)
        )

    async def remove(self, name_or_address: str, timeout_s: float) -> bool:
        """Take a member out; tell whether there was one."""
        wanted = peer_url(name_or_address)
        found = [m for m in await self.list(timeout_s) if m.name == name_or_address or wanted in m.peerURLs]
        if not found:
            return False
        request = rpc_pb2.MemberRemoveRequest(ID=found[0].ID)
        await self._try("remove a member", timeout_s, lambda stub: stub.MemberRemove(request, timeout=CALL_TIMEOUT_S))
        return True


def is_awaited(members: Sequence[rpc_pb2.Member], name: str, url: str) -> bool:
    """Tell whether room for this member is made already; raises LabError where another stands in it."""
    for member in members:
        if url in member.peerURLs and not member.name and member.isLearner:
            return True
        if url in member.peerURLs or member.name == name:
            raise LabError(
                f"the store has a member {member.name or url} already; if this machine was it before, take that one "
                f"out, on another control plane, with: raftsman reset --member {member.name or url}"
            )
    return False


def peer_url(address: str) -> str:
    """Return where the other members find one."""
    return f"https://{address}:{PEER_PORT}"


def addresses_of(members: Sequence[rpc_pb2.Member], own_name: str, own_url: str) -> dict[str, str]:
    """Return all members' addresses by name; raises NotYetError where another than ours never started."""
    found = {}
    for member in members:
        name = own_name if own_url in member.peerURLs else member.name
        if not name:
            raise NotYetError(f"its member at {member.peerURLs[0]} has not started yet")
        found[name] = member.peerURLs[0].removeprefix("https://").rpartition(":")[0]
    return found
