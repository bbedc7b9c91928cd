"""Keep the rules by which pods reach the outside: a table of nftables, and iptables' chains where those stand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from net import chains, xtables
from net.chains import Tables
from net.nftables import door as nftables
from net.nftables.door import NftablesSocket
from net.nftables.operations import GETRULE, Table
from net.routes import masquerade
from net.routes.config import RoutesConfig
from net.routes.peers import Peer, version_of
from net.xtables import IptablesDoor, XtablesError

log = logging.getLogger(__name__)

LEGACY_TABLES = {4: "ip_tables_names", 6: "ip6_tables_names"}
FILTER_TABLES = {4: Table("ip", "filter"), 6: Table("ip6", "filter")}
OUR_TABLE = Table("inet", masquerade.TABLE)
Fingerprint = tuple[tuple[tuple[int, bytes], ...], ...]


@dataclass(slots=True)
class _Family:
    """Hold the iptables door of one IP version and what stands behind it."""

    door: IptablesDoor
    standing: Tables | None = None
    passes: bool = False
    """Whether iptables' filter table was in use at the last look, so that our rule stands in it."""


@dataclass(slots=True)
class Outside:
    """Bring the rules for pods' packets to what is wanted; without any door, nothing is done."""

    config: RoutesConfig
    uses_nftables: bool = False
    families: dict[int, _Family] = field(default_factory=dict)
    _loaded: str = ""
    _fingerprint: Fingerprint = ()
    _generation: int = 0

    def forget(self) -> None:
        """Read what stands anew at the next sync."""
        self._loaded = ""
        for family in self.families.values():
            family.standing = None

    async def sync(self, own: Peer, peers: Mapping[str, Peer]) -> None:
        """Write what differs from the wanted rules; raises NftablesError or XtablesError."""
        if not own.pod_cidrs:
            return
        cluster_cidrs = tuple(cidr for cidr in self.config.cluster_cidr.split(",") if cidr)
        if self.uses_nftables:
            await self._sync_table(masquerade.table(own, peers.values(), cluster_cidrs))
        for version, family in self.families.items():
            if any(version_of(cidr) == version for cidr in own.pod_cidrs):
                await self._sync_chains(family, version, own, peers, cluster_cidrs)

    async def _sync_table(self, wanted: str) -> None:
        if wanted == self._loaded and self._table_stands():
            return
        await nftables.load(wanted)
        with NftablesSocket() as socket:
            self._generation = socket.generation()
            self._fingerprint = _fingerprint(socket)
        self._loaded = wanted
        log.info("masquerade table is set table=%s", OUR_TABLE)

    def stands(self) -> bool:
        """Tell whether the rules are as we loaded them; a matter of microseconds while nobody changes any."""
        return self._table_stands() and all(
            family.passes == _filter_stands(family.door)
            for family in self.families.values()
            if family.standing is not None
        )

    def _table_stands(self) -> bool:
        if not self.uses_nftables or not self._loaded:
            return True
        with NftablesSocket() as socket:
            generation = socket.generation()
            if generation == self._generation:
                return True
            if _fingerprint(socket) != self._fingerprint:
                return False
            self._generation = generation
            return True

    async def _sync_chains(
        self, family: _Family, version: int, own: Peer, peers: Mapping[str, Peer], cluster_cidrs: tuple[str, ...]
    ) -> None:
        with_masquerade = not self.uses_nftables
        with_forward = family.passes = _filter_stands(family.door)
        jumps = masquerade.jumps(with_masquerade, with_forward)
        if family.standing is None:
            family.standing = {}
            for table in jumps:
                if with_masquerade or with_forward:
                    family.standing |= chains.parse(await family.door.save(table), masquerade.owned)
        wanted = masquerade.rules(own, peers.values(), cluster_cidrs, version, with_masquerade, with_forward)
        text = chains.difference(family.standing, wanted, jumps, masquerade.owned)
        if text:
            await family.door.restore(text)
            log.info("iptables rules for pods are set ip_version=%d pod_cidrs=%s", version, ",".join(own.pod_cidrs))
        family.standing = chains.merged(family.standing, wanted, jumps, masquerade.owned)


def _fingerprint(socket: NftablesSocket) -> Fingerprint:
    return tuple(tuple(sorted(part.items())) for part in socket.parts(OUR_TABLE, GETRULE))


def _filter_stands(door: IptablesDoor) -> bool:
    """Tell whether iptables' filter table is in use; asking its own programs would make one."""
    if door.backend == "nft":
        with NftablesSocket() as socket:
            return FILTER_TABLES[door.ip_version] in socket.tables()
    try:
        return "filter" in Path("/proc/thread-self/net", LEGACY_TABLES[door.ip_version]).read_text().split()
    except OSError:  # the kernel has no legacy iptables
        return False


async def open_doors(config: RoutesConfig) -> Outside:
    """Return the doors that this node has: nftables before iptables, and iptables only where it is installed."""
    outside = Outside(config)
    if not config.masquerade:
        return outside
    outside.uses_nftables = nftables.is_supported()
    for version in (4, 6):
        try:
            outside.families[version] = _Family(await xtables.open_door(config.iptables_backend, version))
        except XtablesError as error:
            if not outside.uses_nftables:
                raise
            log.info("iptables is not used ip_version=%d reason=%s", version, error)
    return outside
