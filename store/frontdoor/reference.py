"""The reference front door: the service table through grpcio."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from store.api.errors import EtcdError
from store.api.table import Call, ServiceTable, Streaming, Unary
from store.frontdoor.abuse import Limits
from store.frontdoor.tls import ServerTLS

log = logging.getLogger(__name__)

_OVERHEAD_BYTES = 512 * 1024
_STOP_GRACE_S = 0.5
_NEVER_S = 1_000_000.0
_STATUS_OF = {status.value[0]: status for status in grpc.StatusCode}


class _Stream:
    """A grpcio stream as the table's handlers want it."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        message: Any = await self._context.read()
        return None if message is grpc.aio.EOF else bytes(message)

    async def write(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except grpc.aio.InternalError as error:
            raise ConnectionError("the client is gone") from error

    def try_write(self, _message: bytes) -> bool:
        return False


class _TableHandler(grpc.GenericRpcHandler):
    """Finds a method's handler in the service table."""

    def __init__(self, table: ServiceTable) -> None:
        self._handlers = {path: _method(path, method) for path, method in table.items()}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(details.method)


class ReferenceDoor:
    """One gRPC server over any number of addresses."""

    def __init__(self, table: ServiceTable, request_bytes_max: int, limits: Limits) -> None:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", request_bytes_max + _OVERHEAD_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", int(limits.ping_interval_s * 1000)),
                ("grpc.max_concurrent_streams", limits.streams_max),
                ("grpc.keepalive_time_ms", int((limits.keepalive_interval_s or _NEVER_S) * 1000)),
                ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout_s * 1000)),
            )
        )
        self._server.add_generic_rpc_handlers((_TableHandler(table),))

    def listen(self, host: str, port: int, tls: ServerTLS | None) -> int:
        """Add an address before the start and return its port; raise OSError where it cannot be had."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """End all calls after a moment's grace."""
        await self._server.stop(_STOP_GRACE_S)


def _credentials(tls: ServerTLS) -> grpc.ServerCredentials:
    """Credentials that follow the files: a renewed certificate is used from the next connection on."""
    files = [tls.cert_file, tls.key_file]
    if tls.trusted_ca_file is not None:
        files.append(tls.trusted_ca_file)

    def versions() -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in files)

    def read() -> grpc.ServerCertificateConfiguration:
        certificate, key = tls.cert_file.read_bytes(), tls.key_file.read_bytes()
        ca = tls.trusted_ca_file.read_bytes() if tls.trusted_ca_file is not None else None
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.cert_file, tls.key_file)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    used = versions()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        try:
            found = versions()
            if found == used:
                return None
            renewed = read()
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate not reloaded cert_file=%s reason=%s", tls.cert_file, error)
            return None
        used = found
        log.info("certificate reloaded cert_file=%s", tls.cert_file)
        return renewed

    # None means no change, which the stubs do not know.
    return grpc.dynamic_ssl_server_credentials(read(), fetch, tls.client_cert_auth)  # type: ignore[arg-type]


def _call(context: grpc.aio.ServicerContext[bytes, bytes]) -> Call:
    metadata: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            metadata.setdefault(name, value)
    names = context.auth_context().get("x509_common_name", ())
    return Call(metadata, next(iter(names), b"").decode())


async def _guard(
    path: str, context: grpc.aio.ServicerContext[bytes, bytes], work: Callable[[], Awaitable[bytes | None]]
) -> bytes | None:
    """Do the work of one call and turn its refusal into a status."""
    try:
        return await work()
    except EtcdError as error:
        status, text = _STATUS_OF[error.code], error.text
    except grpc.aio.AbortError:
        raise
    except ConnectionError as error:
        log.debug("call ended method=%s reason=%s", path, error)
        raise asyncio.CancelledError from error
    except Exception as error:
        log.exception("call failed method=%s", path)
        status, text = grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"
    await context.abort(status, text)
    return None


def _method(path: str, method: Unary | Streaming) -> grpc.RpcMethodHandler[bytes, bytes]:
    if isinstance(method, Unary):
        unary = method.handler

        async def serve_unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return await _guard(path, context, lambda: unary(request, _call(context))) or b""

        return grpc.unary_unary_rpc_method_handler(serve_unary)
    streaming = method.handler

    async def serve_stream(requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await _guard(path, context, lambda: streaming(_Stream(context), _call(context)))

    return grpc.stream_stream_rpc_method_handler(serve_stream)
