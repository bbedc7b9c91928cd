"""Bring the kernel's rules to what is wanted, and write nothing where nothing differs.

Theory of operation
-------------------
The first `sync` reads what stands; later ones remember what they wrote. A sync renders the services
that changed, compares chain by chain and commits one iptables-restore of the difference. Where the
kernel refuses it, the changed services are split in half and tried again, down to the one that is
at fault: it keeps its old rules, everyone else gets their new ones. `forget` makes the next sync
read the kernel again, which a canary chain that vanished, or a failure, asks for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Set
from dataclasses import dataclass, field

from net import chains
from net.chains import Tables
from net.proxy import iptables, iptables_counters
from net.proxy.applier import Mode, Services, SyncResult
from net.proxy.iptables import CANARY, PortText
from net.proxy.rules import PortRules, RuleSettings
from net.xtables import Xtables, XtablesError

log = logging.getLogger(__name__)

SHARED_CHAINS = frozenset(
    {
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        CANARY,
    }
)
RENDERED_INLINE_MAX = 200
OWN_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-")


def owned(chain: str) -> bool:
    """Tell whether a chain is kube-proxy's; the kubelet and others have KUBE- chains too."""
    return chain in SHARED_CHAINS or chain.startswith(OWN_PREFIXES)


ServiceText = tuple[PortText, ...]


@dataclass(slots=True)
class IptablesApplier:
    """Own kube-proxy's chains of one address family."""

    door: Xtables
    settings: RuleSettings
    mode: Mode = "iptables"
    _standing: Tables | None = None
    _accepted: dict[str, ServiceText] = field(default_factory=dict)
    _refused: dict[str, ServiceText] = field(default_factory=dict)
    _rendered: dict[str, tuple[tuple[PortRules, ...], ServiceText]] = field(default_factory=dict)
    _sparing: bool = False

    last_read_s: float = 0.0
    """How long the last reading of the kernel's rules took, in seconds."""

    def use(self, settings: RuleSettings) -> None:
        """Take new settings; everything is rendered anew when they differ."""
        if settings != self.settings:
            self.settings = settings
            self._rendered.clear()
            self._accepted.clear()
            self._refused.clear()

    def forget(self) -> None:
        """Read the kernel again at the next sync, and try again what it refused."""
        self._standing = None
        self._refused.clear()

    async def sync(self, services: Services, changed: Set[str] | None = None) -> SyncResult:
        """Bring the kernel to these rules; raises XtablesError where nothing could be written."""
        result = SyncResult()
        # Thousands of services take seconds to render, and this process has more to do than that.
        many = len(services) - len(self._rendered) > RENDERED_INLINE_MAX
        texts = await asyncio.to_thread(self._render, services) if many else self._render(services)
        for gone in self._accepted.keys() - texts.keys():
            del self._accepted[gone]
        for name in [name for name, text in self._refused.items() if texts.get(name) is not text]:
            del self._refused[name]
        waiting = {
            name: text
            for name, text in texts.items()
            if self._accepted.get(name) is not text and name not in self._refused
        }
        await self._commit(waiting, result)
        return result

    def _render(self, services: Services) -> dict[str, ServiceText]:
        rendered: dict[str, tuple[tuple[PortRules, ...], ServiceText]] = {}
        sparing = iptables.is_large(port for ports in services.values() for port in ports)
        if sparing is not self._sparing:
            self._sparing = sparing
            self._rendered = {}
        for name, ports in services.items():
            known = self._rendered.get(name)
            if known is None or known[0] is not ports:
                known = (ports, tuple(iptables.render_port(port, self.settings, sparing) for port in ports))
            rendered[name] = known
        self._rendered = rendered
        return {name: text for name, (_, text) in rendered.items()}

    async def _commit(self, waiting: dict[str, ServiceText], result: SyncResult) -> None:
        candidate = {**self._accepted, **waiting}
        try:
            result.written_bytes += await self._write(candidate)
        except XtablesError as error:
            # A restore of several tables may have done the first one: what stands is no longer known.
            self._standing = None
            if error.is_passing or not waiting:
                raise
            if len(waiting) == 1:
                ((name, text),) = waiting.items()
                self._refused[name] = text
                result.refused[name] = str(error)
                log.error("service is refused by the kernel and keeps its old rules service=%s error=%s", name, error)
                return
            names = sorted(waiting)
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                await self._commit({name: waiting[name] for name in half}, result)
            return
        self._accepted = candidate

    async def _write(self, services: dict[str, ServiceText]) -> int:
        standing = self._standing
        if standing is None:
            standing = await self._read()
        ordered = [text for name in sorted(services) for text in services[name]]
        wanted = iptables.assemble(self.settings, ordered)
        text = chains.difference(standing, wanted, iptables.JUMPS, owned)
        if text:
            await self.door.restore(text)
        self._standing = chains.merged(standing, wanted, iptables.JUMPS, owned)
        return len(text)

    async def _read(self) -> Tables:
        began = time.perf_counter()
        standing: Tables = {}
        for table in ("nat", "filter", "mangle"):
            standing.update(chains.parse(await self.door.save(table), owned))
        self.last_read_s = time.perf_counter() - began
        return standing

    async def stands(self) -> bool:
        """Tell whether our chains are still there; a flush by hand takes the canary first."""
        return await self.door.chain_stands("nat", CANARY)

    async def disturbed(self, interval_s: float) -> str:
        """Wait until the canary has gone."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                if not await self.stands():
                    return f"chain {CANARY} is gone"
            except XtablesError as error:
                log.warning("canary cannot be seen error=%s", error)

    async def connections(self) -> dict[bytes, int]:
        """Return how many connections each front has seen since its chain was last written, by its key."""
        return iptables_counters.connections(await self.door.save("nat", counters=True))

    def close(self) -> None:
        """Do nothing: no socket is kept."""

    async def clean_up(self) -> None:
        """Take every chain and jump of kube-proxy away."""
        standing = await self._read()
        text = chains.difference(standing, {}, {}, owned)
        if text:
            await self.door.restore(text)
        self._standing, self._accepted = None, {}
