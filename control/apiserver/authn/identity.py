"""The names that authentication gives, and what a credential's check can end in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from control.apiserver.request import UserInfo

AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


class InvalidCredentialError(Exception):
    """A credential was given and is wrong; the reason is for the log, the caller only hears 401."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who somebody is, and for which audiences the credential was made (empty: for the API server alone)."""

    user: UserInfo
    audiences: tuple[str, ...] = ()


def with_authenticated_group(user: UserInfo) -> UserInfo:
    """Add system:authenticated, once."""
    if AUTHENTICATED in user.groups or UNAUTHENTICATED in user.groups:
        return user
    return replace(user, groups=(*user.groups, AUTHENTICATED))


def as_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return headers' values, which come as bytes told in Latin-1, as the names in UTF-8 that they are."""
    return tuple(value if value.isascii() else _as_name(value) for value in values)


def _as_name(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def header_values(headers: Mapping[str, tuple[str, ...]], names: tuple[str, ...]) -> tuple[str, ...]:
    """The values of the first of these headers that is there; names are compared in lower case."""
    for name in names:
        if values := headers.get(name.lower()):
            return values
    return ()
