"""Flags as etcd's users write them: Go's durations and truth values, URLs by comma, names from the environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

AnyT = TypeVar("AnyT", bound=Callable[..., Any])


class Urls(click.ParamType["tuple[str, ...]"]):
    """A comma-separated list of URLs, or of other words."""

    name = "url,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


class Duration(click.ParamType["float"]):
    """A length of time as Go writes it: 5s, 100ms, 1h30m; a bare number has the unit that etcd gives the flag."""

    name = "duration"

    def __init__(self, bare_unit_s: float) -> None:
        self._bare_unit_s = bare_unit_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Add the parts up."""
        text = str(value).strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) * self._bare_unit_s
        parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is no duration such as 5s, 10m or 1h30m", param, ctx)
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class GoGroup(click.Group):
    """A command that takes its flags in Go's ways: one dash or two, and truth values bare or as =true and =false."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite Go's ways into click's."""
        return super().parse_args(ctx, _in_clicks_way(self.params, args))


class GoCommand(click.Command):
    """The same for a command without commands of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite Go's ways into click's."""
        return super().parse_args(ctx, _in_clicks_way(self.params, args))


def _in_clicks_way(params: Sequence[click.Parameter], args: Sequence[str]) -> list[str]:
    known = {name for param in params if isinstance(param, click.Option) for name in param.opts}
    switches = {
        name for param in params if isinstance(param, click.Option) and param.type is click.BOOL for name in param.opts
    }
    rewritten: list[str] = []
    for place, arg in enumerate(args):
        if arg == "--":
            return [*rewritten, *args[place:]]
        if arg.startswith("-") and not arg.startswith("--") and f"-{arg.partition('=')[0]}" in known:
            arg = f"-{arg}"
        rewritten.append(f"{arg}=true" if arg in switches else arg)
    return rewritten


def switch(*names: str, default: bool = False, help: str = "") -> Callable[[AnyT], AnyT]:  # noqa: A002 - click's name
    """An option that is true or false, in each of Go's spellings."""
    return click.option(*names, type=click.BOOL, default=default, help=help, metavar="")


_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
URLS = Urls()
FILE = click.Path(dir_okay=False, path_type=Path)
