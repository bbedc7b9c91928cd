"""Whether this server lives and is ready."""

from __future__ import annotations

from collections.abc import Callable

from control.api import status
from control.apiserver.rest.exchange import Exchange

TEXT = b"text/plain; charset=utf-8"
Check = Callable[[], str]
"""Returns what is wrong, empty for nothing."""


class Health:
    """Named checks behind /healthz, /livez and /readyz."""

    def __init__(self, live: dict[str, Check], ready: dict[str, Check]) -> None:
        self._live = live
        self._ready = {**live, **ready}

    async def serve(self, exchange: Exchange, parts: list[str]) -> None:
        """Answer one of the health paths."""
        checks = self._ready if parts[0] == "readyz" else self._live
        if len(parts) > 1:
            name = "/".join(parts[1:])
            if name not in checks:
                raise status.failure(404, "NotFound", "the server could not find the requested resource")
            checks = {name: checks[name]}
        excluded = set(exchange.query.get("exclude", ()))
        faults = {name: check() for name, check in checks.items() if name not in excluded}
        failed = any(faults.values())
        if not failed and "verbose" not in exchange.query:
            await exchange.answer(200, b"ok", TEXT)
            return
        lines = [f"[-]{name} failed: {fault}" if fault else f"[+]{name} ok" for name, fault in faults.items()]
        lines.append(f"{parts[0]} check {'failed' if failed else 'passed'}")
        await exchange.answer(500 if failed else 200, ("\n".join(lines) + "\n").encode(), TEXT)
