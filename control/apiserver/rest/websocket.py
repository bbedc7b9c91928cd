"""A WebSocket request before it is accepted: refusals are plain HTTP answers with a Status."""

from __future__ import annotations

from typing import Any

from control.apiserver.request import ASGIScope, Receive, Send
from control.apiserver.rest.exchange import Exchange


class WebSocketExchange(Exchange):
    """Turns the answers of HTTP into ASGI's denial of a handshake; what handlers send passes through."""

    def __init__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        super().__init__({**scope, "method": "GET"}, receive, send)

    async def send(self, message: Any) -> None:
        """Send a message; an HTTP answer is sent as the handshake's denial."""
        if message["type"].startswith("http."):
            message = {**message, "type": "websocket." + message["type"]}
        await super().send(message)
