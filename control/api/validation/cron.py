"""The form of a CronJob's schedule: five fields, or a word such as @hourly."""

from __future__ import annotations

import re

from control.api.validation.faults import Faults

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_MONTHS = {
    word: n
    for n, word in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)
}
_DAYS = {word: n for n, word in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_WORDS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_ZONE = re.compile(r"^(CRON_)?TZ=\S* +")
_EVERY = re.compile(r"^@every (\d+(\.\d+)?(h|m|s|ms|us|ns))+$")


class ScheduleError(ValueError):
    """The text is no schedule; the message says why."""


def parse_range(text: str, position: int) -> tuple[int, int, int]:
    """Return (first, last, step) of one part of a field; raises ScheduleError."""
    _, least, most = _FIELDS[position]
    words = {3: _MONTHS, 4: _DAYS}.get(position, {})
    body, slash, step_text = text.partition("/")
    if slash and (not step_text.isdigit() or int(step_text) == 0):
        raise ScheduleError(f"failed to parse int from {step_text}" if step_text else f"too many slashes: {text}")
    step = int(step_text) if slash else 1
    if body in ("*", "?"):
        return least, most, step
    parts = [_number(part, words) for part in body.split("-")]
    if len(parts) > 2:
        raise ScheduleError(f"too many hyphens: {text}")
    first, last = parts[0], parts[-1]
    if len(parts) == 1 and slash:
        last = most
    if first < least:
        raise ScheduleError(f"beginning of range ({first}) below minimum ({least}): {text}")
    if last > most:
        raise ScheduleError(f"end of range ({last}) above maximum ({most}): {text}")
    if first > last:
        raise ScheduleError(f"beginning of range ({first}) beyond end of range ({last}): {text}")
    return first, last, step


def _number(text: str, words: dict[str, int]) -> int:
    if text.lower() in words:
        return words[text.lower()]
    if not (text.isascii() and text.isdigit()):
        raise ScheduleError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def parse_schedule(text: str) -> tuple[tuple[tuple[int, int, int], ...], ...] | None:
    """Return the ranges of the five fields, None for a schedule in words; raises ScheduleError."""
    if text.startswith("@"):
        if text in _WORDS or _EVERY.match(text):
            return None
        raise ScheduleError(f"unrecognized descriptor: {text}")
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ScheduleError(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    return tuple(
        tuple(parse_range(part, position) for part in field.split(",")) for position, field in enumerate(fields)
    )


def check_schedule(text: str, path: str, faults: Faults) -> None:
    """Check the schedule of a CronJob."""
    try:
        parse_schedule(_ZONE.sub("", text))
    except ScheduleError as error:
        faults.invalid(path, text, str(error))
