"""A saved snapshot becomes a new cluster's data directories, or is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from store.command import command
from store.config import StoreConfig
from store.machine import Machine
from store.member import consensus_config
from store.raft.driver import RaftConsensus
from store.raft.wal import ForeignWalError
from store.restore import RestoreError, restore, status

SAVED = Path(__file__).parent / "fixtures" / "version-1.saved"
"""A file of ``etcdctl snapshot save`` in the first version of the format; it must open for ever."""
REVISION, COMPACTED, HASH = 25, 10, 2006181224
THREE = "a=http://127.0.0.1:12380,b=http://127.0.0.1:12381,c=http://127.0.0.1:12382"


def configuration(directory: Path, name: str = "a", **changes: str) -> StoreConfig:
    config = StoreConfig(name=name, data_dir=directory / f"{name}.data", initial_cluster=THREE)
    return replace(config, **changes)  # type: ignore[arg-type]


def test_a_file_of_the_first_version_opens() -> None:
    found = status(SAVED)
    assert (found.revision, found.hash, found.total_keys, found.total_size_bytes) == (REVISION, HASH, 25, 1056)


async def test_the_state_comes_back_and_the_old_cluster_does_not(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    restore(SAVED, config)
    machine = Machine()
    consensus = RaftConsensus(consensus_config(config), machine)
    await consensus.stop()
    store = machine.store
    assert (store.current_revision, store.compact_revision, store.hash(REVISION)) == (REVISION, COMPACTED, HASH)
    assert store.get(b"key/01") is None
    assert b"changed" in (store.get(b"key/00") or b"")
    assert {lease.lease_id: (lease.ttl_s, lease.keys) for lease in machine.lessor.leases()} == {
        7: (3600, {b"leased"}),
        8: (60, set()),
    }
    assert machine.auth.users() == ["ann"]
    assert not machine.alarms
    assert {path.name for path in tmp_path.iterdir()} == {"a.data"}


def test_members_restored_for_another_cluster_do_not_start_here(tmp_path: Path) -> None:
    config = configuration(tmp_path, initial_cluster_token="restored")
    restore(SAVED, config)
    with pytest.raises(ForeignWalError, match="--initial-cluster-token"):
        RaftConsensus(consensus_config(replace(config, initial_cluster_token="etcd-cluster")), Machine())


def cut(data: bytes) -> bytes:
    return data[:-512]


def cut_mid_sector(data: bytes) -> bytes:
    return data[:-100]


def altered(data: bytes) -> bytes:
    return data[:300] + bytes((data[300] ^ 1,)) + data[301:]


def altered_digest(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def unsealed(data: bytes) -> bytes:
    return data[:-32]


def of_etcd(data: bytes) -> bytes:
    return bytes(16) + bytes.fromhex("edda0ced") + bytes(492) + hashlib.sha256().digest()


def newer(data: bytes) -> bytes:
    state = data[:8] + b"\0\2" + data[10:-32]
    return state + hashlib.sha256(state).digest()


DAMAGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (cut, "was altered or damaged: expected sha256"),
    (cut_mid_sector, "lacks its SHA-256"),
    (altered, "was altered or damaged: expected sha256"),
    (altered_digest, "was altered or damaged: expected sha256"),
    (unsealed, "lacks its SHA-256"),
    (of_etcd, "make-mirror"),
    (newer, "snapshot version 2 is not known here, only 1"),
    (lambda data: b"", "is no snapshot of the store"),
    (lambda data: b"PK\3\4" + data, "is no snapshot of the store"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_not_whole_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], complaint: str) -> None:
    file = tmp_path / "saved"
    file.write_bytes(damage(SAVED.read_bytes()))
    with pytest.raises(RestoreError, match=complaint):
        restore(file, configuration(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"saved"}, "nothing is left behind"


@pytest.mark.parametrize(("damage", "is_taken"), [(unsealed, True), (altered_digest, True), (altered, False)])
def test_without_the_hash_the_parts_are_still_checked(
    tmp_path: Path, damage: Callable[[bytes], bytes], is_taken: bool
) -> None:
    file = tmp_path / "saved"
    file.write_bytes(damage(SAVED.read_bytes()))
    if is_taken:
        restore(file, configuration(tmp_path), skip_hash_check=True)
    else:
        with pytest.raises(RestoreError, match="damaged"):
            restore(file, configuration(tmp_path), skip_hash_check=True)


@given(place=st.integers(0, 1055), bit=st.integers(0, 7), skip_hash_check=st.booleans())
def test_no_altered_bit_is_taken(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, skip_hash_check: bool
) -> None:
    directory = tmp_path_factory.mktemp("bits")
    data = bytearray(SAVED.read_bytes())
    data[place] ^= 1 << bit
    (directory / "saved").write_bytes(data)
    if skip_hash_check and place >= len(data) - 32:
        return  # the digest alone, which was not to be looked at
    with pytest.raises(RestoreError):
        restore(directory / "saved", configuration(directory), skip_hash_check=skip_hash_check)
    assert [path.name for path in directory.iterdir()] == ["saved"]


def test_an_existing_directory_is_not_touched(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config.data_dir.mkdir()
    restore(SAVED, config)
    before = sorted(path.name for path in config.data_dir.rglob("*"))
    with pytest.raises(RestoreError, match="is not empty: give a new one"):
        restore(SAVED, config)
    assert sorted(path.name for path in config.data_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (["--name", "x", "--initial-cluster", THREE], 2, "does not name this member"),
        (["--name", "a", "--initial-cluster", THREE], 2, "--initial-cluster has http://127.0.0.1:12380 for a"),
        ([], 0, "member 8e9e05c52164694d of cluster cdf818194e3a8c32"),
    ],
    ids=["not a member", "other URLs", "etcd's well-known ids"],
)
def test_the_command(tmp_path: Path, flags: list[str], code: int, complaint: str) -> None:
    shutil.copy(SAVED, tmp_path / "saved")
    arguments = ["restore", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "data"), *flags]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == code
    assert complaint in " ".join(result.output.split())


def test_the_status_command() -> None:
    assert CliRunner().invoke(command, ["status", str(SAVED)]).output == f"{HASH:x}, 25, 25, 1056\n"
    said = CliRunner().invoke(command, ["status", str(SAVED), "-w", "json"]).output
    assert json.loads(said) == {"hash": HASH, "revision": 25, "totalKey": 25, "totalSize": 1056}
