"""Choose how rules are written, and take away what another mode left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from net import xtables
from net.nftables import door as nftables_door
from net.nftables.errors import NftablesError
from net.proxy.applier import Applier, Mode
from net.proxy.apply import IptablesApplier
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.kernel_table import KernelTable
from net.proxy.rules import RuleSettings
from net.xtables import Backend, IptablesDoor, XtablesError

log = logging.getLogger(__name__)

IP_VERSIONS = (4, 6)
BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
MakeApplier = Callable[[RuleSettings], Applier]
Makers = Mapping[int, MakeApplier]
"""What makes the applier of each IP version."""


async def appliers(wanted: Mode, backend: Backend | str) -> dict[int, MakeApplier]:
    """Return what makes the appliers of each IP version; iptables where the kernel has no nf_tables."""
    if wanted == "nftables":
        if nftables_door.is_supported():
            kin: list[KernelTable] = []
            return dict.fromkeys(IP_VERSIONS, partial(NftablesApplier, kin=kin))
        log.warning("no nf_tables in the kernel, no right to use it, or no program nft: iptables writes the rules")
    chosen: Backend = await xtables.detect() if backend == "auto" else "legacy" if backend == "legacy" else "nft"
    log.info("iptables back end is chosen backend=%s wanted=%s", chosen, backend)
    return {version: partial(IptablesApplier, IptablesDoor(chosen, version)) for version in IP_VERSIONS}


async def remove_iptables_rules(ip_version: int) -> None:
    """Take kube-proxy's chains away from either back end that holds any."""
    for backend in BACKENDS:
        door = IptablesDoor(backend, ip_version)
        try:
            if await door.holds("KUBE-"):
                await IptablesApplier(door, RuleSettings(ip_version=ip_version)).clean_up()
                log.info("rules of another mode are removed mode=iptables backend=%s family=%d", backend, ip_version)
        except XtablesError as error:
            log.warning("rules of another mode may be left backend=%s family=%d error=%s", backend, ip_version, error)


def remove_nftables_rules(ip_version: int) -> None:
    """Take the table kube-proxy away, whoever made it."""
    try:
        kernel = KernelTable(RuleSettings(ip_version=ip_version))
    except OSError as error:
        log.debug("no nf_tables here error=%s", error)
        return
    try:
        if kernel.delete():
            log.info("rules of another mode are removed mode=nftables family=%d", ip_version)
    except NftablesError as error:
        log.warning("rules of another mode may be left mode=nftables family=%d error=%s", ip_version, error)
    finally:
        kernel.close()


async def remove_other_modes(mode: Mode, ip_version: int) -> None:
    """Leave the rules of one mode alone in force."""
    if mode == "nftables":
        await remove_iptables_rules(ip_version)
    else:
        remove_nftables_rules(ip_version)


async def clean_up() -> None:
    """Take the rules of all modes away."""
    for version in IP_VERSIONS:
        await remove_iptables_rules(version)
        remove_nftables_rules(version)
