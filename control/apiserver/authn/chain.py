"""The authenticator of the API server: asks every kind of credential in turn, then applies impersonation.

Whoever presents something wrong hears 401, even where anonymous requests are served; whoever presents nothing is
nobody (None), and the caller decides whether nobody may go on.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from control.api import bootstraptokens
from control.api.meta import Object
from control.api.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS, Resource
from control.api.status import ApiError, internal_error, unauthorized
from control.apiserver.authn import bootstrap_tokens, front_proxy, impersonation, service_accounts
from control.apiserver.authn.identity import Authenticated, InvalidCredentialError, with_authenticated_group
from control.apiserver.authn.jwt_keys import TokenVerifier
from control.apiserver.authn.x509 import CertificateAuthority
from control.apiserver.authz.attributes import forbidden_error
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.request import RECORD, Credentials, Lookup, Proof, UserInfo
from control.client.client import Client

logger = logging.getLogger(__name__)

_WEBSOCKET_BEARER = "base64url.bearer.authorization.k8s.io."
KNOWN_MAX = 4096
Bound = tuple[Resource, str, str]
"""Resource, name and namespace."""
RevisionOf = Callable[[Resource, str, str], int]
"""Returns the revision at which an object stands in memory, 0 where it does not."""
_BOUND_RESOURCES = {"serviceaccount": SERVICE_ACCOUNTS, "pod": PODS, "secret": SECRETS, "node": NODES}


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was found good."""

    outcome: Authenticated
    begins_s: float
    ends_s: float
    bound: tuple[tuple[Bound, int], ...]
    """What it is bound to, and the revision that this was at."""


class TokenAuthenticator:
    """Names the holder of a bearer token: a service account's, or a bootstrap token."""

    def __init__(
        self,
        verifier: TokenVerifier,
        audiences: Sequence[str],
        lookup: Lookup,
        client: Client,
        *,
        bootstrap: bool,
        clock: Callable[[], datetime] = _utc_now,
        revision: RevisionOf | None = None,
    ) -> None:
        self._known: dict[str, _Known] = {}
        self._revision = revision
        self._verifier = verifier
        self._audiences = tuple(audiences)
        self._lookup = lookup
        self._client = client
        self._bootstrap = bootstrap
        self._clock = clock
        self._is_warm = False
        """Whether the caches were loaded once; where one was lost since, the store is asked."""

    async def authenticate(self, token: str, audiences: Sequence[str] = ()) -> Authenticated:
        """Return who holds the token, for those of the wanted audiences that it serves; else InvalidCredentialError."""
        wanted = tuple(audiences) or self._audiences
        if not audiences and (known := self.recall(token)) is not None:
            return known
        if self._verifier.is_ours(token):
            claims = self._verifier.verify(token, wanted, self._clock().timestamp())
            user = await self._service_account(claims)
            outcome = Authenticated(with_authenticated_group(user), tuple(claims["aud"]))
            if not audiences:
                self._remember(token, claims, outcome)
            return outcome
        if self._bootstrap and bootstraptokens.TOKEN_FORM.match(token):
            await self._lookup.warm(SECRETS)
            found = bootstrap_tokens.authenticate(
                token, self._clock(), lambda namespace, name: self._lookup.get(SECRETS, name, namespace)
            )
            # A bootstrap token is for the API server alone.
            shared = tuple(audience for audience in wanted if audience in self._audiences)
            if found is not None and shared:
                return Authenticated(with_authenticated_group(found), shared)
        raise InvalidCredentialError("unknown token")

    def recall(self, token: str) -> Authenticated | None:
        """Return who holds a token that was found good and still is; None for one that has to be looked at."""
        known = self._known.get(token)
        return known.outcome if known is not None and self._still_true(known) else None

    async def _service_account(self, claims: dict[str, Any]) -> UserInfo:
        """Check the bindings in the cache; ask the store where the cache may only be behind."""
        now_s = self._clock().timestamp()
        if not self._is_warm:
            for resource in _BOUND_RESOURCES.values():
                await self._lookup.warm(resource)
            self._is_warm = True
        try:
            return service_accounts.user_from_claims(claims, self._lookup.get, now_s)
        except InvalidCredentialError:
            live = await self._live_bindings(claims)
            return service_accounts.user_from_claims(claims, lambda r, n, s: live.get((r, n, s)), now_s)

    def _still_true(self, known: _Known) -> bool:
        """Tell whether a token that was good is: in its time, and bound to objects that nobody has touched."""
        revision = self._revision
        if revision is None or not known.begins_s <= self._clock().timestamp() < known.ends_s:
            return False
        return all(revision(*bound) == at for bound, at in known.bound)

    def _remember(self, token: str, claims: dict[str, Any], outcome: Authenticated) -> None:
        if self._revision is None:
            return
        bound = []
        for key in _bindings(claims):
            found, at = self._lookup.get(*key), self._revision(*key)
            if found is None or found["metadata"].get("deletionTimestamp") or not at:
                # What is being deleted counts for a minute more: that is to be asked each time.
                return
            bound.append((key, at))
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[token] = _Known(outcome, claims.get("nbf", 0), claims["exp"], tuple(bound))

    async def _live_bindings(self, claims: dict[str, Any]) -> dict[tuple[Resource, str, str], Object]:
        found: dict[tuple[Resource, str, str], Object] = {}
        for resource, name, namespace in _bindings(claims):
            try:
                found[resource, name, namespace] = await self._client.get(resource, name, namespace)
            except ApiError as error:
                logger.debug("bound object not found resource=%s name=%s: %s", resource.plural, name, error)
        return found


def _bindings(claims: dict[str, Any]) -> Iterator[Bound]:
    """Yield what a token names: its service account, and what else it is bound to."""
    private = claims.get(service_accounts.CLAIMS_KEY)
    if not isinstance(private, dict):
        return
    for claim, resource in _BOUND_RESOURCES.items():
        name = str((private.get(claim) or {}).get("name", ""))
        if name:
            yield resource, name, str(private.get("namespace", "")) if resource.namespaced else ""


class Authentication:
    """Every way to say who one is, in upstream's order: front proxy, certificate, token."""

    def __init__(
        self,
        *,
        authorities: CertificateAuthority | None,
        proxy_authorities: CertificateAuthority | None,
        proxy_headers: front_proxy.FrontProxyHeaders,
        tokens: TokenAuthenticator,
        authorizer: ModeAuthorizer,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._authorities = authorities
        self._proxy_authorities = proxy_authorities
        self._proxy_headers = proxy_headers
        self._tokens = tokens
        self._authorizer = authorizer
        self._clock = clock
        self._grouped: dict[int, tuple[UserInfo, UserInfo]] = {}

    async def authenticate(self, credentials: Credentials) -> UserInfo | None:
        """Return the user (the borrowed one under impersonation), None when nothing was presented."""
        user = await self._identify(credentials)
        if user is None:
            return None
        if (record := RECORD.get()) is not None:
            await record.identified(user)
        return self._impersonated(user, credentials)

    def proof(self, credentials: Credentials) -> Proof | None:
        """Return what tells again and again who presents these credentials; None where they borrow a name.

        Everything that a proof rests on (time, bindings, authorities) is looked at whenever it is asked.
        """
        if any(name.startswith(impersonation.HEADERS) for name in credentials.headers):
            return None
        if credentials.certificate is not None:
            return lambda: self._certified(credentials)
        token = bearer_token(credentials)

        def holder() -> UserInfo | None:
            known = self._tokens.recall(token)
            return known.user if known is not None else None

        return holder if token else None

    def _certified(self, credentials: Credentials) -> UserInfo | None:
        try:
            user = self._by_certificate(credentials)
        except (InvalidCredentialError, ValueError):
            return None
        return self._with_group(user) if user is not None else None

    async def _identify(self, credentials: Credentials) -> UserInfo | None:
        faults: list[str] = []
        try:
            if user := self._by_certificate(credentials):
                return self._with_group(user)
        except (InvalidCredentialError, ValueError) as error:
            faults.append(str(error))
        token = bearer_token(credentials)
        if token:
            try:
                return (await self._tokens.authenticate(token)).user
            except InvalidCredentialError as error:
                faults.append(str(error))
        if faults or credentials.authorization:
            logger.info("credentials refused remote=%s reasons=%s", credentials.remote_address, "; ".join(faults))
            raise unauthorized()
        return None

    def _with_group(self, user: UserInfo) -> UserInfo:
        """Return the same object for the same user, by which decisions are remembered."""
        known = self._grouped.get(id(user))
        if known is None or known[0] is not user:
            if len(self._grouped) >= KNOWN_MAX:
                self._grouped.clear()
            known = self._grouped[id(user)] = user, with_authenticated_group(user)
        return known[1]

    def _by_certificate(self, credentials: Credentials) -> UserInfo | None:
        if credentials.certificate is None:
            return None
        now = self._clock()
        if self._proxy_authorities is not None:
            proxy = self._proxy_authorities.user_of(credentials.certificate, now)
            allowed = self._proxy_headers.allowed_names
            if proxy is not None and (not allowed or proxy.name in allowed):
                vouched = front_proxy.user_from_headers(self._proxy_headers, credentials.headers)
                if vouched is not None:
                    return vouched
        if self._authorities is not None:
            user = self._authorities.user_of(credentials.certificate, now)
            if user is not None:
                return user
        if self._proxy_authorities is None or self._proxy_authorities.user_of(credentials.certificate, now) is None:
            raise InvalidCredentialError("x509: certificate signed by unknown authority")
        return None

    def _impersonated(self, user: UserInfo, credentials: Credentials) -> UserInfo:
        try:
            wish = impersonation.wanted(user, credentials.headers)
        except impersonation.ImpersonationError as error:
            raise internal_error(str(error)) from error
        if wish is None:
            return user
        for question in wish.checks:
            verdict = self._authorizer.judge(question)
            if not verdict.allowed:
                raise forbidden_error(question, verdict.reason)
        logger.info("impersonation user=%s as=%s", user.name, wish.user.name)
        if (record := RECORD.get()) is not None:
            record.impersonates(wish.user)
        return wish.user


def bearer_token(credentials: Credentials) -> str:
    """The token of the Authorization header, or of the WebSocket subprotocol that browsers send it in."""
    scheme, _, token = credentials.authorization.strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    for header in credentials.headers.get("sec-websocket-protocol", ()):
        for protocol in header.split(","):
            encoded = protocol.strip().removeprefix(_WEBSOCKET_BEARER)
            if encoded != protocol.strip():
                try:
                    padded = encoded + "=" * (-len(encoded) % 4)
                    return base64.urlsafe_b64decode(padded).decode()
                except (binascii.Error, UnicodeDecodeError):
                    return ""
    return ""
