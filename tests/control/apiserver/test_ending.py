"""The end of a server that clients are using: told of first, requests and watches ended well, Leases given back."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from control.apiserver.config import EtcdConfig
from control.apiserver.etcd import Etcd
from tests.control.apiserver.processes import ADVERTISED, Kubectl, Server, api_server, etcd_server

pytestmark = pytest.mark.root
DEADLINE_S = 30.0
MASTER = f"/registry/masterleases/{ADVERTISED}"
IDENTITIES = "/registry/leases/kube-system/apiserver-"


@pytest.fixture(scope="module")
def world(etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    directory = tmp_path_factory.mktemp("ending")
    flags = ("--shutdown-delay-duration", "1500ms", "--request-timeout", "20s")
    with etcd_server(etcd, directory) as store, api_server(store.url, directory, *flags) as started:
        yield store.url, started


def connect(server: Server) -> http.client.HTTPSConnection:
    folder = server.directory / "pki"
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    return http.client.HTTPSConnection("127.0.0.1", server.port, timeout=DEADLINE_S, context=context)


def once(server: Server, path: str) -> tuple[int, str]:
    """Ask on a connection of its own."""
    with closing(connect(server)) as connection:
        return get(connection, path)


def get(connection: http.client.HTTPSConnection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def is_closed(server: Server) -> bool:
    try:
        once(server, "/livez")
    except OSError:
        return True
    return False


def keys(store_url: str, prefix: str) -> list[str]:
    async def ask() -> list[str]:
        store = Etcd(EtcdConfig((store_url,)))
        try:
            return [item.key for item in (await store.everything(prefix))[0]]
        finally:
            await store.close()

    return asyncio.run(ask())


def until(what: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_kubectl_shows_checks_and_levels(
    world: tuple[str, Server], kubectl_versions: dict[str, Path], tmp_path: Path
) -> None:
    _, server = world
    kubectl = Kubectl(kubectl_versions["sid"], server.kubeconfig(), tmp_path)
    until(lambda: once(server, "/readyz") == (200, "ok"))
    told = kubectl("get", "--raw", "/readyz?verbose").splitlines()
    assert {"[+]ping ok", "[+]etcd ok", "[+]etcd-readiness ok", "[+]informer-sync ok", "[+]shutdown ok"} <= set(told)
    assert "[+]poststarthook/rbac/bootstrap-roles ok" in told
    assert "[+]poststarthook/priority-and-fairness-config-producer ok" in told
    assert told[-1] == "readyz check passed"
    rows = [row.split() for row in kubectl("get", "flowschemas").splitlines()]
    assert rows[0] == ["NAME", "PRIORITYLEVEL", "MATCHINGPRECEDENCE", "DISTINGUISHERMETHOD", "AGE", "MISSINGPL"]
    assert {row[0] for row in rows[1:]} >= {"exempt", "probes", "system-nodes", "global-default", "catch-all"}
    assert len(rows) == 14
    levels = kubectl("get", "prioritylevelconfigurations", "global-default").splitlines()
    assert levels[1].split()[:6] == ["global-default", "Limited", "20", "128", "6", "50"]
    table = kubectl("get", "--raw", "/debug/api_priority_and_fairness/dump_priority_levels")
    assert table.splitlines()[0].startswith("PriorityLevelName,")


def test_a_server_ends_as_its_clients_would_wish(world: tuple[str, Server]) -> None:
    store_url, server = world
    until(lambda: keys(store_url, MASTER) and keys(store_url, IDENTITIES))
    with ExitStack() as opened:
        watching, writing, reading = (opened.enter_context(closing(connect(server))) for _ in range(3))
        end_while_used(store_url, server, watching, writing, reading)


def end_while_used(
    store_url: str,
    server: Server,
    watching: http.client.HTTPSConnection,
    writing: http.client.HTTPSConnection,
    reading: http.client.HTTPSConnection,
) -> None:
    watching.request("GET", "/api/v1/namespaces/default/configmaps?watch=1&allowWatchBookmarks=true")
    events = watching.getresponse()
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "last"}}).encode()
    writing.putrequest("POST", "/api/v1/namespaces/default/configmaps")
    writing.putheader("content-type", "application/json")
    writing.putheader("content-length", str(len(body)))
    writing.endheaders(body[:10])
    assert get(reading, "/readyz")[0] == 200
    server.process.send_signal(signal.SIGTERM)
    until(lambda: get(reading, "/readyz")[0] == 500)
    assert "[-]shutdown failed: reason withheld" in get(reading, "/readyz")[1]
    assert get(reading, "/livez") == (200, "ok")
    assert get(reading, "/api/v1/namespaces/default/configmaps")[0] == 200
    last = [json.loads(line) for line in events.read().splitlines() if line.strip()]
    assert last[-1]["type"] == "BOOKMARK"
    # The port is closed now, and the request that was begun before may still be finished.
    until(lambda: is_closed(server))
    writing.send(body[10:])
    answer = writing.getresponse()
    assert (answer.status, json.loads(answer.read())["metadata"]["name"]) == (201, "last")
    assert server.process.wait(DEADLINE_S) == 0
    assert keys(store_url, MASTER) == []
    assert keys(store_url, IDENTITIES) == []
    assert keys(store_url, "/registry/configmaps/default/last")
