"""Bootstrap tokens: short-lived secrets of kube-system with which a machine asks for its first certificate."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from datetime import datetime

from control.api import bootstraptokens
from control.api.bootstraptokens import SECRET_TYPE, TOKEN_FORM
from control.api.meta import Object
from control.apiserver.authn.identity import InvalidCredentialError
from control.apiserver.request import UserInfo

DEFAULT_GROUP = "system:bootstrappers"
_GROUP_FORM = re.compile(r"^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$")

SecretGetter = Callable[[str, str], Object | None]
"""(namespace, name) → the Secret, or None."""


def authenticate(token: str, now: datetime, get_secret: SecretGetter) -> UserInfo | None:
    """Name the token's user; None when this is not a bootstrap token or the cluster does not know it."""
    form = TOKEN_FORM.match(token)
    if form is None:
        return None
    token_id, token_secret = form.groups()
    secret = get_secret("kube-system", f"bootstrap-token-{token_id}")
    if secret is None or secret.get("metadata", {}).get("deletionTimestamp") or secret.get("type") != SECRET_TYPE:
        return None
    data = bootstraptokens.decoded(secret)
    if not hmac.compare_digest(data.get("token-secret", "").encode(), token_secret.encode()):
        return None
    if data.get("token-id") != token_id or bootstraptokens.has_expired(data, now):
        return None
    if data.get("usage-bootstrap-authentication") != "true":
        return None
    groups = (DEFAULT_GROUP, *_extra_groups(data.get("auth-extra-groups", "")))
    return UserInfo(name=f"system:bootstrap:{token_id}", groups=groups)


def _extra_groups(text: str) -> list[str]:
    groups = sorted(set(text.split(","))) if text else []
    for group in groups:
        if not _GROUP_FORM.match(group):
            raise InvalidCredentialError(f"bootstrap token has an invalid group {group!r}")
    return groups
