"""Keep the allocator's state in one durable, versioned file: rename into place, all synced."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MAGIC = "raftsman-ipam"
VERSION = 2
"""1 had one range and one address a claim."""


class StateFileError(Exception):
    """The state file cannot be used; the text says which file and why."""


def load(path: Path) -> dict[str, Any] | None:
    """Read the state; None where no file is, StateFileError where it cannot be trusted."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    head, _, payload = text.partition(b"\n")
    fields = head.decode("utf-8", "replace").split()
    if len(fields) != 3 or fields[0] != MAGIC or not fields[1].isdigit():
        raise StateFileError(f"{path} is not an address state file")
    if int(fields[1]) > VERSION:
        raise StateFileError(f"{path} has version {fields[1]}; this program reads versions up to {VERSION}")
    if hashlib.sha256(payload).hexdigest() != fields[2]:
        raise StateFileError(f"{path} is damaged: its checksum does not match")
    state: dict[str, Any] = json.loads(payload)
    return state if int(fields[1]) == VERSION else _from_first_version(state)


def _from_first_version(state: dict[str, Any]) -> dict[str, Any]:
    ranges = [{"cidr": state["cidr"], "cursor": state["cursor"]}] if state["cidr"] else []
    claims = [{**entry, "addresses": [entry["address"]]} for entry in state["claims"]]
    return {"ranges": ranges, "resting": state["resting"], "claims": claims}


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the file so that a crash leaves either the old state or the new one, whole."""
    payload = json.dumps(state, separators=(",", ":")).encode()
    head = f"{MAGIC} {VERSION} {hashlib.sha256(payload).hexdigest()}\n".encode()
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(head + payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
