"""A saved snapshot becomes the data directories of a new cluster: ``raftsman store restore`` and ``store status``.

The file is what ``etcdctl snapshot save`` received: the state machine's state, filled up to whole sectors, and its
SHA-256. Each member of the new cluster restores the same file under its own name. All begin with the same log: empty,
based on a snapshot. Keys, revisions, leases, users and roles are the old cluster's; cluster id, member ids, addresses
and alarms are not, so that members of the old cluster can never talk to those of the new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from store.config import StoreConfig
from store.machine import Machine
from store.raft.contract import MemberRecord
from store.raft.disk import Directory
from store.raft.membership import Membership, encode
from store.raft.sessions import Sessions
from store.raft.snapshots import Snapshot, Snapshots
from store.raft.wal import Wal
from store.snapshot import MAGIC, SnapshotError

_READ_BYTES = 1 << 20
_SECTOR_BYTES = 512
_DIGEST_BYTES = hashlib.sha256().digest_size
_BBOLT_MAGIC = bytes.fromhex("edda0ced")
_BBOLT_MAGIC_AT = 16
_BASE = Snapshot(index=2, term=1)
"""The new log begins after this; index 1 is that of an empty one."""


class RestoreError(Exception):
    """The file or the place is no good; the text says why."""


@dataclass(frozen=True)
class SavedStatus:
    """What a saved snapshot holds."""

    hash: int
    """The HashKV of its newest revision."""
    revision: int
    total_keys: int
    """Kept changes, as etcd counts them."""
    total_size_bytes: int


def status(file: Path) -> SavedStatus:
    """Read and check a saved snapshot."""
    machine = _load(file, skip_hash_check=False)
    store = machine.store
    return SavedStatus(store.hash(store.current_revision), store.current_revision, store.changes, file.stat().st_size)


def restore(file: Path, config: StoreConfig, *, skip_hash_check: bool = False) -> None:
    """Make one member's data directory out of a saved snapshot; nothing is left behind where that fails."""
    target = config.data_dir
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RestoreError(f"data-dir {str(target)!r} is not empty: give a new one, nothing is overwritten")
    machine = _load(file, skip_hash_check=skip_hash_check)
    machine.alarms.clear()
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        _write(partial / "member" / "raft", machine, config)
        for directory in (partial / "member", partial):
            _sync(directory)
        partial.replace(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(path: Path, machine: Machine, config: StoreConfig) -> None:
    """Write the log's beginning and the snapshot that it is based on."""
    cluster_id, member = config.cluster_id(), config.member()
    directory = Directory(path)
    try:
        records = [MemberRecord(one.member_id, one.name, one.peer_urls) for one in config.members()]
        members = encode(Membership.of(records))
        writer = Snapshots(directory, cluster_id).begin(_BASE)
        writer.write(members)
        sessions = Sessions()
        sessions.advance(time.time_ns())
        writer.write(sessions.dump())
        for chunk in machine.snapshot():
            writer.write(chunk)
        writer.finish()
        wal = Wal(directory, cluster_id, member.member_id)
        wal.open(members)
        wal.set_hard_state(_BASE.term, 0)
        wal.set_base(_BASE.index, _BASE.term)
        wal.set_commit(_BASE.index)
        wal.close()
    finally:
        directory.close()


def _load(file: Path, *, skip_hash_check: bool) -> Machine:
    """The state in a saved snapshot; raise RestoreError where it is not whole."""
    try:
        size_bytes = _check(file, skip_hash_check=skip_hash_check)
        machine = Machine()
        machine.restore(_chunks(file, size_bytes))
    except OSError as error:
        raise RestoreError(f"{file} cannot be read: {error.strerror}") from error
    except (SnapshotError, DecodeError) as error:
        raise RestoreError(f"{file} cannot be restored: {error}") from error
    return machine


def _check(file: Path, *, skip_hash_check: bool) -> int:
    """Find out whether a file is whole, and return how many bytes of it are the state."""
    size_bytes = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(_BBOLT_MAGIC_AT + len(_BBOLT_MAGIC))
    if head[_BBOLT_MAGIC_AT:] == _BBOLT_MAGIC:
        raise RestoreError(
            f"{file} is a snapshot of etcd itself (a bbolt file), which only etcd can read: restore it there with "
            "etcdctl, start that etcd, and bring its keys over with etcdctl make-mirror"
        )
    if not head.startswith(MAGIC):
        raise RestoreError(f"{file} is no snapshot of the store")
    has_digest = size_bytes % _SECTOR_BYTES == _DIGEST_BYTES
    if skip_hash_check:
        return size_bytes - has_digest * _DIGEST_BYTES
    if not has_digest:
        raise RestoreError(
            f"{file} lacks its SHA-256, so that it is cut short or no file of etcdctl snapshot save "
            "(--skip-hash-check restores it all the same where its parts check)"
        )
    digest = hashlib.sha256()
    for chunk in _chunks(file, size_bytes - _DIGEST_BYTES):
        digest.update(chunk)
    with file.open("rb") as opened:
        opened.seek(size_bytes - _DIGEST_BYTES)
        recorded = opened.read()
    if digest.digest() != recorded:
        raise RestoreError(f"{file} was altered or damaged: expected sha256 {recorded.hex()}, got {digest.hexdigest()}")
    return size_bytes - _DIGEST_BYTES


def _chunks(file: Path, size_bytes: int) -> Iterator[bytes]:
    """The first bytes of a file, piece by piece."""
    with file.open("rb") as opened:
        while size_bytes > 0:
            chunk = opened.read(min(_READ_BYTES, size_bytes))
            if not chunk:
                return
            size_bytes -= len(chunk)
            yield chunk


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
