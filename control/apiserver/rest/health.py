"""Whether this server lives and is ready, check by check."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from control.apiserver.metrics import Metrics
from control.apiserver.rest.exchange import Exchange
from control.apiserver.service import unknown_path

log = logging.getLogger(__name__)

TEXT = b"text/plain; charset=utf-8"
_NO_SNIFF = ((b"x-content-type-options", b"nosniff"),)
Check = Callable[[], Awaitable[str]]
"""Returns what is wrong, empty for nothing."""


async def fine() -> str:
    """Find nothing wrong: the check of whether anything answers at all."""
    return ""


def hook(done: Callable[[], bool]) -> Check:
    """Return the check of something that has to happen once after the start."""

    async def check() -> str:
        return "" if done() else "not finished"

    return check


class Health:
    """Named checks behind /healthz, /livez and /readyz."""

    def __init__(self, live: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        """Take the checks of whether it lives, and those that readiness needs beside them."""
        self._checks = {"healthz": dict(live), "livez": dict(live), "readyz": {**live, **ready}}
        self.slis = Metrics()
        """What the checks found, for those who judge how good the service is."""
        self._last = self.slis.gauge(
            "kubernetes_healthcheck", "The result of a check, 1 for success.", ("name", "type")
        )
        self._totals = self.slis.counter(
            "kubernetes_healthchecks_total", "The results of all checks.", ("name", "status", "type")
        )

    @property
    def paths(self) -> list[str]:
        """Where each check may be asked for itself."""
        return [f"/{path}/{name}" for path, checks in self._checks.items() for name in checks]

    async def _ask(self, path: str, name: str, check: Check) -> str:
        """Return what a check finds, and count it."""
        fault = await check()
        self._last.set(0 if fault else 1, name, path)
        self._totals.add(name, "error" if fault else "success", path)
        return fault

    async def serve(self, exchange: Exchange, parts: list[str]) -> None:
        """Answer one of the health paths."""
        checks = self._checks[parts[0]]
        if len(parts) > 1:
            await self._one(exchange, parts[0], "/".join(parts[1:]))
        else:
            await self._all(exchange, parts[0], checks)

    async def _one(self, exchange: Exchange, path: str, name: str) -> None:
        check = self._checks[path].get(name)
        if check is None:
            raise unknown_path()
        if fault := await self._ask(path, name, check):
            await exchange.answer(500, f"internal server error: {fault}\n".encode(), TEXT, _NO_SNIFF)
        else:
            await exchange.answer(200, b"ok", TEXT)

    async def _all(self, exchange: Exchange, path: str, checks: Mapping[str, Check]) -> None:
        excluded = set(exchange.query.get("exclude", ()))
        lines: list[str] = []
        failed: list[str] = []
        for name, check in checks.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
            elif fault := await self._ask(path, name, check):
                # Everybody may ask here: why it failed stands on the check's own path and in the log.
                lines.append(f"[-]{name} failed: reason withheld")
                failed.append(f"{name}: {fault}")
            else:
                lines.append(f"[+]{name} ok")
        if unknown := sorted(excluded - set(checks)):
            names = ",".join(f'"{name}"' for name in unknown)
            lines.append(f"warn: some health checks cannot be excluded: no matches for {names}")
        if failed:
            log.info("%s check failed checks=%s", path, "; ".join(failed))
            lines.append(f"{path} check failed")
            await exchange.answer(500, ("\n".join(lines) + "\n").encode(), TEXT, _NO_SNIFF)
            return
        if "verbose" not in exchange.query:
            await exchange.answer(200, b"ok", TEXT, _NO_SNIFF)
            return
        lines.append(f"{path} check passed")
        await exchange.answer(200, ("\n".join(lines) + "\n").encode(), TEXT, _NO_SNIFF)
