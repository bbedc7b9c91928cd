"""An API server of somebody else's: one group version, kept in memory, behind a front proxy that it believes.

It runs as a process of its own, speaks HTTPS, asks for the proxy's certificate and takes the user from its headers.
Run it as ``python -m tests.fakes.aggregated_server FOLDER``: server.crt, server.key and front-proxy-ca.crt stand there,
and while a file ``broken`` does, every answer is an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GROUP, VERSION = "fleet.example.com", "v1"
API_VERSION = f"{GROUP}/{VERSION}"
ROOT = f"/apis/{GROUP}/{VERSION}"
ALLOWED = "front-proxy-client"
VERBS = ["create", "delete", "get", "list", "watch", "update", "patch"]
RESOURCES = [
    {
        "name": "ships",
        "singularName": "ship",
        "namespaced": True,
        "kind": "Ship",
        "verbs": VERBS,
        "shortNames": ["shp"],
    },
    {"name": "ships/bell", "singularName": "", "namespaced": True, "kind": "Ship", "verbs": ["get", "create"]},
]
SHIP: dict[str, Any] = {
    "type": "object",
    "description": "Ship is something that floats.",
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": {"masts": {"type": "integer", "description": "How many masts."}}},
    },
    "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": "Ship"}],
}
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def openapi() -> dict[str, Any]:
    kind = {"group": GROUP, "version": VERSION, "kind": "Ship"}
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    item = {"x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind, "parameters": [parameter]}
    answer = {"200": {"description": "OK"}}
    return {
        "openapi": "3.0.0",
        "info": {"title": "fleet", "version": "v1"},
        "paths": {f"{ROOT}/namespaces/{{namespace}}/ships/{{name}}": {"patch": {**item, "responses": answer}}},
        "components": {"schemas": {"com.example.fleet.v1.Ship": SHIP}},
    }


def swagger() -> dict[str, Any]:
    """Return the OpenAPI v2 document, which has more than what is registered, and a name that others have too."""
    kind = {"group": GROUP, "version": VERSION, "kind": "Ship"}
    answer = {"200": {"description": "OK", "schema": {"$ref": "#/definitions/com.example.fleet.v1.Ship"}}}
    get = {"operationId": "readShip", "x-kubernetes-action": "get", "x-kubernetes-group-version-kind": kind,
           "produces": ["application/json"], "schemes": ["https"], "responses": answer,
           "parameters": [{"$ref": "#/parameters/pretty-x"}]}  # fmt: skip
    metadata = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return {
        "swagger": "2.0",
        "info": {"title": "fleet", "version": "v1"},
        "paths": {f"{ROOT}/namespaces/{{namespace}}/ships/{{name}}": {"get": get}, "/api/v1/pods": {"get": get}},
        "parameters": {"pretty-x": {"name": "pretty", "in": "query", "type": "string", "uniqueItems": True}},
        "definitions": {
            "com.example.fleet.v1.Ship": {**SHIP, "properties": {**SHIP["properties"], "metadata": metadata}},
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "Of a ship."},
            "com.example.fleet.v1.Unused": {"type": "object"},
        },
    }


class Fleet:
    """All ships, and how often they have changed."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.revision = 1
        self.ships: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []

    def note(self, kind: str, ship: dict[str, Any]) -> None:
        with self.changed:
            self.revision += 1
            ship["metadata"]["resourceVersion"] = str(self.revision)
            self.events.append((self.revision, kind, json.loads(json.dumps(ship))))
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    fleet: Fleet
    folder: Path

    def log_message(self, *arguments: Any) -> None:
        print(self.command, self.path, self.headers.get("X-Remote-User"), flush=True)

    def answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def status(self, code: int, reason: str, message: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
        self.answer(code, {**body, "code": code})

    def user(self) -> dict[str, Any] | None:
        """Return whom the front proxy asks for, None where it is not the proxy."""
        certificate = self.connection.getpeercert()
        names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
        if names != [ALLOWED] or "X-Remote-User" not in self.headers:
            return None
        prefix = "x-remote-extra-"
        extra = {
            unquote(name[len(prefix) :]): self.headers.get_all(name)
            for name in self.headers
            if name.lower().startswith(prefix)
        }
        return {
            "name": self.headers["X-Remote-User"].encode("latin-1").decode(),
            "groups": self.headers.get_all("X-Remote-Group") or [],
            "uid": self.headers.get("X-Remote-Uid", ""),
            "extra": extra,
            "authorization": self.headers.get("Authorization", ""),
        }

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.rfile.read(length) if not chunked else b""
        user = self.user()
        if user is None:
            self.status(401, "Unauthorized", "Unauthorized")
        elif (self.folder / "broken").exists():
            self.answer(500, b"on fire", {"Content-Type": "text/plain"})
        elif parts.path == ROOT:
            listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION}
            self.answer(200, {**listed, "resources": RESOURCES})
        elif parts.path == "/openapi/v3":
            path = ROOT.lstrip("/")
            address = {"serverRelativeURL": f"/openapi/v3/{path}?hash=ABC"}
            self.answer(200, {"paths": {path: address, "api/v1": address}})
        elif parts.path == "/openapi/v2":
            self.answer(200, swagger())
        elif parts.path == f"/openapi/v3{ROOT}":
            self.answer(200, openapi())
        elif parts.path.startswith(ROOT + "/"):
            self.resource(parts.path[len(ROOT) + 1 :].split("/"), parse_qs(parts.query), body, user)
        else:
            self.status(404, "NotFound", "the server could not find the requested resource")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 (the library's own names)

    def resource(self, path: list[str], query: dict[str, list[str]], body: bytes, user: dict[str, Any]) -> None:
        namespace = ""
        if path[0] == "namespaces":
            namespace, path = path[1], path[2:]
        if path[0] == "away":
            self.answer(302, b"", {"Location": "https://127.0.0.1:1/"})
        elif path[0] == "whoami":
            audit_id = self.headers.get("Audit-ID", "")
            told = {**user, "auditID": audit_id, "connection": self.client_address[1]}
            self.answer(200, told, {"Audit-ID": audit_id})
        elif path[0] != "ships":
            self.status(404, "NotFound", "the server could not find the requested resource")
        elif path[2:] == ["bell"]:
            self.bell()
        elif len(path) == 2:
            self.one(namespace, path[1], body)
        elif self.command == "POST":
            self.create(namespace, json.loads(body), user)
        elif query.get("watch", ["false"])[0] in ("true", "1"):
            self.watch(namespace, int(query.get("resourceVersion", ["0"])[0] or 0))
        else:
            items = [ship for (space, _), ship in self.fleet.ships.items() if not namespace or space == namespace]
            head = {"kind": "ShipList", "apiVersion": API_VERSION}
            self.answer(200, {**head, "metadata": {"resourceVersion": str(self.fleet.revision)}, "items": items})

    def create(self, namespace: str, ship: dict[str, Any], user: dict[str, Any]) -> None:
        metadata = ship.setdefault("metadata", {})
        name = metadata["name"]
        metadata.update(namespace=namespace, uid=f"uid-{name}", creationTimestamp="2026-01-01T00:00:00Z")
        metadata.setdefault("annotations", {})["owner"] = user["name"]
        self.fleet.ships[namespace, name] = ship
        self.fleet.note("ADDED", ship)
        self.answer(201, ship)

    def one(self, namespace: str, name: str, body: bytes) -> None:
        ship = self.fleet.ships.get((namespace, name))
        if ship is None:
            self.status(404, "NotFound", f'ships.{GROUP} "{name}" not found')
        elif self.command == "DELETE":
            del self.fleet.ships[namespace, name]
            self.fleet.note("DELETED", ship)
            self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}})
        elif self.command == "PATCH":
            ship.setdefault("spec", {}).update(json.loads(body).get("spec") or {})
            self.fleet.note("MODIFIED", ship)
            self.answer(200, ship)
        else:
            self.answer(200, ship)

    def watch(self, namespace: str, seen: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with self.fleet.changed:
                fresh = [event for event in self.fleet.events if event[0] > seen]
                if not fresh:
                    self.fleet.changed.wait(0.5)
            for revision, kind, ship in fresh:
                seen = revision
                if not namespace or ship["metadata"]["namespace"] == namespace:
                    line = json.dumps({"type": kind, "object": ship}).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def bell(self) -> None:
        """Agree to an upgrade and send every byte back."""
        key = self.headers.get("Sec-WebSocket-Key", "").encode()
        accepted = base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accepted)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while data := self.connection.recv(4096):
            self.connection.sendall(data.upper())


def main(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "front-proxy-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    Handler.fleet, Handler.folder = Fleet(), folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"ready port={server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
