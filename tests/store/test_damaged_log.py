"""A member's log is damaged while it is down: a torn tail is cut, a damaged middle is refused with its place."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc

ROOT = Path(__file__).parent.parent.parent
WRITES = 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Member:
    """One member of a cluster of one, as a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client, self.peer = free_port(), free_port()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        client, peer = f"http://127.0.0.1:{self.client}", f"http://127.0.0.1:{self.peer}"
        command = [
            sys.executable, "-m", "store", "--name", "one", "--data-dir", str(self.directory),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self.process

    def end(self, number: signal.Signals) -> str:
        """End the process and return what it wrote."""
        assert self.process is not None
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        self.process = None
        return output

    def log_file(self) -> Path:
        """Return the newest segment of the write-ahead log."""
        segments = [path for path in self.directory.rglob("*") if path.is_file() and "wal" in str(path).lower()]
        return max(segments, key=lambda path: path.stat().st_mtime)


def write(member: Member) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{member.client}") as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        for number in range(WRITES):
            stub.Put(
                pb.PutRequest(key=b"k%02d" % number, value=b"value-%02d" % number), timeout=20, wait_for_ready=True
            )


def keys(member: Member) -> int:
    deadline = time.monotonic() + 30
    with grpc.insecure_channel(f"127.0.0.1:{member.client}") as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        while True:
            try:
                request = pb.RangeRequest(key=b"k", range_end=b"l", count_only=True)
                return int(stub.Range(request, timeout=10, wait_for_ready=True).count)
            except grpc.RpcError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.fixture
def member(tmp_path: Path) -> Member:
    member = Member(tmp_path / "data")
    member.start()
    try:
        write(member)
    finally:
        member.end(signal.SIGKILL)
    return member


def test_torn_tail_is_cut(member: Member) -> None:
    path = member.log_file()
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data + b"\x37\x00\x00\x00\x11\x22")  # the beginning of a record that never was synced
    member.start()
    try:
        assert keys(member) == WRITES
    finally:
        member.end(signal.SIGTERM)


def test_damaged_middle_is_refused_with_its_place(member: Member) -> None:
    path = member.log_file()
    data = bytearray(path.read_bytes())
    place = data.index(b"value-05")
    data[place] ^= 0xFF
    path.write_bytes(data)
    process = member.start()
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert str(path) in output or path.name in output, output
    told = [int(number) for number in re.findall(r"at byte (\d+)", output)]
    assert told, output
    assert told[0] <= place < told[0] + 4096, output
    assert "Traceback" not in output
