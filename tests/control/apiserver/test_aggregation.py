"""API aggregation as users of kubectl meet it: another API server's own process over HTTPS, behind ours."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import ListOptions
from lab import pki
from tests.control.apiserver.processes import Kubectl, Server, api_server, etcd_server, make_pki, process

pytestmark = pytest.mark.root
KEEP_TRYING_S = 30.0
GROUP_PATH = "/apis/fleet.example.com/v1"
SHIP = {"apiVersion": "fleet.example.com/v1", "kind": "Ship", "metadata": {"name": "argo"}, "spec": {"masts": 1}}
_READY = re.compile(r"ready port=(\d+)")


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + KEEP_TRYING_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@dataclass
class Cluster:
    """Our API server, and another one that it is to pass requests on to."""

    server: Server
    log: Path
    port: int
    bundle: str

    def kubectl(self, program: Path, home: Path, user: str = "admin") -> Kubectl:
        return Kubectl(program, self.server.kubeconfig(user), home)

    def api_service(self, name: str = "v1.fleet.example.com", **spec: Any) -> str:
        version, _, group = name.partition(".")
        service = {"namespace": "default", "name": "fleet", "port": self.port}
        made = {"group": group, "version": version, "groupPriorityMinimum": 2000, "versionPriority": 10}
        found = {**made, "service": service, "caBundle": self.bundle, **spec}
        head = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}}
        return json.dumps({**head, "spec": found})


def condition(kubectl: Kubectl, name: str = "v1.fleet.example.com") -> dict[str, str]:
    found = json.loads(kubectl("get", "apiservice", name, "-o", "json"))
    conditions: list[dict[str, str]] = (found.get("status") or {}).get("conditions") or [{}]
    return conditions[0]


@pytest.fixture(scope="module")
def cluster(etcd: Path, kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("aggregation")
    make_pki(directory / "pki")
    proxy = pki.make_authority(directory / "pki", "front-proxy-ca", "front-proxy-ca")
    pki.issue(proxy, directory / "pki", "front-proxy-client", "front-proxy-client")
    theirs = directory / "theirs"
    authority = pki.make_authority(theirs, "ca", "fleet-ca")
    pki.issue(authority, theirs, "server", "fleet", usages=[pki.SERVER], dns_names=["fleet.default.svc"])
    (theirs / "front-proxy-ca.crt").write_bytes((directory / "pki" / "front-proxy-ca.crt").read_bytes())
    flags = [
        "--requestheader-client-ca-file", str(directory / "pki" / "front-proxy-ca.crt"),
        "--requestheader-allowed-names", "front-proxy-client",
        "--proxy-client-cert-file", str(directory / "pki" / "front-proxy-client.crt"),
        "--proxy-client-key-file", str(directory / "pki" / "front-proxy-client.key"),
    ]  # fmt: skip
    log = directory / "theirs.log"
    command = [sys.executable, "-m", "tests.fakes.aggregated_server", str(theirs)]
    with (
        etcd_server(etcd, directory) as store,
        api_server(store.url, directory, *flags) as server,
        process(command, log) as started,
    ):
        until(lambda: _READY.search(log.read_text()) or started.poll() is not None, "it does not start")
        found = _READY.search(log.read_text())
        assert found, log.read_text()
        bundle = base64.b64encode((theirs / "ca.crt").read_bytes()).decode()
        made = Cluster(server, log, int(found[1]), bundle)
        admin = made.kubectl(kubectl, directory)
        admin("create", "service", "externalname", "fleet", "--external-name=localhost", "-n", "default")
        admin("apply", "-f", "-", text=made.api_service())
        until(lambda: condition(admin).get("status") == "True", f"not available: {condition(admin)}")
        yield made


@pytest.fixture(params=["sid", "trixie"])
def admin(
    request: pytest.FixtureRequest, cluster: Cluster, kubectl_versions: dict[str, Path], tmp_path: Path
) -> Iterator[Kubectl]:
    made = cluster.kubectl(kubectl_versions[request.param], tmp_path)
    yield made
    made.run("delete", "ships", "--all", "-n", "default", "--wait=false")


def test_its_kinds_are_used_like_all_others(admin: Kubectl) -> None:
    assert "fleet.example.com/v1" in admin("api-versions").split()
    row = next(line.split() for line in admin("api-resources").splitlines() if line.startswith("ships "))
    assert row == ["ships", "shp", "fleet.example.com/v1", "true", "Ship"]
    assert "ship.fleet.example.com/argo created" in admin("apply", "-f", "-", text=json.dumps(SHIP))
    changed = json.dumps({**SHIP, "spec": {"masts": 3}})
    assert "ship.fleet.example.com/argo configured" in admin("apply", "-f", "-", text=changed)
    assert admin("get", "shp").splitlines()[1].split()[0] == "argo"
    found = json.loads(admin("get", "ship", "argo", "-o", "json"))
    assert found["spec"] == {"masts": 3}
    assert found["metadata"]["annotations"]["owner"] == "kubernetes-admin"
    assert "Ship is something that floats." in admin("explain", "ships")
    assert "FIELD: masts <integer>" in admin("explain", "ship.spec.masts")
    assert 'ship.fleet.example.com "argo" deleted' in admin("delete", "ship", "argo")
    assert 'ships.fleet.example.com "argo" not found' in admin.run("get", "ship", "argo").stderr


def test_watches_go_through(admin: Kubectl) -> None:
    admin("create", "-f", "-", text=json.dumps(SHIP))
    watching = admin.start("get", "ships", "-w", "-o", "name")
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == "ship.fleet.example.com/argo"
        admin("create", "-f", "-", text=json.dumps({**SHIP, "metadata": {"name": "other"}}))
        assert watching.stdout.readline().strip() == "ship.fleet.example.com/other"
    finally:
        watching.terminate()
        watching.communicate(timeout=10)


def test_apiservices_list_what_is_served_here_and_there(admin: Kubectl) -> None:
    rows = {line.split()[0]: line.split()[1:3] for line in admin("get", "apiservices").splitlines()[1:]}
    assert rows["v1.fleet.example.com"] == ["default/fleet", "True"]
    for name in ("v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"):
        assert rows[name] == ["Local", "True"]
    assert "v1.apiregistration.k8s.io" not in rows
    groups = [group["name"] for group in json.loads(admin("get", "--raw", "/apis"))["groups"]]
    assert groups[:2] == ["apiregistration.k8s.io", "apps"]
    assert groups[-1] == "fleet.example.com"
    one = json.loads(admin("get", "--raw", "/apis/fleet.example.com"))
    assert one["preferredVersion"] == {"groupVersion": "fleet.example.com/v1", "version": "v1"}


def test_it_learns_who_asks_from_the_proxy_alone(admin: Kubectl, cluster: Cluster) -> None:
    user = json.loads(admin("get", "--raw", f"{GROUP_PATH}/whoami"))
    assert user["name"] == "kubernetes-admin"
    assert set(user["groups"]) == {"system:masters", "system:authenticated"}
    assert "authentication.kubernetes.io/credential-id" in user["extra"]
    assert user["authorization"] == ""
    lent = json.loads(admin("get", "--raw", f"{GROUP_PATH}/whoami", "--as", "jürgen", "--as-group", "system:masters"))
    assert (lent["name"], set(lent["groups"])) == ("jürgen", {"system:masters", "system:authenticated"})
    forged = asyncio.run(_raw(cluster, f"GET {GROUP_PATH}/whoami HTTP/1.1", "X-Remote-User: eve", "X-Remote-Uid: 1"))
    assert b'"name": "kubernetes-admin"' in forged
    assert b'"uid": ""' in forged
    assert b"eve" not in forged


def test_their_openapi_v2_is_part_of_ours(admin: Kubectl) -> None:
    found = json.loads(admin("get", "--raw", "/openapi/v2"))
    path = f"{GROUP_PATH}/namespaces/{{namespace}}/ships/{{name}}"
    assert found["paths"][path]["get"]["parameters"][0]["name"] == "pretty"
    assert found["paths"]["/api/v1/pods"]["get"]["tags"] == ["core_v1"]
    ship = found["definitions"]["com.example.fleet.v1.Ship"]
    name = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    assert ship["properties"]["metadata"] == {"$ref": f"#/definitions/{name}_v2"}
    assert found["definitions"][f"{name}_v2"]["description"] == "Of a ship."
    assert len(found["definitions"][name]["properties"]) > 10
    assert "com.example.fleet.v1.Unused" not in found["definitions"]
    told = admin("explain", "ship.spec.masts", "--output", "plaintext-openapiv2")
    assert "How many masts." in told


def test_requests_keep_their_names_and_their_connections(cluster: Cluster) -> None:
    asked = f"GET {GROUP_PATH}/whoami HTTP/1.1"
    answers = [asyncio.run(_raw(cluster, asked, "Audit-ID: mine")) for _ in range(3)]
    assert all(answer.lower().count(b"audit-id: mine\r\n") == 1 for answer in answers)
    assert all(b'"auditID": "mine"' in answer for answer in answers)
    assert len({re.findall(rb'"connection": (\d+)', answer)[0] for answer in answers}) == 1


async def _raw(cluster: Cluster, *lines: str, more: bytes = b"", answers: int = 1) -> bytes:
    """Send a request's head as it is written here; return what comes back until the end, or until it is enough."""
    folder = cluster.server.directory / "pki"
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.server.port, ssl=context)
    try:
        head = [*lines, "Host: localhost"]
        if not more:
            head.append("Connection: close")
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        async with asyncio.timeout(20):
            if not more:
                return await reader.read()
            answer = await reader.readuntil(b"\r\n\r\n")
            for _ in range(answers):
                writer.write(more)
                answer += await reader.readexactly(len(more))
            return answer
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except OSError:
            print("the server hung up first")


def test_upgrades_go_through(cluster: Cluster) -> None:
    path = f"{GROUP_PATH}/namespaces/default/ships/argo/bell"
    answer = asyncio.run(
        _raw(
            cluster, f"GET {path} HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", more=b"ahoy", answers=3,
        )
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
    assert answer.endswith(b"AHOYAHOYAHOY")


async def test_the_hub_asks_other_servers_too(cluster: Cluster) -> None:
    hub = cluster.server.hub_client()
    try:
        ships = Resource("fleet.example.com", "v1", "ships", "Ship")
        made = await hub.create(ships, {**SHIP, "metadata": {"name": "hubbed"}}, "default")
        assert made["metadata"]["annotations"]["owner"] == "kubernetes-admin"
        assert (await hub.get(ships, "hubbed", "default"))["spec"] == {"masts": 1}
        listed = await hub.list(ships, "default")
        assert [(item["kind"], item["metadata"]["name"]) for item in listed.items] == [("Ship", "hubbed")]
        async with asyncio.timeout(20):
            async for event in hub.watch(ships, "default", ListOptions(resource_version="1")):
                if event.object["metadata"]["name"] == "hubbed":
                    break
        await hub.delete(ships, "hubbed", "default")
        with pytest.raises(ApiError, match=r'ships.fleet.example.com "hubbed" not found') as caught:
            await hub.get(ships, "hubbed", "default")
        assert (caught.value.code, caught.value.reason) == (404, "NotFound")
    finally:
        await hub.close()


def test_redirects_stay_inside(admin: Kubectl) -> None:
    refused = admin.run("get", "--raw", f"{GROUP_PATH}/away").stderr
    assert "the backend attempted to redirect this request, which is not permitted" in refused


def test_rights_are_asked_for_before_a_request_is_passed_on(cluster: Cluster, kubectl: Path, tmp_path: Path) -> None:
    scheduler = cluster.kubectl(kubectl, tmp_path, "scheduler")
    told = scheduler.run("get", "ships").stderr
    assert 'User "system:kube-scheduler" cannot list resource "ships" in API group "fleet.example.com"' in told


def test_extension_servers_are_told_whom_to_believe(admin: Kubectl, cluster: Cluster) -> None:
    data: dict[str, str] = {}

    def written() -> bool:
        done = admin.run("get", "configmap", "extension-apiserver-authentication", "-n", "kube-system", "-o", "json")
        data.update(json.loads(done.stdout)["data"] if done.returncode == 0 else {})
        return bool(data)

    until(written, "the ConfigMap is missing")
    folder = cluster.server.directory / "pki"
    assert data["client-ca-file"].strip() == (folder / "ca.crt").read_text().strip()
    assert data["requestheader-client-ca-file"].strip() == (folder / "front-proxy-ca.crt").read_text().strip()
    assert data["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert data["requestheader-username-headers"] == '["x-remote-user"]'
    assert data["requestheader-extra-headers-prefix"] == '["x-remote-extra-"]'


def test_a_server_that_cannot_be_asked_is_told_of(cluster: Cluster, kubectl: Path, tmp_path: Path) -> None:
    admin = cluster.kubectl(kubectl, tmp_path)
    stranger = (cluster.server.directory / "pki" / "other" / "ca.crt").read_bytes()
    reasons: dict[str, tuple[dict[str, Any], str]] = {
        "v1.gone.example.com": ({"service": {"namespace": "default", "name": "nobody"}}, "ServiceNotFound"),
        "v1.idle.example.com": ({"service": {"namespace": "default", "name": "idle"}}, "EndpointsNotFound"),
        "v1.deaf.example.com": ({"service": {"namespace": "default", "name": "idle", "port": 1}}, "ServicePortError"),
        "v1.forged.example.com": ({"caBundle": base64.b64encode(stranger).decode()}, "FailedDiscoveryCheck"),
        "v2.fleet.example.com": ({}, "FailedDiscoveryCheck"),
    }

    def has_reason(name: str, reason: str) -> bool:
        return condition(admin, name).get("reason") == reason

    admin("create", "service", "clusterip", "idle", "--tcp=443:443", "-n", "default")
    try:
        for name, (spec, _) in reasons.items():
            admin("apply", "-f", "-", text=cluster.api_service(name, **spec))
        for name, (_, reason) in reasons.items():
            until(partial(has_reason, name, reason), f"{name}: {condition(admin, name)}")
        assert condition(admin, "v1.gone.example.com")["message"] == 'service/nobody in "default" is not present'
        assert "certificate verify failed" in condition(admin, "v1.forged.example.com")["message"]
        told = admin.run("get", "--raw", "/apis/gone.example.com/v1/things").stderr
        assert "the server is currently unable to handle the request" in told
        aggregated = json.loads(_discovery(cluster))
        stale = {
            (group["metadata"]["name"], version["version"])
            for group in aggregated["items"]
            for version in group["versions"]
            if version["freshness"] == "Stale"
        }
        assert ("gone.example.com", "v1") in stale
        assert ("fleet.example.com", "v1") not in stale
        # The others are served as before.
        assert admin("get", "--raw", "/apis/apps/v1")
        assert "apps/v1" in admin("api-versions").split()
    finally:
        admin("delete", "apiservice", *reasons, "--wait=false")
        admin("delete", "service", "idle", "-n", "default")


def _discovery(cluster: Cluster) -> bytes:
    accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    return asyncio.run(_raw(cluster, "GET /apis HTTP/1.1", accept)).split(b"\r\n\r\n", 1)[1]


def test_a_server_may_break_and_come_back(cluster: Cluster, kubectl: Path, tmp_path: Path) -> None:
    admin = cluster.kubectl(kubectl, tmp_path)
    broken = cluster.server.directory / "theirs" / "broken"
    broken.touch()
    try:
        admin("annotate", "apiservice", "v1.fleet.example.com", "look=now", "--overwrite")
        until(lambda: condition(admin).get("status") == "False", "its failure is not noticed")
        assert condition(admin)["reason"] == "FailedDiscoveryCheck"
        assert condition(admin)["message"].endswith(f"{GROUP_PATH}: 500")
        told = admin.run("get", "--raw", f"{GROUP_PATH}/ships").stderr
        assert "the server is currently unable to handle the request" in told
    finally:
        broken.unlink()
    until(lambda: condition(admin).get("status") == "True", "its recovery is not noticed")
    assert admin("get", "--raw", f"{GROUP_PATH}/ships")
