"""The shim as a program of its own, against a daemon of three lines; and where it is installed."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from net.cni import conflist, results, spec


class Answering:
    """A socket that answers every call with the same bytes and keeps what it was sent."""

    def __init__(self, path: Path) -> None:
        self.answer = b"0{}"
        self.received: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                data = b""
                while piece := connection.recv(65536):
                    data += piece
                if data == b"end":
                    return
                self.received.append(data)
                connection.sendall(self.answer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._socket.getsockname())
            last.sendall(b"end")
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    conflist.install_shim(tmp_path / "bin", tmp_path / "cni.sock")
    return tmp_path


@pytest.fixture
def daemon(folder: Path) -> Iterator[Answering]:
    answering = Answering(folder / "cni.sock")
    yield answering
    answering.close()


def run_shim(folder: Path, configuration: bytes = b"{}") -> tuple[int, bytes]:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/ns",
        "CNI_IFNAME": "eth0",
        "HOME": "/",
    }
    program = folder / "bin" / conflist.PLUGIN
    done = subprocess.run([program], input=configuration, env=environment, capture_output=True, timeout=30, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout


def test_a_call_goes_through_and_back(folder: Path, daemon: Answering) -> None:
    daemon.answer = b'0{"ips":[]}'
    assert run_shim(folder, b'{"cniVersion":"1.0.0","name":"n","type":"raftsman-cni"}') == (0, b'{"ips":[]}')
    request = spec.parse_request(daemon.received[0])
    assert (request.command, request.container_id, request.namespace_path) == ("ADD", "abc", "/ns")
    assert b"HOME" not in daemon.received[0]


def test_an_error_is_an_exit_code(folder: Path, daemon: Answering) -> None:
    daemon.answer = b'1{"code":11}'
    assert run_shim(folder) == (1, b'{"code":11}')


def test_large_configurations_and_answers(folder: Path, daemon: Answering) -> None:
    daemon.answer = b"0" + b"x" * 300_000
    code, told = run_shim(folder, b'"' + b"y" * 300_000 + b'"')
    assert (code, len(told)) == (0, 300_000)
    assert daemon.received[0].endswith(b"y" * 300_000 + b'"')


@pytest.mark.parametrize("state", ["no socket", "no answer"])
def test_without_a_daemon_the_runtime_is_told_to_try_again(folder: Path, state: str) -> None:
    answering = Answering(folder / "cni.sock") if state == "no answer" else None
    if answering:
        answering.answer = b""
    code, told = run_shim(folder)
    error = json.loads(told)
    assert (code, error["code"]) == (1, spec.TRY_AGAIN_LATER)
    assert str(folder / "cni.sock") in error["details"]
    if answering:
        answering.close()


def test_the_machines_own_loopback_plugin_stays(tmp_path: Path) -> None:
    (tmp_path / "loopback").write_bytes(b"\x7fELF")
    conflist.install_shim(tmp_path, tmp_path / "cni.sock")
    assert (tmp_path / "loopback").read_bytes() == b"\x7fELF"
    assert (tmp_path / conflist.PLUGIN).stat().st_mode & 0o777 == 0o755


def test_installing_again_follows_the_socket_and_touches_nothing_else(tmp_path: Path) -> None:
    conflist.install_shim(tmp_path, tmp_path / "one.sock")
    before = (tmp_path / conflist.PLUGIN).stat().st_mtime_ns
    conflist.install_shim(tmp_path, tmp_path / "one.sock")
    assert (tmp_path / conflist.PLUGIN).stat().st_mtime_ns == before
    conflist.install_shim(tmp_path, tmp_path / "two.sock")
    for name in (conflist.PLUGIN, "loopback"):
        assert "two.sock" in (tmp_path / name).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loopback", conflist.PLUGIN]


def test_the_configuration_is_written_once(tmp_path: Path) -> None:
    assert conflist.write_configuration(tmp_path)
    assert not conflist.write_configuration(tmp_path)
    written = json.loads((tmp_path / conflist.FILE_NAME).read_text())
    assert written == results.configuration_list("1.0.0", ("1.0.0", "1.1.0"), "raftsman-cni", "raftsman")
