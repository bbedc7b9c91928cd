"""TokenReview and SelfSubjectReview: authentication, asked as a question."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import bad_request
from control.apiserver.authn.chain import TokenAuthenticator
from control.apiserver.authn.identity import InvalidCredentialError
from control.apiserver.request import Handlers, ResourceRequest, UserInfo

GROUP = "authentication.k8s.io"
TOKEN_REVIEWS = Resource(GROUP, "v1", "tokenreviews", "TokenReview", namespaced=False)
SELF_SUBJECT_REVIEWS = Resource(GROUP, "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


def user_object(user: UserInfo) -> dict[str, Any]:
    """A user as reviews show it."""
    shown: dict[str, Any] = {"username": user.name}
    if user.uid:
        shown["uid"] = user.uid
    if user.groups:
        shown["groups"] = list(user.groups)
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra.items()}
    return shown


class AuthenticationReviews:
    """Serves the two kinds of authentication.k8s.io/v1."""

    def __init__(self, tokens: TokenAuthenticator) -> None:
        self._tokens = tokens

    def register(self, handlers: Handlers) -> None:
        """Plug into the API server."""
        handlers.add_object(TOKEN_REVIEWS, "", "create", self.token)
        handlers.add_object(SELF_SUBJECT_REVIEWS, "", "create", self.self_subject)

    async def token(self, request: ResourceRequest) -> Object:
        """Say whose a token is."""
        review = request.object or {}
        spec = review.get("spec") or {}
        if not spec.get("token"):
            raise bad_request("token is required for TokenReview in authentication")
        answered: Object = {**review, "metadata": review.get("metadata") or {}}
        try:
            found = await self._tokens.authenticate(spec["token"], tuple(spec.get("audiences") or ()))
        except InvalidCredentialError as error:
            answered["status"] = {"user": {}, "error": f"invalid bearer token, {error}"}
            return answered
        status: dict[str, Any] = {"authenticated": True, "user": user_object(found.user)}
        if found.audiences:
            status["audiences"] = list(found.audiences)
        answered["status"] = status
        return answered

    async def self_subject(self, request: ResourceRequest) -> Object:
        """Say who asks."""
        review = request.object or {}
        status = {"userInfo": user_object(request.user)}
        return {**review, "metadata": review.get("metadata") or {}, "status": status}
