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
    ROOT_USER_NOT_EXIST = enum.auto()
    ROOT_ROLE_NOT_EXIST = enum.auto()
    USER_ALREADY_EXISTS = enum.auto()
    USER_EMPTY = enum.auto()
    USER_NOT_FOUND = enum.auto()
    ROLE_ALREADY_EXISTS = enum.auto()
    ROLE_EMPTY = enum.auto()
    ROLE_NOT_FOUND = enum.auto()
    ROLE_NOT_GRANTED = enum.auto()
    PERMISSION_DENIED = enum.auto()
    PERMISSION_NOT_GIVEN = enum.auto()
    PERMISSION_NOT_GRANTED = enum.auto()
    AUTH_OLD_REVISION = enum.auto()
    INVALID_AUTH_MANAGEMENT = enum.auto()
    NOT_LEADER = enum.auto()
    """Asked by a leader that has a successor."""
    CORRUPT = enum.auto()
    """The payload in the log is no request: every member answers so, none stops."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """A request that cannot be carried out; nothing was changed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason
