"""The space that the keys may take: raised as an alarm when it is used up, and cleared when there is some again.

etcd leaves clearing to the operator. Here the member that raised the alarm clears it, once compaction has freed a tenth
of the quota, so that a store that was full for a while serves again by itself and does not flutter.
"""

from __future__ import annotations

import asyncio
import logging

from proto.etcd.rpc_pb2 import AlarmRequest, AlarmType
from proto.raft.command_pb2 import InternalRequest
from store.api.backend import STORE_ITSELF, Backend
from store.api.errors import EtcdError

log = logging.getLogger(__name__)

_LOOK_INTERVAL_S = 1.0
_FREE_PART = 10


def is_relieved(size_bytes: int, quota_bytes: int) -> bool:
    """Whether a tenth of the quota is free."""
    return size_bytes <= quota_bytes - quota_bytes // _FREE_PART


async def keep_clearing(backend: Backend) -> None:
    """Clear this member's alarm when there is space again; runs as long as the member serves."""
    own = (backend.consensus.member_id, AlarmType.NOSPACE)
    while True:
        await asyncio.sleep(_LOOK_INTERVAL_S)
        size_bytes = backend.machine.store.size_bytes
        if own not in backend.machine.alarms or not is_relieved(size_bytes, backend.limits.quota_backend_bytes):
            continue
        request = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=own[0], alarm=AlarmType.NOSPACE)
        try:
            await backend.propose(InternalRequest(alarm=request), STORE_ITSELF)
        except EtcdError as error:
            log.info("alarm not cleared yet reason=%s", error.text)
        else:
            log.info("space again, alarm cleared size_bytes=%d", size_bytes)
