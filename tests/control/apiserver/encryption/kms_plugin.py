"""A KMS v2 plugin as a program of its own: its keys and its health stand in a file that tests change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proto.kms import api_pb2, api_pb2_grpc

ANNOTATION = "wrapped.plugin.example"


class Plugin(api_pb2_grpc.KeyManagementServiceServicer):
    """Encrypts with the key that the file names, decrypts with all that it does not revoke."""

    def __init__(self, state: Path) -> None:
        self._path = state

    @property
    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text())
        return found

    def _cipher(self, key_id: str) -> AESGCM:
        return AESGCM(hashlib.sha256(f"{self._state.get('salt', '')}{key_id}".encode()).digest())

    async def Status(self, request: Any, context: Any) -> api_pb2.StatusResponse:
        state = self._state
        return api_pb2.StatusResponse(
            version=state.get("version", "v2"), healthz=state.get("healthz", "ok"), key_id=state["key"]
        )

    async def Encrypt(self, request: api_pb2.EncryptRequest, context: Any) -> api_pb2.EncryptResponse:
        state = self._state
        nonce = os.urandom(12)
        sealed = nonce + self._cipher(state["key"]).encrypt(nonce, request.plaintext, None)
        self._log("Encrypt", state["key"])
        annotations = {ANNOTATION: b"1"}
        return api_pb2.EncryptResponse(ciphertext=sealed, key_id=state["key"], annotations=annotations)

    async def Decrypt(self, request: api_pb2.DecryptRequest, context: Any) -> api_pb2.DecryptResponse:
        self._log("Decrypt", request.key_id)
        if request.key_id in self._state.get("revoked", ()):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"key {request.key_id} is revoked")
        assert request.annotations[ANNOTATION] == b"1"
        nonce, sealed = request.ciphertext[:12], request.ciphertext[12:]
        return api_pb2.DecryptResponse(plaintext=self._cipher(request.key_id).decrypt(nonce, sealed, None))

    def _log(self, method: str, key_id: str) -> None:
        with self._path.with_suffix(".calls").open("a") as calls:
            calls.write(f"{method} {key_id}\n")


async def serve(socket: str, state: Path) -> None:
    """Serve on a Unix socket until told to end."""
    server = grpc.aio.server()
    api_pb2_grpc.add_KeyManagementServiceServicer_to_server(Plugin(state), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    state.with_suffix(".ready").touch()
    await ended.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
