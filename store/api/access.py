"""Who a caller is: a token, or the common name of a client certificate."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable

from store.api.backend import Backend, Caller
from store.api.errors import Failure, of_refusal
from store.api.table import Call
from store.auth import Auth
from store.refusal import Refused


class Access:
    """Finds out callers and what they may do; while users are not enabled everybody may do everything."""

    def __init__(self, backend: Backend, wall_clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._wall_clock = wall_clock

    def caller(self, call: Call) -> Caller:
        """Who calls; nobody while users are not enabled."""
        auth = self._backend.machine.auth
        if not auth.enabled:
            return Caller()
        token = call.metadata.get("token") or call.metadata.get("authorization", "")
        name = self._name_in(token) if token else call.common_name
        return Caller(name, auth.revision)

    def known(self, call: Call) -> Caller:
        """Who calls; refuse who does not say."""
        caller = self.caller(call)
        if self._backend.machine.auth.enabled and not caller.name:
            raise Failure.USER_EMPTY.error()
        return caller

    def admin(self, call: Call) -> Caller:
        """Who calls; refuse all but root."""
        return self.allowed(call, lambda auth, name: auth.check_admin(name))

    def allowed(self, call: Call, check: Callable[[Auth, str], None]) -> Caller:
        """Who calls; refuse whom the check refuses."""
        caller = self.caller(call)
        try:
            check(self._backend.machine.auth, caller.name)
        except Refused as refused:
            raise of_refusal(refused) from refused
        return caller

    # Tokens

    def token_for(self, name: str) -> str:
        """A token that proves a user to every member until it is too old or the user's password changes."""
        epoch = self._backend.machine.auth.user(name).epoch
        content = f"{name}\n{epoch}\n{int(self._wall_clock()) + self._backend.limits.token_lifetime_s}".encode()
        return f"{base64.urlsafe_b64encode(content).decode()}.{self._signature(content)}"

    def _name_in(self, token: str) -> str:
        encoded, _, signature = token.removeprefix("Bearer ").partition(".")
        try:
            content = base64.urlsafe_b64decode(encoded)
            if not hmac.compare_digest(self._signature(content), signature):
                raise Failure.INVALID_AUTH_TOKEN.error()
            name, epoch, end = content.decode().rsplit("\n", 2)
            user = self._backend.machine.auth.user(name)
        except (binascii.Error, ValueError, TypeError, Refused) as error:
            raise Failure.INVALID_AUTH_TOKEN.error() from error
        if user.epoch != int(epoch) or int(end) < self._wall_clock():
            raise Failure.INVALID_AUTH_TOKEN.error()
        return name

    def _signature(self, content: bytes) -> str:
        return hmac.new(self._backend.machine.auth.secret, content, hashlib.sha256).hexdigest()
