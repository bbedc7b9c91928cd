"""Users, roles and what they may do, as plain data.

A role holds permissions on ranges of keys; a user holds roles; the role ``root`` may do everything. Each change makes a
new revision of all this, and a request that was checked at an older one is refused when it is applied, so that nobody
acts on a right that was just taken away.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable

from google.protobuf.message import Message

from proto.etcd import rpc_pb2 as pb
from proto.etcd.auth_pb2 import Permission, Role, User
from proto.raft.command_pb2 import InternalRequest
from proto.raft.state_pb2 import AuthState, UserState
from store.mvcc.interval import Interval, interval
from store.refusal import Reason, Refused

ROOT = "root"
_READS = (Permission.READ, Permission.READWRITE)
_WRITES = (Permission.WRITE, Permission.READWRITE)


class Auth:
    """Who may do what; nobody is asked until it is enabled."""

    def __init__(self) -> None:
        self._state = AuthState(revision=1)
        self._users: dict[str, UserState] = {}
        self._roles: dict[str, Role] = {}
        self._reachable: dict[tuple[str, bool], list[Interval]] = {}
        self._handlers: dict[str, Callable[[InternalRequest], Message]] = {
            "auth_enable": lambda request: self._enable(request.auth_enable.secret),
            "auth_disable": lambda request: self._disable(),
            "auth_user_add": lambda request: self._user_add(request.auth_user_add),
            "auth_user_delete": lambda request: self._user_delete(request.auth_user_delete),
            "auth_user_change_password": lambda request: self._change_password(request.auth_user_change_password),
            "auth_user_grant_role": lambda request: self._grant_role(request.auth_user_grant_role),
            "auth_user_revoke_role": lambda request: self._revoke_role(request.auth_user_revoke_role),
            "auth_role_add": lambda request: self._role_add(request.auth_role_add),
            "auth_role_delete": lambda request: self._role_delete(request.auth_role_delete),
            "auth_role_grant_permission": lambda request: self._grant(request.auth_role_grant_permission),
            "auth_role_revoke_permission": lambda request: self._revoke(request.auth_role_revoke_permission),
        }

    # What is so

    @property
    def enabled(self) -> bool:
        """Whether users have to prove themselves."""
        return self._state.enabled

    @property
    def revision(self) -> int:
        """How many changes there were, and one."""
        return self._state.revision

    @property
    def secret(self) -> bytes:
        """Signs tokens."""
        return self._state.secret

    @property
    def kinds(self) -> Collection[str]:
        """The requests that ``apply`` carries out."""
        return self._handlers.keys()

    def users(self) -> list[str]:
        """All names of users."""
        return sorted(self._users)

    def roles(self) -> list[str]:
        """All names of roles."""
        return sorted(self._roles)

    def user(self, name: str) -> UserState:
        """A user that must exist."""
        found = self._users.get(name)
        if found is None:
            raise Refused(Reason.USER_NOT_FOUND)
        return found

    def role(self, name: str) -> Role:
        """A role that must exist."""
        found = self._roles.get(name)
        if found is None:
            raise Refused(Reason.ROLE_NOT_FOUND)
        return found

    def state(self) -> AuthState:
        """Everything, for a snapshot."""
        state = AuthState()
        state.CopyFrom(self._state)
        state.users.extend(self._users[name] for name in sorted(self._users))
        state.roles.extend(self._roles[name] for name in sorted(self._roles))
        return state

    def load(self, state: AuthState) -> None:
        """Take everything from a snapshot."""
        self._users = {user.user.name.decode(): user for user in state.users}
        self._roles = {role.name.decode(): role for role in state.roles}
        self._state = AuthState(enabled=state.enabled, revision=max(state.revision, 1), secret=state.secret)
        self._reachable.clear()

    # What is allowed

    def check_revision(self, revision: int) -> None:
        """Refuse what was checked before the last change."""
        if self.enabled and revision < self.revision:
            raise Refused(Reason.AUTH_OLD_REVISION)

    def check_admin(self, name: str) -> None:
        """Refuse whoever is not root."""
        if not self.enabled:
            return
        if not name:
            raise Refused(Reason.USER_EMPTY)
        if not self._is_root(name):
            raise Refused(Reason.PERMISSION_DENIED)

    def check_read(self, name: str, key: bytes, range_end: bytes) -> None:
        """Refuse a reader of keys that are not his."""
        self._check(name, interval(key, range_end), writes=False)

    def check_write(self, name: str, key: bytes, range_end: bytes = b"") -> None:
        """Refuse a writer of keys that are not his."""
        self._check(name, interval(key, range_end), writes=True)

    def check_put(self, name: str, request: pb.PutRequest, lease_keys: Iterable[bytes]) -> None:
        """Refuse a put of a key that is not the user's, or under a lease that rules keys of others."""
        self.check_write(name, request.key)
        if request.prev_kv:
            self.check_read(name, request.key, b"")
        for key in lease_keys:
            self.check_write(name, key)

    def check_delete_range(self, name: str, request: pb.DeleteRangeRequest) -> None:
        """Refuse the deletion of keys that are not the user's."""
        self.check_write(name, request.key, request.range_end)
        if request.prev_kv:
            self.check_read(name, request.key, request.range_end)

    def check_txn(self, name: str, request: pb.TxnRequest, keys_of: Callable[[int], Iterable[bytes]]) -> None:
        """Refuse a transaction that may touch keys that are not the user's, whichever branch it takes."""
        for compare in request.compare:
            self.check_read(name, compare.key, compare.range_end)
        for branch in (request.success, request.failure):
            for operation in branch:
                match operation.WhichOneof("request"):
                    case "request_range":
                        self.check_read(name, operation.request_range.key, operation.request_range.range_end)
                    case "request_put":
                        self.check_put(name, operation.request_put, keys_of(operation.request_put.lease))
                    case "request_delete_range":
                        self.check_delete_range(name, operation.request_delete_range)
                    case "request_txn":
                        self.check_txn(name, operation.request_txn, keys_of)

    def _is_root(self, name: str) -> bool:
        user = self._users.get(name)
        return user is not None and ROOT in user.user.roles

    def _check(self, name: str, wanted: Interval, *, writes: bool) -> None:
        if not self.enabled:
            return
        if not name:
            raise Refused(Reason.USER_EMPTY)
        if self._is_root(name):
            return
        for reachable in self._ranges(name, writes=writes):
            if reachable.start <= wanted.start and (
                reachable.end is None or (wanted.end is not None and wanted.end <= reachable.end)
            ):
                return
        raise Refused(Reason.PERMISSION_DENIED)

    def _ranges(self, name: str, *, writes: bool) -> list[Interval]:
        """The ranges that a user reaches, those that touch joined, so that a request may span several permissions."""
        found = self._reachable.get((name, writes))
        if found is None:
            kinds = _WRITES if writes else _READS
            roles = self._users[name].user.roles if name in self._users else ()
            granted = [
                interval(permission.key, permission.range_end)
                for role in roles
                if role in self._roles
                for permission in self._roles[role].keyPermission
                if permission.permType in kinds
            ]
            found = self._reachable[name, writes] = _joined(granted)
        return found

    # Changes

    def apply(self, request: InternalRequest) -> Message:
        """Carry out a change; the request is one of ``kinds``."""
        return self._handlers[request.WhichOneof("request") or ""](request)

    def _changed(self) -> None:
        self._state.revision += 1
        self._reachable.clear()

    def _enable(self, secret: bytes) -> pb.AuthEnableResponse:
        if not self.enabled:
            root = self._users.get(ROOT)
            if root is None:
                raise Refused(Reason.ROOT_USER_NOT_EXIST)
            if ROOT not in root.user.roles:
                raise Refused(Reason.ROOT_ROLE_NOT_EXIST)
            self._state.enabled = True
            self._state.secret = secret
        return pb.AuthEnableResponse()

    def _disable(self) -> pb.AuthDisableResponse:
        if self.enabled:
            self._state.enabled = False
            self._changed()
        return pb.AuthDisableResponse()

    def _user_add(self, request: pb.AuthUserAddRequest) -> pb.AuthUserAddResponse:
        if not request.name:
            raise Refused(Reason.USER_EMPTY)
        if request.name in self._users:
            raise Refused(Reason.USER_ALREADY_EXISTS)
        user = User(name=request.name.encode(), password=request.hashedPassword.encode(), options=request.options)
        self._changed()
        self._users[request.name] = UserState(user=user, epoch=self.revision)
        return pb.AuthUserAddResponse()

    def _user_delete(self, request: pb.AuthUserDeleteRequest) -> pb.AuthUserDeleteResponse:
        if self.enabled and request.name == ROOT:
            raise Refused(Reason.INVALID_AUTH_MANAGEMENT)
        self.user(request.name)
        del self._users[request.name]
        self._changed()
        return pb.AuthUserDeleteResponse()

    def _change_password(self, request: pb.AuthUserChangePasswordRequest) -> pb.AuthUserChangePasswordResponse:
        user = self.user(request.name)
        self._changed()
        user.user.password = request.hashedPassword.encode()
        user.epoch = self.revision
        return pb.AuthUserChangePasswordResponse()

    def _grant_role(self, request: pb.AuthUserGrantRoleRequest) -> pb.AuthUserGrantRoleResponse:
        user = self.user(request.user).user
        if request.role != ROOT:
            self.role(request.role)
        if request.role not in user.roles:
            roles = list(user.roles)
            insort(roles, request.role)
            user.roles[:] = roles
            self._changed()
        return pb.AuthUserGrantRoleResponse()

    def _revoke_role(self, request: pb.AuthUserRevokeRoleRequest) -> pb.AuthUserRevokeRoleResponse:
        if self.enabled and request.name == ROOT and request.role == ROOT:
            raise Refused(Reason.INVALID_AUTH_MANAGEMENT)
        user = self.user(request.name).user
        if request.role not in user.roles:
            raise Refused(Reason.ROLE_NOT_GRANTED)
        user.roles.remove(request.role)
        self._changed()
        return pb.AuthUserRevokeRoleResponse()

    def _role_add(self, request: pb.AuthRoleAddRequest) -> pb.AuthRoleAddResponse:
        if not request.name:
            raise Refused(Reason.ROLE_EMPTY)
        if request.name in self._roles:
            raise Refused(Reason.ROLE_ALREADY_EXISTS)
        self._roles[request.name] = Role(name=request.name.encode())
        self._changed()
        return pb.AuthRoleAddResponse()

    def _role_delete(self, request: pb.AuthRoleDeleteRequest) -> pb.AuthRoleDeleteResponse:
        if self.enabled and request.role == ROOT:
            raise Refused(Reason.INVALID_AUTH_MANAGEMENT)
        self.role(request.role)
        del self._roles[request.role]
        for user in self._users.values():
            if request.role in user.user.roles:
                user.user.roles.remove(request.role)
        self._changed()
        return pb.AuthRoleDeleteResponse()

    def _grant(self, request: pb.AuthRoleGrantPermissionRequest) -> pb.AuthRoleGrantPermissionResponse:
        if not request.HasField("perm"):
            raise Refused(Reason.PERMISSION_NOT_GIVEN)
        role, granted = self.role(request.name), request.perm
        for permission in role.keyPermission:
            if (permission.key, permission.range_end) == (granted.key, granted.range_end):
                permission.permType = granted.permType
                break
        else:
            role.keyPermission.append(granted)
            role.keyPermission.sort(key=lambda permission: permission.key)
        self._changed()
        return pb.AuthRoleGrantPermissionResponse()

    def _revoke(self, request: pb.AuthRoleRevokePermissionRequest) -> pb.AuthRoleRevokePermissionResponse:
        role = self.role(request.role)
        kept = [
            permission
            for permission in role.keyPermission
            if (permission.key, permission.range_end) != (request.key, request.range_end)
        ]
        if len(kept) == len(role.keyPermission):
            raise Refused(Reason.PERMISSION_NOT_GRANTED)
        del role.keyPermission[:]
        role.keyPermission.extend(kept)
        self._changed()
        return pb.AuthRoleRevokePermissionResponse()


def _joined(ranges: list[Interval]) -> list[Interval]:
    """The same keys in as few ranges as possible, ascending."""
    joined: list[Interval] = []
    for one in sorted(ranges, key=lambda wanted: wanted.start):
        last = joined[-1] if joined else None
        if last is None or (last.end is not None and last.end < one.start):
            joined.append(one)
        elif last.end is not None:
            joined[-1] = Interval(last.start, None if one.end is None else max(last.end, one.end))
    return joined
