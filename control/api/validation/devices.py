"""Forms that claims to devices and lists of devices share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_driver_name

EFFECTS = ("NoExecute", "NoSchedule", "None")
_POOL_LETTERS_MAX, _IDENTIFIER_LETTERS_MAX, _CONDITIONS_MAX = 253, 32, 4
_UID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CheckEntry = Callable[[dict[str, Any], str, Faults], None]


def check_list(entries: list[dict[str, Any]] | None, most: int, check: CheckEntry, path: str, faults: Faults) -> None:
    """Check a list that is not too long, entry by entry."""
    if len(entries or ()) > most:
        faults.too_many(path, len(entries or ()), most)
        return
    for index, entry in enumerate(entries or ()):
        check(entry, f"{path}[{index}]", faults)


def check_set(
    entries: list[dict[str, Any]] | None, most: int, check: CheckEntry, key: str, path: str, faults: Faults
) -> None:
    """Check a list in which no key stands twice."""
    check_list(entries, most, check, path, faults)
    if len(entries or ()) > most:
        return
    seen: set[Any] = set()
    for index, entry in enumerate(entries or ()):
        value = entry.get(key) or ""
        if value in seen:
            faults.duplicate(f"{path}[{index}]", value)
        seen.add(value)


def check_qualified(name: str, path: str, faults: Faults, *, fully: bool = False) -> None:
    """Check the name of an attribute or of a capacity: an identifier, with its domain before a slash."""
    domain, *rest = name.split("/")
    if not rest:
        _check_identifier(name, path, faults)
    elif len(rest) == 1:  # with more slashes it passes: so it does in Kubernetes
        if domain:
            check_driver_name(domain, path, faults)
        else:
            faults.invalid(path, "", "the domain must not be empty")
        if rest[0]:
            _check_identifier(rest[0], path, faults)
        else:
            faults.invalid(path, "", "the name must not be empty")
    if fully and not rest:
        faults.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash")


def _check_identifier(name: str, path: str, faults: Faults) -> None:
    if len(name) > _IDENTIFIER_LETTERS_MAX:
        faults.too_long(path, _IDENTIFIER_LETTERS_MAX)
    faults.invalid_all(path, name, names.c_identifier(name))


def key_path(path: str, key: str, letters_max: int) -> str:
    """Return the path of a map's entry, where a long key is shortened in its middle."""
    if len(key) > letters_max:
        kept = letters_max - len("...")
        key = key[: (kept + 1) // 2] + "..." + key[len(key) - kept // 2 :]
    return f"{path}[{key}]"


def check_pool_name(name: str, path: str, faults: Faults) -> None:
    """Check the name of a pool of devices: subdomains between slashes."""
    if not name:
        faults.required(path)
        return
    if len(name) > _POOL_LETTERS_MAX:
        faults.too_long(path, _POOL_LETTERS_MAX)
    for part in name.split("/"):
        faults.invalid_all(path, part, names.dns_subdomain(part))


def check_toleration(toleration: dict[str, Any], path: str, faults: Faults) -> None:
    """Check which taint of a device is tolerated."""
    key, operator, effect, value = (toleration.get(field) or "" for field in ("key", "operator", "effect", "value"))
    if key:
        faults.invalid_all(f"{path}.key", key, names.qualified_name(key))
    if operator == "Exists":
        if value:
            faults.invalid(f"{path}.value", value, "must be empty for operator `Exists`")
    elif operator == "Equal":
        faults.invalid_all(f"{path}.value", value, names.label_value(value))
    else:
        faults.one_of(f"{path}.operator", operator, ["Equal", "Exists"])
    faults.one_of(f"{path}.effect", effect, EFFECTS, required=False)


def check_taint(taint: dict[str, Any], path: str, faults: Faults) -> None:
    """Check a taint of a device."""
    key, value, effect = (taint.get(field) or "" for field in ("key", "value", "effect"))
    faults.invalid_all(f"{path}.key", key, names.qualified_name(key))
    if value:
        faults.invalid_all(f"{path}.value", value, names.label_value(value))
    faults.one_of(f"{path}.effect", effect, EFFECTS)


def check_binding_conditions(entry: dict[str, Any], path: str, faults: Faults) -> None:
    """Check under which conditions a device is bound, and under which it failed: both kinds or none."""
    ready, failed = (entry.get(field) or [] for field in ("bindingConditions", "bindingFailureConditions"))
    for field, conditions in (("bindingConditions", ready), ("bindingFailureConditions", failed)):
        here = f"{path}.{field}"
        if len(conditions) > _CONDITIONS_MAX:
            faults.too_many(here, len(conditions), _CONDITIONS_MAX)
            continue
        for index, name in enumerate(conditions):
            faults.invalid_all(f"{here}[{index}]", name, names.qualified_name(name))
    for index, name in enumerate(ready):
        if name in ready[:index]:
            faults.duplicate(f"{path}.bindingConditions[{index}]", name)
    for index, name in enumerate(failed):
        here = f"{path}.bindingFailureConditions[{index}]"
        if name in failed[:index]:
            faults.duplicate(here, name)
        if name in ready:
            faults.invalid(here, name, "bindingFailureConditions must not overlap with bindingConditions")
    if failed and not ready:
        text = "bindingConditions are required to use bindingFailureConditions"
        faults.invalid(f"{path}.bindingConditions", ready, text)
    if ready and not failed:
        text = "bindingFailureConditions are required to use bindingConditions"
        faults.invalid(f"{path}.bindingFailureConditions", failed, text)


def check_share(identity: str, path: str, faults: Faults) -> None:
    """Check the identity of a share of a device."""
    if _UID.fullmatch(identity) is not None:
        return
    if _UID.fullmatch(identity.lower()) is not None:
        text = (
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase "
            "hexadecimal characters"
        )
    else:
        text = f"error validating uid: invalid UUID length: {len(identity)}"
        if len(identity) in (32, 36, 38, 45):
            text = "error validating uid: invalid UUID format"
    faults.invalid(path, identity, text)
