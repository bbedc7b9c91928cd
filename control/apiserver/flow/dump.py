"""The gate's state as people read it: upstream's three tables under /debug/api_priority_and_fairness/."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from control.apiserver.flow.fairness import State, Ticket
from control.apiserver.flow.gate import FlowGate, Passage
from control.apiserver.flow.level import Level

CELL_WIDTH_MIN = 8

_LEVELS = (
    "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
    "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests",
)  # fmt: skip
_QUEUES = (
    "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
    "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum",
)  # fmt: skip
_REQUESTS = (
    "PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
    "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime",
)  # fmt: skip
_DETAILS = ("UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
Row = Sequence[str]


def dump(gate: FlowGate, what: str, details: bool) -> bytes | None:
    """Return one of the tables, None where there is none of this name."""
    levels = [gate.levels[name] for name in sorted(gate.levels)]
    match what:
        case "dump_priority_levels":
            return _table([_LEVELS, *map(_level, levels)])
        case "dump_queues":
            return _table([_QUEUES, *(row for level in levels for row in _queues(level))])
        case "dump_requests":
            head = (*_REQUESTS, *_DETAILS) if details else _REQUESTS
            since = time.time() - gate.clock()
            return _table([head, *(row for level in levels for row in _requests(level, since, details))])
        case _:
            return None


def _table(rows: Sequence[Row]) -> bytes:
    """Align rows as Go's tabwriter does: every cell but a row's last ends in a comma."""
    widths = [
        max(CELL_WIDTH_MIN, *(len(row[column]) + 2 for row in rows))
        for column in range(max(len(row) for row in rows) - 1)
    ]
    lines = (
        "".join(f"{cell},".ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows
    )
    return ("\n".join(lines) + "\n").encode()


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _level(level: Level) -> Row:
    queues = level.queues
    numbers = (
        queues.waiting,
        queues.executing,
        level.dispatched,
        level.rejected(),
        level.rejected("time-out"),
        level.rejected("cancelled"),
    )
    active = sum(1 for queue in queues.queues.values() if queue.waiting)
    return (level.name, str(active), _truth(level.idle), _truth(level.quiescing), *map(str, numbers))


def _queues(level: Level) -> Iterator[Row]:
    for index, queue in sorted(level.queues.queues.items()):
        works = [ticket.work for ticket in queue.waiting]
        yield (
            level.name,
            str(index),
            str(len(works)),
            str(queue.executing),
            str(queue.seats),
            f"{queue.next_start:.8f}ss",
            str(sum(work.seats for work in works)),
            str(sum(work.width for work in works)),
            f"{sum(work.total for work in works):.8f}ss",
        )


def _requests(level: Level, since: float, details: bool) -> Iterator[Row]:
    places: dict[Ticket, tuple[int, int]] = {}
    for index, queue in level.queues.queues.items():
        places.update((ticket, (index, place)) for place, ticket in enumerate(queue.waiting))
    passages = [
        ticket for ticket in level.tickets if isinstance(ticket, Passage) and ticket.state is not State.FINISHING
    ]
    for passage in sorted(passages, key=lambda each: (*places.get(each, (-1, -1)), each.entered_at)):
        queue_index, place = places.get(passage, (-1, -1))
        row = (
            level.name,
            passage.route.schema.name,
            str(queue_index),
            str(place),
            passage.flow,
            _moment(since + passage.entered_at),
            str(passage.work.seats),
            str(passage.work.final_seats),
            _duration(passage.work.final_s),
            _moment(since + passage.started_at) if passage.admitted else "0001-01-01T00:00:00Z",
        )
        yield (*row, *_detail(passage)) if details else row


def _detail(passage: Passage) -> Row:
    info = passage.info
    version = f"{info.group}/{info.version}" if info.group else info.version
    return (
        passage.user.name, info.verb, info.path, info.namespace, info.name, version, info.resource, info.subresource
    )  # fmt: skip


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds else "0s"
