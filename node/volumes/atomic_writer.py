"""Writes a set of files so that readers see all of the old ones or all of the new ones.

The files stand in a timestamped folder; ``..data`` is a symbolic link to it, replaced by one rename; what users see
are links through ``..data``::

    key    -> ..data/key
    ..data -> ..2026_11_21_02_41_07.318204551
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from node.volumes.context import VolumeError, VolumeFile

DATA = "..data"
DATA_NEW = "..data_tmp"


def write(directory: Path, files: Mapping[str, VolumeFile], group: int | None) -> bool:
    """Make the folder show exactly these files; say whether anything changed."""
    for name in files:
        _check(name)
    directory.mkdir(parents=True, exist_ok=True)
    before = _current(directory)
    if before is not None and _same(directory / DATA, files):
        _link(directory, files)
        return False
    folder = _fresh_folder(directory)
    for name, file in files.items():
        _write_file(folder / name, file, folder, group)
    os.symlink(folder.name, directory / DATA_NEW)
    os.replace(directory / DATA_NEW, directory / DATA)
    _link(directory, files)
    if before is not None:
        shutil.rmtree(directory / before, ignore_errors=True)
    return True


def _check(name: str) -> None:
    parts = Path(name).parts
    if not name or Path(name).is_absolute() or ".." in parts or name.startswith(".."):
        raise VolumeError(f"invalid path {name!r}: must be relative, without '..'")


def _current(directory: Path) -> str | None:
    try:
        return os.readlink(directory / DATA)
    except FileNotFoundError:
        return None


def _same(folder: Path, files: Mapping[str, VolumeFile]) -> bool:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    if found.keys() != files.keys():
        return False
    return all(path.read_bytes() == files[name].data for name, path in found.items())


def _fresh_folder(directory: Path) -> Path:
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    folder = directory / f"{stamp}{time.time_ns() % 1_000_000_000:09d}"
    folder.mkdir(mode=0o755)
    return folder


def _write_file(path: Path, file: VolumeFile, folder: Path, group: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_bytes(file.data)
    mode = file.mode
    if group is not None:
        os.chown(path, -1, group)
        mode |= (mode & 0o400) >> 3  # the group may read what the owner may
        for parent in path.parents:
            os.chown(parent, -1, group)
            if parent == folder:
                break
    path.chmod(mode)


def _link(directory: Path, files: Mapping[str, VolumeFile]) -> None:
    wanted = {Path(name).parts[0] for name in files}
    for entry in list(directory.iterdir()):
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
