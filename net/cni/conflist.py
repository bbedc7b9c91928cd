"""Put the shim and the network configuration where the container runtime looks for them."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from net.cni import results, shim

log = logging.getLogger(__name__)

PLUGIN = "raftsman-cni"
NETWORK = "raftsman"
FILE_NAME = "10-raftsman.conflist"
VERSION = "1.0.0"
"""What containerd 1.6 and 1.7 understand."""
VERSIONS = ("1.0.0", "1.1.0")
"""What a runtime that negotiates may choose from: containerd 2 takes 1.1, and with it GC and STATUS."""
INTERPRETER_PATH_MAX = 120
"""The kernel cuts the first line of a script after 127 bytes on older releases."""


def install_shim(directory: Path, socket_path: Path) -> None:
    """Write the plugin, and a loopback plugin where the machine has none: containerd calls it for each pod."""
    directory.mkdir(parents=True, exist_ok=True)
    text = Path(shim.__file__).read_text()
    placed = text.replace(f'SOCKET = "{shim.SOCKET}"', f"SOCKET = {str(socket_path)!r}", 1)
    program = f"#!{_interpreter()} -IS\n{placed}"
    _place(directory / PLUGIN, program, 0o755)
    loopback = directory / "loopback"
    if not loopback.exists() or _is_ours(loopback):
        _place(loopback, program, 0o755)


def _interpreter() -> str:
    """Return the interpreter itself: a virtual environment's link to it starts slower."""
    path = os.path.realpath(sys.executable)
    return path if len(path) <= INTERPRETER_PATH_MAX else "/usr/bin/python3"


def _is_ours(path: Path) -> bool:
    return b"Hand a CNI call to the node's daemon" in path.read_bytes()[:400]


def write_configuration(directory: Path) -> bool:
    """Write the network configuration, which makes the runtime's network ready; tell whether it changed."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps(results.configuration_list(VERSION, VERSIONS, PLUGIN, NETWORK), indent=2) + "\n"
    return _place(directory / FILE_NAME, wanted, 0o644)


def _place(path: Path, text: str, mode: int) -> bool:
    """Put a file in place at once; one that holds the same stays untouched."""
    if path.exists() and not path.is_symlink() and path.read_text(errors="replace") == text:
        return False
    # A name that no runtime takes for a configuration: it starts with a dot and ends in none it knows.
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)
    log.info("file is in place path=%s", path)
    return True
