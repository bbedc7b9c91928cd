"""A recorded API server for `bench.proxy`: pages of Services and slices made beforehand, and changes on demand.

It answers what a proxy asks and costs next to nothing, so that the proxy is measured and not the server: on two cores
they would share them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

NODE_NAME = "bench-node"
CLUSTER_CIDR = "10.244.0.0/14"
SERVERS = ("10.244.9.1", "10.244.9.2", "10.244.9.3")
"""Where the endpoints of the last Service really are."""
EMPTY = "empty"
FIRST_CLUSTER_IP = int(ipaddress.ip_address("10.96.0.10"))
FIRST_ENDPOINT = int(ipaddress.ip_address("10.245.0.1"))
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
PAGE = 500


def cluster_ip(number: int) -> str:
    """Return the cluster IP of a Service."""
    return str(ipaddress.ip_address(FIRST_CLUSTER_IP + number))


def service(number: int, name: str) -> dict[str, Any]:
    """Return a Service as an API server sends it, managed fields and all."""
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": f"3f0a7c1e-0000-4000-8000-{number:012d}",
            "resourceVersion": str(1000 + number), "creationTimestamp": "2026-11-01T10:00:00Z",
            "labels": {"app": name},
            "managedFields": [{
                "manager": "kubectl-create", "operation": "Update", "apiVersion": "v1", "time": "2026-11-01T10:00:00Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:internalTrafficPolicy": {}, "f:ports": {".": {}, 'k:{"port":80,"protocol":"TCP"}': {
                        ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
                    "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}},
            }],
        },
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}], "selector": {"app": name},
            "clusterIP": cluster_ip(number), "clusterIPs": [cluster_ip(number)], "type": "ClusterIP",
            "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }  # fmt: skip


def endpoint_slice(number: int, name: str, addresses: Sequence[str], made: str = "") -> dict[str, Any]:
    """Return an EndpointSlice as an API server sends it."""
    annotations = {"annotations": {TRIGGER: made}} if made else {}
    return {
        "metadata": {
            "name": f"{name}-abcde", "generateName": f"{name}-", "namespace": "default",
            "uid": f"5b1d2f3a-0000-4000-8000-{number:012d}", "resourceVersion": str(1000 + number), "generation": 1,
            "creationTimestamp": "2026-11-01T10:00:00Z",
            "labels": {"app": name, "kubernetes.io/service-name": name,
                       "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "controller": True,
                                 "uid": f"3f0a7c1e-0000-4000-8000-{number:012d}", "blockOwnerDeletion": True}],
            **annotations,
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": f"{name}-7d9c5b8f6-{place:05d}",
                              "uid": f"7c2e4d5b-0000-4000-8000-{number:07d}{place:05d}"},
                "nodeName": f"node-{(number + place) % 100}", "zone": "zone-a",
            }
            for place, address in enumerate(addresses)
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip


def endpoint_addresses(number: int, count: int) -> list[str]:
    """Return the made-up endpoints of a Service."""
    first = FIRST_ENDPOINT + number * count
    return [str(ipaddress.ip_address(first + place)) for place in range(count)]


def node() -> dict[str, Any]:
    """Return the own Node."""
    return {
        "metadata": {"name": NODE_NAME, "uid": "9", "resourceVersion": "5", "labels": {}},
        "spec": {"podCIDRs": ["10.244.9.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.88.1"}]},
    }


class RecordedHub:
    """Hold the pages and serve them from a thread, until closed."""

    def __init__(self, services: int, endpoints: int) -> None:
        names = [f"web-{number:05d}" for number in range(services)]
        objects = {
            "services": [service(number, name) for number, name in enumerate(names)] + [service(services, EMPTY)],
            "endpointslices": [
                endpoint_slice(number, name, self.addresses_of(number, services, endpoints))
                for number, name in enumerate(names)
            ],
            "nodes": [node()],
        }
        self.last = names[-1]
        self._pages = {kind: _pages(items) for kind, items in objects.items()}
        self._watches: dict[str, list[asyncio.StreamWriter]] = {"services": [], "endpointslices": [], "nodes": []}
        self._revision = 1_000_000
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @staticmethod
    def addresses_of(number: int, services: int, endpoints: int) -> list[str]:
        """Return a Service's endpoints: real ones for the last."""
        if number == services - 1:
            return [SERVERS[place % len(SERVERS)] for place in range(min(endpoints, len(SERVERS)))]
        return endpoint_addresses(number, endpoints)

    def start(self, listening: Any) -> None:
        """Answer on a socket that listens already, in whichever namespace it was made."""
        self._thread.start()
        self.port = listening.getsockname()[1]
        asyncio.run_coroutine_threadsafe(self._serve(listening), self._loop).result(10)

    async def _serve(self, listening: Any) -> None:
        self._server = await asyncio.start_server(self._answer, sock=listening)

    def close(self) -> None:
        """End the server and its thread."""

        async def end() -> None:
            self._server.close()
            for writer in [writer for writers in self._watches.values() for writer in writers]:
                writer.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = urlsplit(head.split(b" ", 2)[1].decode())
                kind, query = target.path.rsplit("/", 1)[-1], parse_qs(target.query)
                if "watch" in query:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    self._watches[kind].append(writer)
                    await reader.read()  # until the proxy goes
                    self._watches[kind].remove(writer)
                    writer.close()
                    return
                body = self._pages[kind][int(query.get("continue", ["0"])[0])]
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def change(self, number: int, name: str, addresses: Sequence[str]) -> None:
        """Send a slice that has changed just now."""
        self._loop.call_soon_threadsafe(self._send, number, name, list(addresses))

    def _send(self, number: int, name: str, addresses: list[str]) -> None:
        self._revision += 1
        obj = endpoint_slice(number, name, addresses, datetime.now(UTC).isoformat())
        obj["metadata"]["resourceVersion"] = str(self._revision)
        line = orjson.dumps({"type": "MODIFIED", "object": obj}) + b"\n"
        for writer in self._watches["endpointslices"]:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))


def _pages(items: list[dict[str, Any]]) -> list[bytes]:
    starts = range(0, len(items), PAGE)
    return [
        orjson.dumps(
            {
                "metadata": {
                    "resourceVersion": "900000",
                    **({"continue": str(page + 1)} if page + 1 < len(starts) else {}),
                },
                "items": items[start : start + PAGE],
            }
        )
        for page, start in enumerate(starts)
    ]
