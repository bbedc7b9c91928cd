"""Impersonation: asking as somebody else, which must itself be allowed for each name that is borrowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

from control.apiserver.authn.identity import AUTHENTICATED, UNAUTHENTICATED, as_names
from control.apiserver.authz.attributes import Attributes
from control.apiserver.request import ANONYMOUS, UserInfo

_USER, _UID, _GROUP, _EXTRA = "impersonate-user", "impersonate-uid", "impersonate-group", "impersonate-extra-"
HEADERS = "impersonate-"
"""What all names of headers about impersonation begin with."""
_SERVICE_ACCOUNT = "system:serviceaccount:"


class ImpersonationError(Exception):
    """The headers make no sense together; upstream answers 500 with this text."""


@dataclass(frozen=True, slots=True)
class Impersonation:
    """Whom a request wants to be, and everything that must be allowed for that."""

    user: UserInfo
    checks: tuple[Attributes, ...]


def wanted(requestor: UserInfo, headers: Mapping[str, tuple[str, ...]]) -> Impersonation | None:
    """Read the impersonation headers; None when there are none."""
    users, uids = as_names(headers.get(_USER, ())), as_names(headers.get(_UID, ()))
    groups = as_names(headers.get(_GROUP, ()))
    extra: dict[str, tuple[str, ...]] = {}
    for header, values in headers.items():
        if header.startswith(_EXTRA):
            extra[unquote(header[len(_EXTRA) :])] = as_names(values)
    if not users or not users[0]:
        if groups or extra or uids:
            raise ImpersonationError("requested impersonation of [] without impersonating a user")
        return None
    user = UserInfo(name=users[0], uid=uids[0] if uids else "", groups=groups, extra=extra)
    return Impersonation(_with_own_groups(user), tuple(_checks(requestor, user)))


def _with_own_groups(user: UserInfo) -> UserInfo:
    """Add the groups that the borrowed name always has."""
    if user.name == ANONYMOUS.name:
        return user if UNAUTHENTICATED in user.groups else replace(user, groups=(*user.groups, UNAUTHENTICATED))
    groups = user.groups
    if not groups and user.name.startswith(_SERVICE_ACCOUNT):
        namespace = user.name.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    if not {AUTHENTICATED, UNAUTHENTICATED} & set(groups):
        groups = (*groups, AUTHENTICATED)
    return replace(user, groups=groups)


def _checks(requestor: UserInfo, user: UserInfo) -> list[Attributes]:
    base = Attributes(user=requestor, verb="impersonate", version="v1")
    if user.name.startswith(_SERVICE_ACCOUNT):
        namespace, _, name = user.name.removeprefix(_SERVICE_ACCOUNT).partition(":")
        checks = [replace(base, resource="serviceaccounts", namespace=namespace, name=name)]
    else:
        checks = [replace(base, resource="users", name=user.name)]
    checks += [replace(base, resource="groups", name=group) for group in user.groups]
    authentication = replace(base, group="authentication.k8s.io")
    checks += [
        replace(authentication, resource="userextras", subresource=key, name=value)
        for key, values in user.extra.items()
        for value in values
    ]
    if user.uid:
        checks.append(replace(authentication, resource="uids", name=user.uid))
    return checks
