"""etcdserverpb.Maintenance: the member's health, alarms, checksums and snapshots."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from proto.etcd.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    DefragmentRequest,
    DefragmentResponse,
    DowngradeRequest,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    SnapshotRequest,
    SnapshotResponse,
    StatusRequest,
    StatusResponse,
)
from proto.raft.command_pb2 import InternalRequest
from store.api.access import Access
from store.api.backend import VERSION, Backend, decode
from store.api.errors import Failure, of_refusal
from store.api.table import Call, ServiceTable, Stream, Streaming, Unary
from store.refusal import Refused
from store.snapshot import sealed

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?([-+][0-9A-Za-z.+-]+)?")


class MaintenanceService:
    """What operators ask of one member."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/etcdserverpb.Maintenance/Status": Unary(self.status),
            "/etcdserverpb.Maintenance/Alarm": Unary(self.alarm),
            "/etcdserverpb.Maintenance/Defragment": Unary(self.defragment),
            "/etcdserverpb.Maintenance/Hash": Unary(self.hash),
            "/etcdserverpb.Maintenance/HashKV": Unary(self.hash_kv),
            "/etcdserverpb.Maintenance/Snapshot": Streaming(self.snapshot, client_streaming=False),
            "/etcdserverpb.Maintenance/Downgrade": Unary(self.downgrade),
            "/etcdserverpb.Maintenance/MoveLeader": Unary(self.move_leader),
        }

    async def status(self, body: bytes, call: Call) -> bytes:
        """Tell how this member is."""
        decode(StatusRequest, body)
        consensus, store = self._backend.consensus, self._backend.machine.store
        errors = [] if consensus.leader_id else [Failure.NO_LEADER.value[1]]
        for member_id, kind in sorted(self._backend.machine.alarms):
            name = AlarmType.Name(AlarmType.ValueType(kind))
            errors.append(f"memberID:{member_id} alarm:{name} ")
        return StatusResponse(
            header=self._backend.header(),
            version=VERSION,
            dbSize=store.size_bytes,
            dbSizeInUse=store.size_bytes,
            leader=consensus.leader_id,
            raftIndex=consensus.commit_index,
            raftTerm=consensus.term,
            raftAppliedIndex=consensus.applied_index,
            errors=errors,
            isLearner=consensus.is_learner,
        ).SerializeToString()

    async def alarm(self, body: bytes, call: Call) -> bytes:
        """Show, raise or clear alarms."""
        request = decode(AlarmRequest, body)
        caller = self._access.known(call)
        if request.action == AlarmRequest.GET:
            await self._backend.read_barrier()
            response = AlarmResponse()
            for member_id, kind in sorted(self._backend.machine.alarms):
                if request.alarm in (AlarmType.NONE, kind):
                    response.alarms.append(AlarmMember(memberID=member_id, alarm=AlarmType.ValueType(kind)))
        else:
            response = cast(AlarmResponse, await self._backend.propose(InternalRequest(alarm=request), caller))
        self._backend.fill(response.header)
        return response.SerializeToString()

    async def defragment(self, body: bytes, call: Call) -> bytes:
        """Free what compaction gave up now; there is no file with holes to rewrite."""
        decode(DefragmentRequest, body)
        self._access.admin(call)
        await self._backend.scrub()
        return DefragmentResponse(header=self._backend.header()).SerializeToString()

    async def hash(self, body: bytes, call: Call) -> bytes:
        """A checksum over all that this member keeps."""
        decode(HashRequest, body)
        self._access.admin(call)
        checksum = await self._hash(self._backend.machine.store.current_revision)
        return HashResponse(header=self._backend.header(), hash=checksum).SerializeToString()

    async def hash_kv(self, body: bytes, call: Call) -> bytes:
        """A checksum that is the same on all members for the same revision and compaction."""
        request = decode(HashKVRequest, body)
        self._access.admin(call)
        store = self._backend.machine.store
        revision = request.revision if request.revision > 0 else store.current_revision
        checksum = await self._hash(revision)
        return HashKVResponse(
            header=self._backend.header(),
            hash=checksum,
            compact_revision=store.compact_revision,
            hash_revision=revision,
        ).SerializeToString()

    async def _hash(self, revision: int) -> int:
        """Compute a checksum while requests are served between its steps."""
        store = self._backend.machine.store
        checksum = 0
        try:
            store.check_revision(revision)
            for checksum in store.hashing(revision):  # noqa: B007 - the last one counts
                await asyncio.sleep(0)
        except Refused as refused:
            raise of_refusal(refused) from refused
        return checksum

    async def snapshot(self, stream: Stream, call: Call) -> None:
        """Send the whole state, in our own format, sealed as etcd's clients expect it."""
        decode(SnapshotRequest, await stream.read() or b"")
        self._access.admin(call)
        for chunk in sealed(self._backend.machine.snapshot()):
            response = SnapshotResponse(header=self._backend.header(), blob=chunk, version=VERSION)
            await stream.write(response.SerializeToString())

    async def downgrade(self, body: bytes, call: Call) -> bytes:
        """Refuse: there is no older version to go back to."""
        request = decode(DowngradeRequest, body)
        self._access.admin(call)
        if request.action == DowngradeRequest.CANCEL:
            raise Failure.NO_INFLIGHT_DOWNGRADE.error()
        if request.action not in (DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE):
            raise Failure.UNKNOWN_METHOD.error()
        if not _VERSION.fullmatch(request.version):
            raise Failure.WRONG_DOWNGRADE_VERSION_FORMAT.error()
        raise Failure.INVALID_DOWNGRADE_TARGET_VERSION.error()

    async def move_leader(self, body: bytes, call: Call) -> bytes:
        """Have another member lead; only the leader does that."""
        request = decode(MoveLeaderRequest, body)
        self._access.admin(call)
        await self._backend.move_leader(request.targetID)
        return MoveLeaderResponse(header=self._backend.header()).SerializeToString()
