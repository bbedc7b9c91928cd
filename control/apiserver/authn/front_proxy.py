"""The front proxy: whoever holds its certificate says in headers for whom it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from control.apiserver.authn.identity import as_names, header_values
from control.apiserver.request import UserInfo


@dataclass(frozen=True, slots=True)
class FrontProxyHeaders:
    """Which headers carry what; upstream's --requestheader-* flags."""

    username: tuple[str, ...] = ("X-Remote-User",)
    uid: tuple[str, ...] = ("X-Remote-Uid",)
    group: tuple[str, ...] = ("X-Remote-Group",)
    extra_prefixes: tuple[str, ...] = ("X-Remote-Extra-",)
    allowed_names: tuple[str, ...] = ()
    """Common names that may act as the proxy; empty for every certificate of its authority."""


def user_from_headers(names: FrontProxyHeaders, headers: Mapping[str, tuple[str, ...]]) -> UserInfo | None:
    """Read the user that the proxy vouches for, None when it names nobody."""
    users = [value for value in as_names(header_values(headers, names.username)) if value]
    if not users:
        return None
    groups = [value for name in names.group for value in as_names(headers.get(name.lower(), ()))]
    extra: dict[str, tuple[str, ...]] = {}
    for header, values in headers.items():
        for prefix in names.extra_prefixes:
            if header.startswith(prefix.lower()):
                key = unquote(header[len(prefix) :])
                extra[key] = extra.get(key, ()) + as_names(values)
    uids = header_values(headers, names.uid)
    return UserInfo(name=users[0], uid=uids[0] if uids else "", groups=tuple(groups), extra=extra)
