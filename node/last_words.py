"""Reads what a container left when it ended: its termination message, or the end of its log."""

from __future__ import annotations

from pathlib import Path

MESSAGE_MAX_BYTES = 4096
LOG_TAIL_MAX_BYTES = 2048
LOG_TAIL_MAX_LINES = 80


def read(message_file: Path, log_file: Path, *, fall_back_to_logs: bool) -> str:
    """Return the termination message; empty where there is none."""
    text = _head(message_file, MESSAGE_MAX_BYTES)
    if text or not fall_back_to_logs:
        return text
    return _log_tail(log_file)


def _head(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(size).decode(errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        return ""


def _log_tail(path: Path) -> str:
    """Return the last lines of a log without the runtime's prefixes."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8 * LOG_TAIL_MAX_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    plain = [line.split(" ", 3)[3] for line in lines[-LOG_TAIL_MAX_LINES:] if line.count(" ") >= 3]
    return "\n".join(plain)[-LOG_TAIL_MAX_BYTES:]
