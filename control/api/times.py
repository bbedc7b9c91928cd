"""Kubernetes' timestamps and the short durations that tables show."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_LAYOUT = "2006-01-02T15:04:05Z07:00"
_FORM = re.compile(r"^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?([Zz]|[+-]\d\d:\d\d)$")
_PARTS = (
    (re.compile(r"\d{4}"), "2006"),
    (re.compile(r"-"), "-"),
    (re.compile(r"\d\d"), "01"),
    (re.compile(r"-"), "-"),
    (re.compile(r"\d\d"), "02"),
    (re.compile(r"T"), "T"),
    (re.compile(r"\d\d"), "15"),
    (re.compile(r":"), ":"),
    (re.compile(r"\d\d"), "04"),
    (re.compile(r":"), ":"),
    (re.compile(r"\d\d"), "05"),
    (re.compile(r"(\.\d+)?(Z|[+-]\d\d:\d\d)"), "Z07:00"),
)


class TimeError(ValueError):
    """The text is not an RFC 3339 time; the message is that of Go's parser."""


def parse_time(text: str) -> datetime:
    """Return the instant that a timestamp names; raises TimeError."""
    found = _FORM.match(text)
    if found is None:
        raise TimeError(_fault(text))
    year, month, day, hour, minute, second = (int(found[index]) for index in range(1, 7))
    micro = int(((found[7] or "") + "000000")[:6])
    zone: timezone = UTC
    if found[8] not in ("Z", "z"):
        sign = -1 if found[8][0] == "-" else 1
        zone = timezone(sign * timedelta(hours=int(found[8][1:3]), minutes=int(found[8][4:6])))
    try:
        return datetime(year, month, day, hour, minute, second, micro, zone)
    except ValueError as error:
        word = str(error).split(" ", maxsplit=1)[0]
        raise TimeError(f'parsing time "{text}": {word} out of range') from None


def _fault(text: str) -> str:
    rest = text
    for form, name in _PARTS:
        found = form.match(rest)
        if found is None:
            return f'parsing time "{text}" as "{_LAYOUT}": cannot parse "{rest}" as "{name}"'
        rest = rest[found.end() :]
    return f'parsing time "{text}": extra text: "{rest}"'


def format_time(instant: datetime, *, micro: bool = False) -> str:
    """Return the timestamp as Kubernetes writes it: UTC, whole seconds or microseconds."""
    text = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{instant.microsecond:06d}Z" if micro else text + "Z"


def canonical_time(text: str, *, micro: bool = False) -> str:
    """Return a timestamp in the form in which Kubernetes gives it back."""
    return format_time(parse_time(text), micro=micro)


def human_duration(seconds: float) -> str:
    """Return a duration as the AGE column shows it: 12s, 5m30s, 3h, 2d4h, 1y30d."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 60 * 2:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 60 * 3:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if hours < 24 * 365 * 8 else f"{years}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def age(timestamp: str | None, now: datetime) -> str:
    """Return how long ago a timestamp was, ``<unknown>`` for none."""
    if not timestamp:
        return "<unknown>"
    return human_duration((now - parse_time(timestamp)).total_seconds())
