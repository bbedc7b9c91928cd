"""What etcd answers when it refuses: the gRPC code and the exact text, which clients match.

The texts are part of the wire: change none.
"""

from __future__ import annotations

import enum

from store.refusal import Reason, Refused


class Code(enum.IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EtcdError(Exception):
    """A refusal as it goes on the wire."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    def as_go_prints_it(self) -> str:
        """The form in which etcd names this error inside a watch's cancel reason."""
        name = "".join(part.title() for part in self.code.name.split("_"))
        return f"rpc error: code = {name} desc = {self.text}"


class Failure(enum.Enum):
    """Every refusal of the services, as (code, text)."""

    EMPTY_KEY = (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
    KEY_NOT_FOUND = (Code.INVALID_ARGUMENT, "etcdserver: key not found")
    VALUE_PROVIDED = (Code.INVALID_ARGUMENT, "etcdserver: value is provided")
    LEASE_PROVIDED = (Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
    TOO_MANY_OPERATIONS = (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
    DUPLICATE_KEY = (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
    COMPACTED = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
    FUTURE_REVISION = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
    NO_SPACE = (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")

    LEASE_NOT_FOUND = (Code.NOT_FOUND, "etcdserver: requested lease not found")
    LEASE_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
    LEASE_TTL_TOO_LARGE = (Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")

    WATCH_CANCELED = (Code.CANCELLED, "etcdserver: watch canceled")

    MEMBER_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
    PEER_URL_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
    MEMBER_NOT_ENOUGH_STARTED = (
        Code.UNKNOWN,  # etcd means FAILED_PRECONDITION and sends this: seen on the wire of 3.5
        "etcdserver: re-configuration failed due to not enough started members",
    )
    MEMBER_BAD_URLS = (Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
    NAME_TAKEN = (Code.FAILED_PRECONDITION, "raftsman: the member's name is taken, or it has another one already")
    """Never seen by clients: members alone publish names."""
    MEMBER_NOT_FOUND = (Code.NOT_FOUND, "etcdserver: member not found")
    MEMBER_NOT_LEARNER = (Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
    LEARNER_NOT_READY = (
        Code.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    )
    TOO_MANY_LEARNERS = (Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")

    REQUEST_TOO_LARGE = (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
    TOO_MANY_REQUESTS = (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")

    ROOT_USER_NOT_EXIST = (Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")
    ROOT_ROLE_NOT_EXIST = (Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role")
    USER_ALREADY_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: user name already exists")
    USER_EMPTY = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
    USER_NOT_FOUND = (Code.FAILED_PRECONDITION, "etcdserver: user name not found")
    ROLE_ALREADY_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: role name already exists")
    ROLE_EMPTY = (Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
    ROLE_NOT_FOUND = (Code.FAILED_PRECONDITION, "etcdserver: role name not found")
    ROLE_NOT_GRANTED = (Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
    PERMISSION_DENIED = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
    PERMISSION_NOT_GIVEN = (Code.INVALID_ARGUMENT, "etcdserver: permission not given")
    PERMISSION_NOT_GRANTED = (Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")
    AUTH_FAILED = (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
    AUTH_OLD_REVISION = (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
    INVALID_AUTH_TOKEN = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
    INVALID_AUTH_MANAGEMENT = (Code.INVALID_ARGUMENT, "etcdserver: invalid auth management")
    AUTH_NOT_ENABLED = (Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")

    NO_LEADER = (Code.UNAVAILABLE, "etcdserver: no leader")
    NOT_LEADER = (Code.FAILED_PRECONDITION, "etcdserver: not leader")
    LEADER_CHANGED = (Code.UNAVAILABLE, "etcdserver: leader changed")
    STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")
    TIMEOUT = (Code.UNAVAILABLE, "etcdserver: request timed out")
    TIMEOUT_LEADER_FAILED = (
        Code.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
    )
    TIMEOUT_LEADER_TRANSFER = (Code.UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long")
    NOT_SUPPORTED_FOR_LEARNER = (Code.UNAVAILABLE, "etcdserver: rpc not supported for learner")
    UNHEALTHY = (Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
    CORRUPT = (Code.DATA_LOSS, "etcdserver: corrupt cluster")
    BAD_LEADER_TRANSFEREE = (Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")

    WRONG_DOWNGRADE_VERSION_FORMAT = (
        Code.INVALID_ARGUMENT,
        "etcdserver: wrong downgrade target version format",
    )
    UNKNOWN_METHOD = (Code.UNKNOWN, "etcdserver: unknown method")
    INVALID_DOWNGRADE_TARGET_VERSION = (Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")
    NO_INFLIGHT_DOWNGRADE = (Code.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job")

    def error(self) -> EtcdError:
        """The refusal to raise."""
        code, text = self.value
        return EtcdError(code, text)


def of_refusal(refused: Refused) -> EtcdError:
    """What the wire says for a refusal of the state machine; both tables use the same names."""
    return Failure[refused.reason.name].error()


assert all(reason.name in Failure.__members__ for reason in Reason), "each reason has its text"
