"""Kinds of command-line values that Kubernetes' programs share."""

from __future__ import annotations

import re

import click

_PARTS = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def parse_duration(text: str) -> float:
    """Return the seconds of Go's duration syntax ("1m30s", "500ms"); raises ValueError."""
    if text == "0":
        return 0.0
    parts = _PARTS.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f'{text!r} is no duration; write it as "1m30s" or "500ms"')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


class Duration(click.ParamType[float]):
    """A flag whose value is a duration in Go's syntax, given on as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the value; a wrong one ends the command with the flag's name."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
