"""The only door to the iptables programs: which back end stands on this node, save, restore.

The legacy and the nf_tables back end are two rule sets in one kernel; rules in both would translate
addresses twice. So the back end is chosen once: the one that already holds Kubernetes' or our
chains, else the one that this machine's `iptables` stands for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

log = logging.getLogger(__name__)

Backend = Literal["legacy", "nft"]
LOCK_WAIT_S = 5
RUN_TIMEOUT_S = 120.0
EXIT_RESOURCE = 4
"""iptables' exit code where it could not get the lock or the kernel's memory: try again."""
SEARCH_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
HINT_CHAINS = (":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY")
"""Chains by which kubelets tell everybody the back end."""
OUR_CHAINS = (":KUBE-", ":RAFTSMAN-")


class XtablesError(Exception):
    """An iptables program failed; its words say why."""

    def __init__(self, message: str, code: int = 1) -> None:
        self.code = code
        super().__init__(message)

    @property
    def is_passing(self) -> bool:
        """Whether the same input may succeed later."""
        return self.code == EXIT_RESOURCE


class Xtables(Protocol):
    """What the rest of the network needs of iptables; tests have an interpreter in its place."""

    async def save(self, table: str, *, counters: bool = False) -> str:
        """Return iptables-save's output for one table."""
        ...

    async def restore(self, text: str) -> None:
        """Apply iptables-restore --noflush input, each table atomically."""
        ...

    async def chain_stands(self, table: str, chain: str) -> bool:
        """Tell whether a chain exists."""
        ...


@dataclass(frozen=True, slots=True)
class IptablesDoor:
    """Run the programs of one back end."""

    backend: Backend
    ip_version: int = 4

    def _program(self, suffix: str) -> str:
        family = "ip6tables" if self.ip_version == 6 else "iptables"
        name = f"{family}-{self.backend}{suffix}"
        found = shutil.which(name, path=SEARCH_PATH) or shutil.which(f"{family}{suffix}", path=SEARCH_PATH)
        if found is None:
            raise XtablesError(f"{name} is not installed: install the package iptables")
        return found

    async def save(self, table: str, *, counters: bool = False) -> str:
        """Return iptables-save's output for one table."""
        return await _run([self._program("-save"), *(["-c"] if counters else []), "-t", table])

    async def restore(self, text: str) -> None:
        """Apply iptables-restore --noflush input, each table atomically."""
        await _run([self._program("-restore"), "-w", str(LOCK_WAIT_S), "--noflush"], text)

    async def chain_stands(self, table: str, chain: str) -> bool:
        """Tell whether a chain exists."""
        try:
            await _run([self._program(""), "-w", str(LOCK_WAIT_S), "-t", table, "-S", chain, "1"])
        except XtablesError as error:
            if error.is_passing:
                raise
            return False
        return True

    async def holds(self, prefix: str) -> bool:
        """Tell whether any chain's name begins so; a look makes no table where there was none."""
        if self.backend == "legacy" and not _legacy_tables(self.ip_version):
            return False
        if not shutil.which(f"ip{'6' if self.ip_version == 6 else ''}tables-{self.backend}-save", path=SEARCH_PATH):
            return False
        saved = await _run([self._program("-save")])
        return any(line.startswith(f":{prefix}") for line in saved.splitlines())


async def open_door(wanted: Backend | Literal["auto"] = "auto", ip_version: int = 4) -> IptablesDoor:
    """Return the door to the wanted back end, or to the one that this node uses."""
    backend = await detect() if wanted == "auto" else wanted
    log.info("iptables back end is chosen backend=%s wanted=%s", backend, wanted)
    return IptablesDoor(backend, ip_version)


async def detect() -> Backend:
    """Find the back end in use, which is one for both families.

    It is the one with the kubelet's hints; else with more of Kubernetes' and our chains, else with more rules at all,
    else the one that this machine's `iptables` stands for.
    """
    counts: dict[Backend, tuple[int, int, int]] = {}
    for backend in BACKENDS:
        saved = ""
        for family, ip_version in (("iptables", 4), ("ip6tables", 6)):
            program = f"{family}-{backend}-save"
            # Without -t it prints the tables that exist; naming one would create it, and nft would warn for ever.
            exists = backend == "nft" or _legacy_tables(ip_version)
            if exists and shutil.which(program, path=SEARCH_PATH):
                saved += await _run([program])
        counts[backend] = _weigh(saved)
    if counts["nft"] != counts["legacy"]:
        return "nft" if counts["nft"] > counts["legacy"] else "legacy"
    version = await _run(["iptables", "--version"])
    return "legacy" if "legacy" in version else "nft"


def _weigh(saved: str) -> tuple[int, int, int]:
    lines = saved.splitlines()
    hints = sum(1 for line in lines if line.startswith(HINT_CHAINS))
    ours = sum(1 for line in lines if line.startswith(OUR_CHAINS))
    return hints, ours, sum(1 for line in lines if line.startswith("-A"))


def _legacy_tables(ip_version: int = 4) -> str:
    try:
        return Path("/proc/thread-self/net", f"ip{'6' if ip_version == 6 else ''}_tables_names").read_text()
    except OSError:  # the kernel has no legacy iptables
        return ""


async def _run(command: list[str], stdin: str | None = None) -> str:
    # Files in memory rather than pipes: eight megabytes in pieces of a pipe's size take longer than all the rest.
    with _memory(b"" if stdin is None else stdin.encode()) as given, _memory() as taken:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=given, stdout=taken, stderr=asyncio.subprocess.PIPE,
                env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
            )  # fmt: skip
        except FileNotFoundError as error:
            raise XtablesError(f"{command[0]} is not installed: install the package iptables") from error
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                _, err = await process.communicate()
        except TimeoutError as error:
            raise XtablesError(f"{command[0]} did not end in {RUN_TIMEOUT_S:.0f} s", EXIT_RESOURCE) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            told = err.decode(errors="replace").strip()
            raise XtablesError(f"{command[0]}: {told}{_around(told, stdin)}", process.returncode)
        taken.seek(0)
        return taken.read().decode(errors="replace")


def _memory(content: bytes = b"") -> BinaryIO:
    opened = os.fdopen(os.memfd_create("xtables"), "w+b")
    opened.write(content)
    opened.seek(0)
    return opened


def _around(told: str, stdin: str | None) -> str:
    """Quote the input's line that an error names, as "line 7 failed" alone helps nobody."""
    words = told.replace(":", " ").split()
    for word, following in itertools.pairwise(words):
        if stdin is not None and word == "line" and following.isdigit():
            lines = stdin.splitlines()
            number = int(following)
            if 0 < number <= len(lines):
                return f" [{lines[number - 1]}]"
    return ""
