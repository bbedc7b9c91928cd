"""The part of JSONPath that definitions use: fields, quoted fields, indexes, wildcards and simple filters.

Examples: ``.spec.replicas``, ``.metadata.annotations['a.b/c']``, ``.status.conditions[?(@.type=="Ready")].status``,
``.a[0].b[*]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]
REMEMBERED = 1024
_TOKEN = re.compile(
    r"""\.(?P<field>(?:\\.|[^.\[\]\\])+)          # .name, a dot in it escaped by a backslash
      | \[\s*'(?P<quoted>[^']*)'\s*\]             # ['name']
      | \[\s*"(?P<double>[^"]*)"\s*\]
      | \[\s*(?P<index>-?\d+)\s*\]
      | (?P<all>\[\*\]|\.\*)
      | \[\?\(\s*@(?P<inner>[^=!<>]+?)\s*(?P<operator>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|true|false|-?\d+)\s*\)\]
    """,
    re.VERBOSE,
)


class JSONPathError(ValueError):
    """A text is no JSONPath that is understood; the text says where it ends to be one."""


@dataclass(frozen=True, slots=True)
class JSONPath:
    """A path, ready to be followed."""

    text: str
    steps: tuple[Step, ...]
    fields: tuple[str, ...] | None
    """The names along the path where it has nothing else."""

    def find(self, value: Any) -> list[Any]:
        """Return everything that the path leads to."""
        found = [value]
        for step in self.steps:
            found = [item for one in found for item in step(one)]
        return found

    def first(self, value: Any) -> Any:
        """Return the first thing that the path leads to, None where there is none."""
        return next(iter(self.find(value)), None)


@lru_cache(maxsize=REMEMBERED)
def parse(text: str) -> JSONPath:
    """Read a path; raises JSONPathError."""
    steps: list[Step] = []
    fields: list[str] | None = []
    position = 0
    rest = text.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if rest and rest[0] not in ".[":
        raise JSONPathError(f"{text}: must begin with a dot")
    while position < len(rest):
        token = _TOKEN.match(rest, position)
        if token is None:
            raise JSONPathError(f"{text}: not understood from {rest[position:]!r} on")
        name, step = _read(token)
        steps.append(step)
        fields = [*fields, name] if fields is not None and name is not None else None
        position = token.end()
    return JSONPath(text, tuple(steps), tuple(fields) if fields is not None else None)


def _read(token: re.Match[str]) -> tuple[str | None, Step]:
    parts = token.groupdict()
    for kind in ("field", "quoted", "double"):
        if parts[kind] is not None:
            name = re.sub(r"\\(.)", r"\1", parts[kind]) if kind == "field" else parts[kind]
            return name, _field_step(name)
    if parts["index"] is not None:
        return None, _index_step(int(parts["index"]))
    if parts["all"] is not None:
        return None, lambda value: value.values() if isinstance(value, dict) else value if _is_list(value) else ()
    wanted = _literal(parts["value"])
    return None, _filter_step(parse(parts["inner"]), wanted, equal=parts["operator"] == "==")


def _literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if text[0] in "\"'" else int(text)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _field_step(name: str) -> Step:
    return lambda value: (value[name],) if isinstance(value, dict) and name in value else ()


def _index_step(index: int) -> Step:
    return lambda value: value[index : index + 1 or None] if isinstance(value, list) else ()


def _filter_step(inner: JSONPath, wanted: Any, *, equal: bool) -> Step:
    def step(value: Any) -> Iterable[Any]:
        return [item for item in value if (inner.first(item) == wanted) is equal] if isinstance(value, list) else ()

    return step
