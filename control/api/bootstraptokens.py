"""Bootstrap tokens as values: their form, the Secret that holds one, and how one vouches for cluster-info.

A machine that is to join knows a token and nothing else. The ConfigMap kube-public/cluster-info, which everybody may
read, carries a kubeconfig without credentials and, for each token that may sign, a JWS (RFC 7515, HS256, the payload
left out) made with the token's secret: whoever holds the token can tell that the kubeconfig is the cluster's own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime

from control.api.meta import Object

TOKEN_FORM = re.compile(r"^([a-z0-9]{6})\.([a-z0-9]{16})$")
SECRET_TYPE = "bootstrap.kubernetes.io/token"
SECRET_PREFIX = "bootstrap-token-"
SECRET_NAMESPACE = "kube-system"
CLUSTER_INFO, CLUSTER_INFO_NAMESPACE = "cluster-info", "kube-public"
KUBECONFIG_KEY = "kubeconfig"
SIGNATURE_PREFIX = "jws-kubeconfig-"
NODE_GROUP = "system:bootstrappers:raftsman:node"
USAGES = ("authentication", "signing")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def generate() -> str:
    """Return a new token."""
    return f"{_random(6)}.{_random(16)}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def parse(token: str) -> tuple[str, str]:
    """Return a token's id and secret; raises ValueError."""
    form = TOKEN_FORM.match(token)
    if form is None:
        raise ValueError("a bootstrap token is six characters, a dot and sixteen characters of a-z and 0-9")
    return form.group(1), form.group(2)


def secret_object(
    token: str,
    *,
    expiration: datetime | None = None,
    description: str = "",
    usages: tuple[str, ...] = USAGES,
    groups: tuple[str, ...] = (NODE_GROUP,),
) -> Object:
    """Return the Secret that makes a token known; None as expiration lets it last."""
    token_id, token_secret = parse(token)
    data = {"token-id": token_id, "token-secret": token_secret, "auth-extra-groups": ",".join(groups)}
    data |= {f"usage-bootstrap-{usage}": "true" for usage in usages}
    if expiration is not None:
        data["expiration"] = expiration.strftime("%Y-%m-%dT%H:%M:%SZ")
    if description:
        data["description"] = description
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET_PREFIX + token_id, "namespace": SECRET_NAMESPACE},
        "type": SECRET_TYPE,
        "stringData": data,
    }


def decoded(secret: Object) -> dict[str, str]:
    """Return a Secret's data as text; what is no text is left out."""
    found = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except ValueError:
            continue
    return found


def expiration_of(data: Mapping[str, str]) -> datetime | None:
    """Return when a token ends, None where it lasts; raises ValueError where that cannot be read."""
    text = data.get("expiration", "")
    if not text:
        return None
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"the time {text!r} names no time zone")
    return found


def has_expired(data: Mapping[str, str], now: datetime) -> bool:
    """Tell whether a token's time is over; one that cannot be read counts as over."""
    try:
        expiration = expiration_of(data)
    except ValueError:
        return True
    return expiration is not None and expiration <= now


def signature(content: str, token_id: str, token_secret: str) -> str:
    """Return the detached JWS of a text."""
    header = _base64url(json.dumps({"alg": "HS256", "kid": token_id}, separators=(",", ":")).encode())
    signed = f"{header}.{_base64url(content.encode())}".encode()
    return f"{header}..{_base64url(hmac.new(token_secret.encode(), signed, hashlib.sha256).digest())}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def is_signed(content: str, given: str, token: str) -> bool:
    """Tell whether a text carries this token's signature."""
    return hmac.compare_digest(signature(content, *parse(token)).encode(), given.encode())


def signing_tokens(stored: list[Object], now: datetime) -> dict[str, str]:
    """Return the secrets, by id, of the tokens that may sign."""
    found = {}
    for secret in stored:
        data = decoded(secret)
        token_id, token_secret = data.get("token-id", ""), data.get("token-secret", "")
        named = secret["metadata"]["name"] == SECRET_PREFIX + token_id
        usable = data.get("usage-bootstrap-signing") == "true" and not has_expired(data, now)
        if secret.get("type") == SECRET_TYPE and named and usable and TOKEN_FORM.match(f"{token_id}.{token_secret}"):
            found[token_id] = token_secret
    return found


def signed_cluster_info(stored: Object, tokens: Mapping[str, str]) -> Object | None:
    """Return cluster-info with the signatures that it should have, None where it has them."""
    data: dict[str, str] = stored.get("data") or {}
    content = data.get(KUBECONFIG_KEY)
    if content is None:
        return None
    wanted = {key: value for key, value in data.items() if not key.startswith(SIGNATURE_PREFIX)}
    wanted |= {SIGNATURE_PREFIX + key: signature(content, key, secret) for key, secret in tokens.items()}
    return None if wanted == data else {**stored, "data": wanted}
