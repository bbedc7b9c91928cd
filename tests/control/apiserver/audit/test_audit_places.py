"""Where events go: files that are put aside, batches, a webhook behind a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from control.apiserver.audit.auditor import AuditMetrics
from control.apiserver.audit.buffer import Batching, Blocking
from control.apiserver.audit.legacy import legacy_line
from control.apiserver.audit.log import MEGABYTE, LogFile, line
from control.apiserver.audit.webhook import Webhook
from control.apiserver.config import BatchConfig, ConfigurationError
from control.apiserver.metrics import Metrics

EVENT = b'{"level":"Metadata","auditID":"1"}'


class Slow:
    """A backend that fails as often as it is told to, and that can be held."""

    name = "slow"

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.fault = ""
        self.free = asyncio.Event()
        self.free.set()
        self.asked = 0

    async def write(self, events: list[bytes]) -> str:
        self.asked += 1
        await self.free.wait()
        if not self.fault:
            self.batches.append(events)
        return self.fault

    async def close(self) -> None:
        pass


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def test_a_line_has_kind_and_version() -> None:
    read = json.loads(line(EVENT))
    assert (read["kind"], read["apiVersion"], read["auditID"]) == ("Event", "audit.k8s.io/v1", "1")


async def test_files_are_private_and_put_aside_when_they_are_large(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    log = LogFile(str(path), megabytes_max=1, backups_max=2)
    big = b'{"x":"' + b"y" * (MEGABYTE // 2) + b'"}'
    for _ in range(9):
        assert await log.write([big]) == ""
    await log.close()
    found = sorted(each.name for each in path.parent.iterdir())
    assert len(found) == 3, "one in use and two aside"
    assert found[-1] == "audit.log"
    assert all(each.startswith("audit-2") for each in found[:-1])
    assert all(each.stat().st_size <= MEGABYTE for each in path.parent.iterdir())
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


async def test_old_files_are_removed_and_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for name in ("audit-2020-01-01T00-00-00.000.log", "audit-of-mine.log", "other.log"):
        (tmp_path / name).write_text("x")
    path.write_bytes(b"x" * MEGABYTE)
    log = LogFile(str(path), megabytes_max=1, age_days_max=30)
    await log.write([EVENT])
    await log.close()
    found = sorted(each.name for each in tmp_path.iterdir())
    assert "audit-2020-01-01T00-00-00.000.log" not in found
    assert {"audit-of-mine.log", "other.log", "audit.log"} <= set(found)
    assert len(found) == 4


async def test_what_stands_in_a_file_stays_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for _ in range(2):
        log = LogFile(str(path))
        await log.write([EVENT])
        await log.close()
    assert path.read_bytes() == line(EVENT) * 2


async def test_a_file_that_cannot_be_written_is_told_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file is in the way")
    log = LogFile(str(folder / "audit.log"))
    assert "audit.log" in await log.write([EVENT])
    folder.unlink()
    assert await log.write([EVENT]) == ""
    await log.close()


@pytest.mark.parametrize("strict", [False, True], ids=["blocking", "blocking-strict"])
async def test_blocking_waits_and_only_strict_fails(strict: bool) -> None:
    backend, metrics = Slow(), Metrics()
    place = Blocking(backend, AuditMetrics(metrics), strict=strict)
    assert await place.put(EVENT)
    backend.fault = "no room"
    assert await place.put(EVENT) is not strict
    assert backend.batches == [[EVENT]]
    assert 'apiserver_audit_error_total{plugin="slow"} 1' in (await metrics.text()).decode()


async def test_batches_are_full_or_old() -> None:
    backend = Slow()
    place = Batching(backend, AuditMetrics(Metrics()), BatchConfig(batch_events_max=3, wait_s=0.05))
    task = asyncio.ensure_future(place.run())
    for index in range(7):
        await place.put(b"%d" % index)
    await until(lambda: len(backend.batches) == 3)
    assert backend.batches == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6"]]
    await ended(task)


async def test_batches_are_bounded_in_bytes() -> None:
    backend = Slow()
    place = Batching(backend, AuditMetrics(Metrics()), BatchConfig(wait_s=0.0), batch_bytes_max=10)
    for event in (b"four", b"four", b"four", b"a long one that is more"):
        await place.put(event)
    task = asyncio.ensure_future(place.run())
    await until(lambda: len(backend.batches) == 3)
    assert backend.batches == [[b"four", b"four"], [b"four"], [b"a long one that is more"]]
    await ended(task)


async def test_a_full_buffer_loses_events_and_counts_them_and_holds_nobody_up() -> None:
    backend, metrics = Slow(), Metrics()
    backend.free.clear()
    place = Batching(backend, AuditMetrics(metrics), BatchConfig(events_max=5, batch_events_max=1, wait_s=0.0))
    task = asyncio.ensure_future(place.run())
    for _ in range(20):
        assert await place.put(EVENT)
    text = (await metrics.text()).decode()
    assert 'apiserver_audit_error_total{plugin="buffered"} 15' in text
    backend.free.set()
    await until(lambda: len(backend.batches) == 5)
    await ended(task)


async def test_what_waits_at_the_end_is_written_even_what_was_under_way() -> None:
    backend = Slow()
    backend.free.clear()
    place = Batching(backend, AuditMetrics(Metrics()), BatchConfig(batch_events_max=2, wait_s=0.0))
    task = asyncio.ensure_future(place.run())
    for index in range(5):
        await place.put(b"%d" % index)
    await until(lambda: backend.asked)
    task.cancel()
    backend.free.set()
    await asyncio.wait([task])
    assert [event for batch in backend.batches for event in batch] == [b"0", b"1", b"2", b"3", b"4"]


async def test_batches_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    backend = Slow()
    config = BatchConfig(batch_events_max=1, wait_s=0.0, batches_per_s=0.1, burst=2)
    place = Batching(backend, AuditMetrics(Metrics()), config)
    for index in range(6):
        await place.put(b"%d" % index)
    monkeypatch.setattr("control.apiserver.audit.buffer.asyncio.sleep", sleep)
    task = asyncio.ensure_future(place.run())
    while len(backend.batches) < 6:
        await asyncio.wait([task], timeout=0.001)
    assert [round(wait, -1) for wait in waits] == [10, 20, 30, 40], "two at once, then one in ten seconds"
    await ended(task)


class Program:
    """A webhook of the test's own."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        program = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                code = program.codes.pop(0) if program.codes else 200
                program.paths.append(self.path)
                if code == 200:
                    program.bodies.append(json.loads(body))
                self.send_response(code)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.close()


def kubeconfig(path: Path, server: str) -> Path:
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "contexts": [{"name": "a", "context": {"cluster": "a"}}],
    }
    path.write_text(yaml.safe_dump(made))
    return path


async def test_a_webhook_gets_lists_at_its_path(program: Program, tmp_path: Path) -> None:
    webhook = Webhook(kubeconfig(tmp_path / "a", f"{program.url}/events"), 0.01)
    assert await webhook.write([EVENT, EVENT]) == ""
    await webhook.close()
    assert program.paths == ["/events"]
    assert program.bodies == [
        {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [json.loads(EVENT)] * 2}
    ]


@pytest.mark.parametrize(
    ("codes", "fault"),
    [([500, 429, 503], ""), ([400], "the webhook answered 400"), ([500] * 5, "the webhook answered 500")],
    ids=["comes round", "refuses", "stays broken"],
)
async def test_a_webhook_is_asked_again_where_that_may_help(
    program: Program, tmp_path: Path, codes: list[int], fault: str
) -> None:
    program.codes = list(codes)
    webhook = Webhook(kubeconfig(tmp_path / "a", program.url), 0.01)
    assert await webhook.write([EVENT]) == fault
    await webhook.close()
    assert len(program.bodies) == (0 if fault else 1)
    assert program.codes == []


def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="initializing audit webhook"):
        Webhook(tmp_path / "none", 0.01)


def test_the_legacy_form_is_a_line_of_text() -> None:
    event = {
        "auditID": "7", "stage": "ResponseComplete", "verb": "list", "requestURI": '/api/v1/pods?x="', "userAgent": "k",
        "user": {"username": "ann", "groups": ["a", "b"]}, "sourceIPs": ["192.0.2.1", "192.0.2.2"],
        "objectRef": {"namespace": "n"}, "responseStatus": {"code": 200},
        "requestReceivedTimestamp": "2026-01-02T03:04:05.120000Z",
    }  # fmt: skip
    assert legacy_line(orjson.dumps(event)).decode() == (
        '2026-01-02T03:04:05.12Z AUDIT: id="7" stage="ResponseComplete" ip="192.0.2.1" method="list" user="ann" '
        'groups="\\"a\\",\\"b\\"" as="<self>" asgroups="<lookup>" user-agent="k" namespace="n" '
        'uri="/api/v1/pods?x=\\"" response="200"\n'
    )
    early = {"auditID": "7", "stage": "RequestReceived", "verb": "get", "requestURI": "/", "user": {},
             "impersonatedUser": {"username": "otto", "groups": []},
             "requestReceivedTimestamp": "2026-01-02T03:04:05.000000Z"}  # fmt: skip
    assert legacy_line(orjson.dumps(early)).decode() == (
        '2026-01-02T03:04:05Z AUDIT: id="7" stage="RequestReceived" ip="<unknown>" method="get" user="<none>" '
        'groups="<none>" as="otto" asgroups="" user-agent="" namespace="<none>" uri="/" response="<deferred>"\n'
    )
