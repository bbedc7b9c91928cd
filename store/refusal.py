"""Why the state machine refuses a request, as a value; the services give each its gRPC code and text."""

from __future__ import annotations

import enum


class Reason(enum.Enum):
    """Everything that etcd may answer instead of doing what was asked."""

    EMPTY_KEY = enum.auto()
    KEY_NOT_FOUND = enum.auto()
    VALUE_PROVIDED = enum.auto()
    LEASE_PROVIDED = enum.auto()
    TOO_MANY_OPERATIONS = enum.auto()
    DUPLICATE_KEY = enum.auto()
    COMPACTED = enum.auto()
    FUTURE_REVISION = enum.auto()
    NO_SPACE = enum.auto()
    LEASE_NOT_FOUND = enum.auto()
    LEASE_EXISTS = enum.auto()
    LEASE_TTL_TOO_LARGE = enum.auto()
    CORRUPT = enum.auto()
    """The payload in the log is no request: every member answers so, none stops."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """A request that cannot be carried out; nothing was changed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason
