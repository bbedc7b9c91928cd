"""grpc.health.v1.Health: what gRPC's own probes and balancers ask a member.

As with etcd the server as a whole, the service without a name, is all that has a status. It says that calls are
answered, not that there is a leader: that is for ``/readyz`` to say.
"""

from __future__ import annotations

import asyncio

from proto.health.health_pb2 import HealthCheckRequest, HealthCheckResponse
from store.api.backend import decode
from store.api.errors import Code, EtcdError
from store.api.table import Call, ServiceTable, Stream, Streaming, Unary

_SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_SERVICE_UNKNOWN = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class GrpcHealthService:
    """A member that answers at all serves."""

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {
            "/grpc.health.v1.Health/Check": Unary(self.check),
            "/grpc.health.v1.Health/Watch": Streaming(self.watch, client_streaming=False),
        }

    async def check(self, body: bytes, call: Call) -> bytes:
        """Tell the status; NOT_FOUND for the name of a service."""
        if decode(HealthCheckRequest, body).service:
            raise EtcdError(Code.NOT_FOUND, "unknown service")
        return _SERVING

    async def watch(self, stream: Stream, call: Call) -> None:
        """Tell the status once; it changes with the connection's end alone."""
        request = decode(HealthCheckRequest, await stream.read() or b"")
        await stream.write(_SERVICE_UNKNOWN if request.service else _SERVING)
        await asyncio.Event().wait()
