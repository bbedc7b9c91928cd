"""What a function of Kubernetes' own is, before the CEL library knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WHAT = "~"
"""The key under which a value of a type of Kubernetes says what it is."""


@dataclass(frozen=True, slots=True)
class Function:
    """One overload of a function: its name, the types of what it takes and gives, and what it does."""

    name: str
    parameters: tuple[str, ...]
    result: str
    apply: Callable[..., Any]
    is_member: bool = True


def plain(value: Any) -> Any:
    """Return what the library hands over as plain Python values."""
    if hasattr(value, "plain_value"):
        return plain(value.plain_value())
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
