"""The disk that loses its power loses what it should and nothing else, as a table, through a real mount."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.store.faults.powerloss import PowerLossDisk
from tests.store.faults.volatile import SECTOR_BYTES, File, Folder, Keep, VolatileDisk

Tree = dict[str, bytes]


def put(path: Path, data: bytes, *, sync: bool = False, append: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else 0), 0o600)
    try:
        os.write(descriptor, data)
        if sync:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree(path: Path) -> Tree:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def written_without_sync(path: Path) -> None:
    put(path / "old", b"+more", append=True)


def written_and_synced(path: Path) -> None:
    put(path / "old", b"+more", append=True, sync=True)


def overwritten_without_sync(path: Path) -> None:
    put(path / "old", b"XX")


def truncated_without_sync(path: Path) -> None:
    os.truncate(path / "old", 1)


def truncated_and_synced(path: Path) -> None:
    os.truncate(path / "old", 1)
    put(path / "old", b"", sync=True)


def synced_then_more(path: Path) -> None:
    put(path / "old", b"+1", append=True, sync=True)
    put(path / "old", b"+2", append=True)


def new_file_without_folder_sync(path: Path) -> None:
    put(path / "new", b"data", sync=True)


def new_file_with_folder_sync(path: Path) -> None:
    put(path / "new", b"data", sync=True)
    sync_folder(path)


def new_entry_without_data(path: Path) -> None:
    put(path / "new", b"data")
    sync_folder(path)


def renamed_without_folder_sync(path: Path) -> None:
    (path / "old").rename(path / "moved")


def renamed_with_folder_sync(path: Path) -> None:
    (path / "old").rename(path / "moved")
    sync_folder(path)


def renamed_over_without_folder_sync(path: Path) -> None:
    put(path / "temporary", b"fresh", sync=True)
    (path / "temporary").rename(path / "old")


def removed_without_folder_sync(path: Path) -> None:
    (path / "old").unlink()


def removed_with_folder_sync(path: Path) -> None:
    (path / "old").unlink()
    sync_folder(path)


def folder_whose_parent_is_not_synced(path: Path) -> None:
    (path / "inner").mkdir()
    put(path / "inner" / "file", b"data", sync=True)
    sync_folder(path / "inner")


def folder_whose_parent_is_synced(path: Path) -> None:
    folder_whose_parent_is_not_synced(path)
    sync_folder(path)


OLD = {"old": b"old"}
CASES: list[tuple[Callable[[Path], None], Tree]] = [
    (written_without_sync, OLD),
    (written_and_synced, {"old": b"old+more"}),
    (overwritten_without_sync, OLD),
    (truncated_without_sync, OLD),
    (truncated_and_synced, {"old": b"o"}),
    (synced_then_more, {"old": b"old+1"}),
    (new_file_without_folder_sync, OLD),
    (new_file_with_folder_sync, {**OLD, "new": b"data"}),
    (new_entry_without_data, {**OLD, "new": b""}),
    (renamed_without_folder_sync, OLD),
    (renamed_with_folder_sync, {"moved": b"old"}),
    (renamed_over_without_folder_sync, OLD),
    (removed_without_folder_sync, OLD),
    (removed_with_folder_sync, {}),
    (folder_whose_parent_is_not_synced, OLD),
    (folder_whose_parent_is_synced, {**OLD, "inner/file": b"data"}),
]


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[PowerLossDisk]:
    disk = PowerLossDisk(tmp_path / "mounted")
    try:
        await disk.start()
        yield disk
    finally:
        await disk.stop()


@pytest.mark.root
async def test_what_a_power_cut_leaves(disk: PowerLossDisk) -> None:
    for change, _ in CASES:
        member = disk.path / change.__name__
        member.mkdir()
        put(member / "old", b"old", sync=True)
        sync_folder(member)
    sync_folder(disk.path)
    seen = {}
    for change, _ in CASES:
        change(disk.path / change.__name__)
        seen[change.__name__] = tree(disk.path / change.__name__)
    assert seen["renamed_without_folder_sync"] == {"moved": b"old"}, "before the cut all is there"
    await disk.cut(Keep.NOTHING, 0)
    with pytest.raises(OSError, match="Input/output error"):
        (disk.path / "written_and_synced" / "old").read_bytes()
    await disk.restore()
    assert {change.__name__: tree(disk.path / change.__name__) for change, _ in CASES} == {
        change.__name__: left for change, left in CASES
    }


@pytest.mark.root
async def test_a_disk_can_lie_and_fail(disk: PowerLossDisk) -> None:
    for name in ("honest", "liar", "broken"):
        (disk.path / name).mkdir()
        put(disk.path / name / "file", b"1", sync=True)
        sync_folder(disk.path / name)
    sync_folder(disk.path)
    await disk.lie("liar")
    await disk.fail("broken")
    put(disk.path / "honest" / "file", b"2", sync=True)
    put(disk.path / "liar" / "file", b"2", sync=True)
    with pytest.raises(OSError, match="Input/output error"):
        put(disk.path / "broken" / "file", b"2", sync=True)
    await disk.cut(Keep.NOTHING, 0)
    await disk.restore()
    assert [(disk.path / name / "file").read_bytes() for name in ("honest", "liar", "broken")] == [b"2", b"1", b"1"]


def unsynced_file(length: int) -> tuple[VolatileDisk, File]:
    disk = VolatileDisk()
    file = disk.create(disk.root, "file", 0o600)
    disk.sync(disk.root)
    disk.write(file, 0, b"s" * 100)
    disk.sync(file)
    disk.write(file, 100, b"u" * length)
    return disk, file


@pytest.mark.parametrize("keep", [Keep.PREFIX, Keep.SECTORS])
def test_what_survives_by_chance_is_whole_sectors(keep: Keep) -> None:
    seen = set()
    for seed in range(60):
        disk, file = unsynced_file(5 * SECTOR_BYTES)
        disk.cut(keep, seed)
        assert file.content[:100] == b"s" * 100, "what was synced stays"
        for start in range(0, len(file.content), SECTOR_BYTES):
            sector = bytes(file.content[max(start, 100) : start + SECTOR_BYTES])
            assert len(set(sector)) <= 1, "a sector is written as a whole"
        if keep is Keep.PREFIX:
            assert 0 not in file.content
        seen.add(bytes(file.content))
    assert len(seen) > 4


def test_a_seed_leaves_the_same_in_every_run() -> None:
    left = []
    for _ in range(2):
        disk, file = unsynced_file(5 * SECTOR_BYTES)
        disk.cut(Keep.SECTORS, 7)
        left.append(bytes(file.content))
    assert left[0] == left[1]


def test_entries_survive_in_order() -> None:
    seen = set()
    for seed in range(40):
        disk = VolatileDisk()
        folder = disk.make_folder(disk.root, "folder", 0o700)
        disk.sync(disk.root)
        for name in "abc":
            disk.create(folder, name, 0o600)
        disk.cut(Keep.PREFIX, seed)
        assert isinstance(folder, Folder)
        seen.add("".join(sorted(folder.entries)))
    assert seen == {"", "a", "ab", "abc"}
