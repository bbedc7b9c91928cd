"""What probes are told: /health, /livez and /readyz, as etcd 3.5 answers them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from proto.etcd.rpc_pb2 import AlarmType
from store.api.backend import Backend
from store.api.errors import EtcdError

Answer = tuple[int, str, bytes]
"""Status, content type, body."""

TEXT = "text/plain; charset=utf-8"
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}


class Health:
    """How a member is."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "data_corruption": self._data_corruption,
            "serializable_read": self._serializable_read,
            "linearizable_read": self._linearizable_read,
            "non_learner": self._non_learner,
        }
        self._checks: dict[str, dict[str, Callable[[], Awaitable[str]]]] = {
            "/livez": {"serializable_read": self._serializable_read},
            "/readyz": checks,
        }

    async def health(self, query: Mapping[str, list[str]]) -> Answer:
        """Whether requests of clients are served."""
        is_serializable = query.get("serializable", [""])[0] == "true"
        reason = await self._complaint(set(query.get("exclude", ())), is_serializable=is_serializable)
        self._count(ok=not reason)
        body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":"))
        # etcd ends its refusals with a line's end, and this one answer not.
        return (503, TEXT, f"{body}\n".encode()) if reason else (200, TEXT, body.encode())

    async def probe(self, path: str, query: Mapping[str, list[str]]) -> Answer | None:
        """Run the checks of /livez or /readyz, or the one named behind it; None where there is no such path."""
        for root, checks in self._checks.items():
            if path == root:
                excluded = set(query.get("exclude", ()))
                chosen = {name: check for name, check in checks.items() if name not in excluded}
            elif path.startswith(root + "/") and path[len(root) + 1 :] in checks:
                name = path[len(root) + 1 :]
                chosen = {name: checks[name]}
            else:
                continue
            return await self._run(chosen, is_verbose="verbose" in query)
        return None

    async def _run(self, checks: Mapping[str, Callable[[], Awaitable[str]]], *, is_verbose: bool) -> Answer:
        lines, failed = [], False
        for name, check in checks.items():
            reason = await check()
            lines.append(f"[-]{name} failed: {reason}\n" if reason else f"[+]{name} ok\n")
            failed = failed or bool(reason)
        self._count(ok=not failed)
        report = "".join(lines)
        if failed:
            return 503, TEXT, (report + "\n").encode()
        return 200, TEXT, ((report if is_verbose else "") + "ok\n").encode()

    async def _complaint(self, excluded: set[str], *, is_serializable: bool) -> str:
        for _, kind in sorted(self._backend.machine.alarms):
            name = AlarmType.Name(AlarmType.ValueType(kind))
            if name not in excluded:
                return f"ALARM {name}"
        if is_serializable:
            return ""
        if not self._backend.consensus.leader_id:
            return "RAFT NO LEADER"
        reason = await self._linearizable_read()
        return f"RANGE ERROR:{reason}" if reason else ""

    async def _serializable_read(self) -> str:
        """Nothing can be in the way of a read of this member's own state, once it answers at all."""
        return ""

    async def _linearizable_read(self) -> str:
        try:
            await self._backend.read_barrier()
        except EtcdError as error:
            return error.text
        return ""

    async def _data_corruption(self) -> str:
        return "alarm activated: CORRUPT" if self._backend.machine.is_corrupt else ""

    async def _non_learner(self) -> str:
        return "not supported for learner" if self._backend.is_learner() else ""

    def _count(self, *, ok: bool) -> None:
        if ok:
            self._backend.counters.health_successes += 1
        else:
            self._backend.counters.health_failures += 1
