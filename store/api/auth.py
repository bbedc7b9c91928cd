"""etcdserverpb.Auth: users, roles, permissions, tokens.

Passwords are hashed by the member that takes the request, so that neither the log nor a snapshot ever holds one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from proto.etcd import rpc_pb2 as pb
from proto.raft.command_pb2 import AuthEnable, InternalRequest
from store.api.access import Access
from store.api.backend import Backend, decode
from store.api.errors import Failure, of_refusal
from store.api.table import Call, ServiceTable, Unary
from store.refusal import Refused

_SALT_BYTES = 16
_SECRET_BYTES = 32
_SCRYPT: dict[str, Any] = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 * 1024**2}

_CHANGES: dict[str, tuple[str, type[Message]]] = {
    "AuthDisable": ("auth_disable", pb.AuthDisableRequest),
    "UserDelete": ("auth_user_delete", pb.AuthUserDeleteRequest),
    "UserGrantRole": ("auth_user_grant_role", pb.AuthUserGrantRoleRequest),
    "UserRevokeRole": ("auth_user_revoke_role", pb.AuthUserRevokeRoleRequest),
    "RoleAdd": ("auth_role_add", pb.AuthRoleAddRequest),
    "RoleDelete": ("auth_role_delete", pb.AuthRoleDeleteRequest),
    "RoleGrantPermission": ("auth_role_grant_permission", pb.AuthRoleGrantPermissionRequest),
    "RoleRevokePermission": ("auth_role_revoke_permission", pb.AuthRoleRevokePermissionRequest),
}


class AuthService:
    """Users and roles, for root alone once users are enabled."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access

    def table(self) -> ServiceTable:
        """The methods of the service."""
        methods: dict[str, Any] = {
            "AuthEnable": self.enable,
            "AuthStatus": self.status,
            "Authenticate": self.authenticate,
            "UserAdd": self.user_add,
            "UserChangePassword": self.user_change_password,
            "UserGet": self.user_get,
            "UserList": self.user_list,
            "RoleGet": self.role_get,
            "RoleList": self.role_list,
            **{name: self._change(*change) for name, change in _CHANGES.items()},
        }
        return {f"/etcdserverpb.Auth/{name}": Unary(method) for name, method in methods.items()}

    async def enable(self, body: bytes, call: Call) -> bytes:
        """Have users prove themselves from now on."""
        decode(pb.AuthEnableRequest, body)
        return await self._propose(
            InternalRequest(auth_enable=AuthEnable(secret=secrets.token_bytes(_SECRET_BYTES))), call
        )

    async def status(self, body: bytes, call: Call) -> bytes:
        """Whether users have to prove themselves."""
        await self._prepare(call)
        auth = self._backend.machine.auth
        return pb.AuthStatusResponse(
            header=self._backend.header(), enabled=auth.enabled, authRevision=auth.revision
        ).SerializeToString()

    async def authenticate(self, body: bytes, call: Call) -> bytes:
        """Give a token to whoever knows the password."""
        request = decode(pb.AuthenticateRequest, body)
        await self._backend.read_barrier()
        auth = self._backend.machine.auth
        if not auth.enabled:
            raise Failure.AUTH_NOT_ENABLED.error()
        try:
            user = auth.user(request.name).user
        except Refused as refused:
            raise Failure.AUTH_FAILED.error() from refused
        if user.options.no_password or not await asyncio.to_thread(_matches, user.password, request.password):
            raise Failure.AUTH_FAILED.error()
        token = self._access.token_for(request.name)
        return pb.AuthenticateResponse(header=self._backend.header(), token=token).SerializeToString()

    async def user_add(self, body: bytes, call: Call) -> bytes:
        """Add a user."""
        request = decode(pb.AuthUserAddRequest, body)
        self._access.admin(call)
        if not request.options.no_password:
            request.hashedPassword = await asyncio.to_thread(_hashed, request.password)
        request.ClearField("password")
        return await self._propose(InternalRequest(auth_user_add=request), call)

    async def user_change_password(self, body: bytes, call: Call) -> bytes:
        """Change a password; the user's tokens are worth nothing from now on."""
        request = decode(pb.AuthUserChangePasswordRequest, body)
        self._access.admin(call)
        request.hashedPassword = await asyncio.to_thread(_hashed, request.password)
        request.ClearField("password")
        return await self._propose(InternalRequest(auth_user_change_password=request), call)

    async def user_get(self, body: bytes, call: Call) -> bytes:
        """The roles of a user; users may ask for themselves."""
        request = decode(pb.AuthUserGetRequest, body)
        if self._access.caller(call).name != request.name:
            self._access.admin(call)
        await self._backend.read_barrier()
        user = self._found(lambda: self._backend.machine.auth.user(request.name)).user
        return pb.AuthUserGetResponse(header=self._backend.header(), roles=user.roles).SerializeToString()

    async def user_list(self, body: bytes, call: Call) -> bytes:
        """All users."""
        await self._prepare(call)
        users = self._backend.machine.auth.users()
        return pb.AuthUserListResponse(header=self._backend.header(), users=users).SerializeToString()

    async def role_get(self, body: bytes, call: Call) -> bytes:
        """The permissions of a role; users may ask for the roles that they hold."""
        request = decode(pb.AuthRoleGetRequest, body)
        auth = self._backend.machine.auth
        caller = self._access.caller(call)
        if not caller.name or request.role not in self._found(lambda: auth.user(caller.name)).user.roles:
            self._access.admin(call)
        await self._backend.read_barrier()
        role = self._found(lambda: auth.role(request.role))
        return pb.AuthRoleGetResponse(header=self._backend.header(), perm=role.keyPermission).SerializeToString()

    async def role_list(self, body: bytes, call: Call) -> bytes:
        """All roles."""
        await self._prepare(call)
        roles = self._backend.machine.auth.roles()
        return pb.AuthRoleListResponse(header=self._backend.header(), roles=roles).SerializeToString()

    def _change(self, field: str, kind: type[Message]) -> Callable[[bytes, Call], Any]:
        async def change(body: bytes, call: Call) -> bytes:
            request: dict[str, Any] = {field: decode(kind, body)}
            return await self._propose(InternalRequest(**request), call)

        return change

    async def _prepare(self, call: Call) -> None:
        self._access.admin(call)
        await self._backend.read_barrier()

    async def _propose(self, request: InternalRequest, call: Call) -> bytes:
        response: Any = await self._backend.propose(request, self._access.admin(call))
        self._backend.fill(response.header)
        body: bytes = response.SerializeToString()
        return body

    @staticmethod
    def _found(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except Refused as refused:
            raise of_refusal(refused) from refused


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(_SALT_BYTES)
    return base64.b64encode(salt + hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)).decode()


def _matches(stored: bytes, password: str) -> bool:
    try:
        salted = base64.b64decode(stored, validate=True)
    except binascii.Error:
        return False
    salt, expected = salted[:_SALT_BYTES], salted[_SALT_BYTES:]
    return bool(expected) and hmac.compare_digest(hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT), expected)
