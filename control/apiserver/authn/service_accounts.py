"""What stands in a service account's token, and what must still be true for it to count.

A token is bound to its service account and perhaps to a pod, a secret or a node, each by uid: when one of them is
gone or has been made anew, the token is worth nothing, whatever its expiry says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api.meta import Object, uid
from control.api.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS, Resource
from control.apiserver.authn.identity import InvalidCredentialError
from control.apiserver.request import UserInfo

USER_PREFIX = "system:serviceaccount:"
ALL_GROUP = "system:serviceaccounts"
CLAIMS_KEY = "kubernetes.io"
POD_NAME_KEY = "authentication.kubernetes.io/pod-name"
POD_UID_KEY = "authentication.kubernetes.io/pod-uid"
NODE_NAME_KEY = "authentication.kubernetes.io/node-name"
NODE_UID_KEY = "authentication.kubernetes.io/node-uid"
CREDENTIAL_ID_KEY = "authentication.kubernetes.io/credential-id"

WARN_ONLY_BOUND_SECONDS = 60 * 60 + 7
"""What kubelets ask for; such a token lives on for EXTENDED_SECONDS and only warns after this."""
EXTENDED_SECONDS = 365 * 24 * 60 * 60
DELETION_LEEWAY_SECONDS = 60

ObjectGetter = Callable[[Resource, str, str], Object | None]
"""(resource, name, namespace) → the object as it is now, or None."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a token is bound to, besides its service account."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    node_name: str = ""
    node_uid: str = ""


def user_name(namespace: str, name: str) -> str:
    """The user that a service account is."""
    return f"{USER_PREFIX}{namespace}:{name}"


def split_user_name(user: str) -> tuple[str, str] | None:
    """(namespace, name) of a service account's user, None for any other user."""
    if not user.startswith(USER_PREFIX):
        return None
    namespace, colon, name = user.removeprefix(USER_PREFIX).partition(":")
    return (namespace, name) if colon and namespace and name and ":" not in name else None


def make_claims(
    account: Object, bound: Bound, *, issuer: str, audiences: Sequence[str], now_s: int, seconds: int, token_id: str
) -> dict[str, Any]:
    """The claims of a new token."""
    metadata = account["metadata"]
    private: dict[str, Any] = {
        "namespace": metadata["namespace"],
        "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
    }
    if bound.kind:
        private[bound.kind.lower()] = {"name": bound.name, "uid": bound.uid}
    if bound.node_name:
        private["node"] = {"name": bound.node_name} | ({"uid": bound.node_uid} if bound.node_uid else {})
    lifetime = seconds
    if bound.kind == "Pod" and seconds == WARN_ONLY_BOUND_SECONDS:
        private["warnafter"] = now_s + seconds
        lifetime = EXTENDED_SECONDS
    return {
        "aud": list(audiences),
        "exp": now_s + lifetime,
        "iat": now_s,
        "iss": issuer,
        "jti": token_id,
        CLAIMS_KEY: private,
        "nbf": now_s,
        "sub": user_name(metadata["namespace"], metadata["name"]),
    }


def user_from_claims(claims: Mapping[str, Any], get: ObjectGetter, now_s: float) -> UserInfo:
    """Name the holder of a token whose signature, time and audience are right; refuse when a binding is broken."""
    private = claims.get(CLAIMS_KEY)
    if not isinstance(private, Mapping) or not isinstance(private.get("serviceaccount"), Mapping):
        raise InvalidCredentialError("token has no service account claims")
    namespace, account = str(private.get("namespace", "")), private["serviceaccount"]
    name = str(account.get("name", ""))
    if claims.get("sub") != user_name(namespace, name):
        raise InvalidCredentialError("token's subject does not match its service account claims")
    _require(get, SERVICE_ACCOUNTS, namespace, account, now_s)
    extra: dict[str, tuple[str, ...]] = {}
    if token_id := claims.get("jti"):
        extra[CREDENTIAL_ID_KEY] = (f"JTI={token_id}",)
    if secret := private.get("secret"):
        _require(get, SECRETS, namespace, secret, now_s)
    if pod := private.get("pod"):
        _require(get, PODS, namespace, pod, now_s)
        extra |= {POD_NAME_KEY: (str(pod["name"]),), POD_UID_KEY: (str(pod["uid"]),)}
    if node := private.get("node"):
        # A pod's token names its node for information; only a token bound to the node itself depends on it.
        if not pod and not secret:
            _require(get, NODES, "", node, now_s)
        extra |= {NODE_NAME_KEY: (str(node["name"]),)}
        if node.get("uid"):
            extra |= {NODE_UID_KEY: (str(node["uid"]),)}
    groups = (ALL_GROUP, f"{ALL_GROUP}:{namespace}")
    return UserInfo(name=user_name(namespace, name), uid=str(account.get("uid", "")), groups=groups, extra=extra)


def _require(get: ObjectGetter, resource: Resource, namespace: str, claim: Mapping[str, Any], now_s: float) -> None:
    """Refuse unless the claimed object stands, is the same one, and has not been deleted for longer than a minute."""
    name = str(claim.get("name", ""))
    found = get(resource, name, namespace)
    if found is None:
        raise InvalidCredentialError(f"{resource.kind} {name} of the token does not exist")
    if uid(found) != claim.get("uid"):
        raise InvalidCredentialError(f"{resource.kind} {name} of the token is another one now")
    deleted = found["metadata"].get("deletionTimestamp")
    if deleted and _seconds(deleted) < now_s - DELETION_LEEWAY_SECONDS:
        raise InvalidCredentialError(f"{resource.kind} {name} of the token has been deleted")


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
