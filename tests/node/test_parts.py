"""The kubelet's small parts: files of volumes, logs, probes' counts, patches, names of callers, SPDY frames."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import last_words, node_facts
from node.config import KubeletConfig
from node.image_gc import choose
from node.images import credentials_for, registry_of
from node.probes import Threshold
from node.runtime import ImageInfo, RuntimeVersion
from node.server import spdy
from node.server.auth import identity
from node.server.container_log import LogOptions, LogReader, parse, tail_offset, wanted
from node.status_manager import patch_of
from node.volumes import atomic_writer
from node.volumes.context import VolumeError, VolumeFile


def shown(directory: Path) -> dict[str, str]:
    """What a reader of a volume sees."""
    names = [entry for entry in directory.iterdir() if not entry.name.startswith("..")]
    files = [path for entry in names for path in ([entry] if entry.is_file() else entry.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def files(**texts: str) -> dict[str, VolumeFile]:
    """Files of a volume."""
    return {name.replace("__", "/"): VolumeFile(text.encode(), 0o644) for name, text in texts.items()}


def test_a_volume_changes_as_one(tmp_path: Path) -> None:
    assert atomic_writer.write(tmp_path, files(a="1", d__b="2"), None)
    assert shown(tmp_path) == {"a": "1", "d/b": "2"}
    before = (tmp_path / "..data").readlink()
    assert not atomic_writer.write(tmp_path, files(a="1", d__b="2"), None)
    assert (tmp_path / "..data").readlink() == before
    assert atomic_writer.write(tmp_path, files(a="3", c="4"), None)
    assert shown(tmp_path) == {"a": "3", "c": "4"}
    assert (tmp_path / "a").readlink() == Path("..data/a")
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir() and not entry.is_symlink()]) == 1


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..x", ""])
def test_a_volume_refuses_paths_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(VolumeError):
        atomic_writer.write(tmp_path, {name: VolumeFile(b"", 0o644)}, None)


def test_a_log_line_is_read() -> None:
    line = parse(b"2026-01-01T00:00:00.123456789Z stdout F hello world")
    assert line is not None
    assert line.render(timestamps=False, continued=False) == b"hello world\n"
    assert line.render(timestamps=True, continued=False) == b"2026-01-01T00:00:00.123456789Z hello world\n"
    assert parse(b"nonsense") is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (LogOptions(), True),
        (LogOptions(stream="Stderr"), False),
        (LogOptions(since=1767225600.1), True),
        (LogOptions(since=1767225600.2), False),
    ],
    ids=["all", "other-stream", "before", "after"],
)
def test_log_lines_are_chosen(options: LogOptions, told: bool) -> None:
    line = parse(b"2026-01-01T00:00:00.123456789Z stdout F x")
    assert line is not None
    assert wanted(line, options) == told


@given(lines=st.lists(st.integers(0, 3000), max_size=60), count=st.integers(1, 70))
def test_the_tail_is_found_from_the_end(lines: list[int], count: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.log"
        path.write_text("".join("x" * length + "\n" for length in lines))
        offset, _ = tail_offset(path, count)
        assert path.read_bytes()[offset:].count(b"\n") == min(count, len(lines))


async def test_partial_lines_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    stamp = "2026-01-01T00:00:00Z"
    path.write_text(f"{stamp} stdout P one \n{stamp} stdout F line\n{stamp} stderr F other\n{stamp} stdout F cut")
    reader = LogReader(path, LogOptions(timestamps=True), lambda: False)
    told = b"".join([piece async for piece in reader.read()])
    assert told == f"{stamp} one line\n{stamp} other\n".encode()


def test_last_words(tmp_path: Path) -> None:
    message, log = tmp_path / "message", tmp_path / "0.log"
    log.write_text("2026-01-01T00:00:00Z stdout F it broke\n2026-01-01T00:00:00Z stderr F badly\n")
    assert last_words.read(message, log, fall_back_to_logs=False) == ""
    assert last_words.read(message, log, fall_back_to_logs=True) == "it broke\nbadly"
    message.write_text("x" * 5000)
    assert len(last_words.read(message, log, fall_back_to_logs=True)) == 4096


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ("ss", [True, None]),
        ("fff", [None, None, False]),
        ("ffs", [None, None, True]),
        ("sfffs", [True, None, None, False, True]),
        ("sffsff", [True, None, None, None, None, None]),
    ],
)
def test_thresholds(results: str, told: list[bool | None]) -> None:
    threshold = Threshold(success_threshold=1, failure_threshold=3)
    assert [threshold.count(result == "s") for result in results] == told


def test_a_status_patch_says_what_is_gone() -> None:
    pod = {"metadata": {"name": "web", "uid": "u"}}
    told: dict[str, Any] = {
        "phase": "Pending",
        "reason": "x",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
    }
    wanted_status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "example.org/gate", "status": "True"}],
    }
    assert patch_of(pod, wanted_status, told) == {
        "metadata": {"uid": "u"},
        "status": {
            "phase": "Running",
            "reason": None,
            "conditions": [{"type": "Ready", "status": "True", "reason": None}],
        },
    }
    assert patch_of(pod, told, told)["status"] == {}


def test_a_caller_is_named_by_its_certificate() -> None:
    peer = {"subject": ((("organizationName", "system:masters"),), (("commonName", "admin"),))}
    assert identity(peer) == ("admin", ("system:masters",))
    assert identity(None) == ("", ())


@pytest.mark.parametrize(
    ("image", "registry"),
    [("a:1", "docker.io"), ("b/a", "docker.io"), ("r.example/a", "r.example"), ("localhost:5000/a", "localhost:5000")],
)
def test_registries(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def test_credentials_of_pull_secrets() -> None:
    import base64
    import json

    entry = {"auths": {"https://r.example/v1": {"auth": base64.b64encode(b"me:pass:word").decode()}}}
    data = base64.b64encode(json.dumps(entry).encode()).decode()
    secrets: list[dict[str, Any]] = [{"data": {}}, {"data": {".dockerconfigjson": data}}]
    assert credentials_for("r.example/a:1", secrets) == ("me", "pass:word")
    assert credentials_for("other.example/a:1", secrets) is None


def test_spdy_begins_with_its_dictionary() -> None:
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def test_spdy_frames() -> None:
    client = spdy.SpdyClient()
    first, second = client.open({"streamType": "error"}), client.open({"streamType": "stdin"})
    assert (first, second) == (1, 3)
    assert client.outgoing[:4] == b"\x80\x03\x00\x01"
    client.outgoing.clear()
    client.send(second, b"x" * (spdy.DATA_MAX_BYTES + 1), end=True)
    assert struct.unpack_from(">II", client.outgoing) == (3, spdy.DATA_MAX_BYTES)
    assert client.outgoing[-9:] == struct.pack(">II", 3, 1 << 24 | 1) + b"x"
    frames = struct.pack(">II", 1, 1 << 24 | 2) + b"hi" + b"\x80\x03\x00\x06" + struct.pack(">II", 4, 2)
    client.outgoing.clear()
    events = [event for byte in frames for event in client.receive(bytes([byte]))]
    assert events == [spdy.Data(1, b"hi", True)]
    assert client.outgoing == b"\x80\x03\x00\x06" + struct.pack(">II", 4, 2), "a ping is answered"


@given(junk=st.binary(max_size=200))
def test_spdy_survives_junk(junk: bytes) -> None:
    client = spdy.SpdyClient()
    try:
        list(client.receive(junk))
    except spdy.SpdyError:
        assert junk


def facts() -> node_facts.MachineFacts:
    """A machine."""
    return node_facts.MachineFacts(
        4, 8 << 30, 100 << 30, "192.0.2.1", "n1", "6.1", "Debian", "amd64", "m", "b", "s", 0, "/"
    )


def test_a_node_tells_what_it_has(tmp_path: Path) -> None:
    config = KubeletConfig("n1", tmp_path, system_reserved={"cpu": "500m", "memory": "1Gi"}, node_labels={"a": "b"})
    assert node_facts.capacity(facts(), config)["memory"] == f"{8 << 20}Ki"
    left = node_facts.allocatable(facts(), config)
    assert (left["cpu"], left["memory"]) == ("3500m", f"{(7 << 20) - 100 * 1024}Ki")
    images = [ImageInfo("i", ("a:1",), (), 10), ImageInfo("j", ("b:1",), (), 20), ImageInfo("k", (), (), 30)]
    states = node_facts.conditions(facts(), config, {"NetworkReady": "no network"})
    status = node_facts.node_status(
        facts(), config, ["192.0.2.1"], states, RuntimeVersion("containerd", "1.6", "v1"), images
    )
    assert [entry["names"] for entry in status["images"]] == [["b:1"], ["a:1"]]
    assert status["nodeInfo"]["containerRuntimeVersion"] == "containerd://1.6"
    ready = states[-1]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "KubeletNotReady")
    node = node_facts.node_object(config, facts(), status)
    assert node["metadata"]["labels"]["a"] == "b"
    assert {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"} in node["spec"]["taints"]


def test_heartbeats_alone_are_no_change() -> None:
    one = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}], "x": 1}
    other = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2"}], "x": 1}
    assert node_facts.without_times(one) == node_facts.without_times(other)


def test_images_unused_for_longest_go_first() -> None:
    images = [
        ImageInfo(name, (), (), 10, pinned=name == "pinned") for name in ("used", "new", "old", "older", "pinned")
    ]
    since = {"new": 950.0, "old": 500.0, "older": 100.0, "pinned": 0.0}
    assert [image.id for image in choose(images, {"used"}, since, 1000.0, 15)] == ["older", "old"]
    assert [image.id for image in choose(images, {"used"}, since, 1000.0, 5)] == ["older"]
    assert choose(images, {"used"}, since, 1000.0, 0) == []
