"""Send one packet and hear what the kernels tell of it: the only part of an explanation that writes.

What it writes are a table of its own per node (nftables), or rules of table raw (legacy iptables), and it takes them
away in any case; what a killed tracer left is removed by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from net import chains, xtables
from net.explain import trace
from net.explain.reader import namespace
from net.explain.steps import Explanation
from net.explain.trace import Flow, Heard, Line
from net.nftables import door as nftables
from net.nftables.door import NftablesSocket
from net.nftables.operations import DeleteTable, Table
from net.nftables.traces import NftablesTraces, Traced

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 2.0
QUIET_S = 0.3
LOG_ALL_NAMESPACES = Path("/proc/sys/net/netfilter/nf_log_all_netns")
KERNEL_LOG = Path("/dev/kmsg")
KERNEL_LOG_LINE_BYTES = 8192
LIST_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Sent:
    """Hold what became of one packet, as its sender sees it."""

    answered: bool
    outcome: str
    port: int = 0
    """The port that it was sent from."""


def send(protocol: str, source: str, destination: tuple[str, int]) -> Sent:
    """Send one packet from this thread's namespace and wait for an answer."""
    family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
    if protocol not in ("TCP", "UDP"):
        return Sent(False, f"it was not sent: {protocol} is not supported by --trace")
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as client:
        client.settimeout(ANSWER_TIMEOUT_S)
        # A reset at the end: the connection leaves nothing behind.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        began, port = time.monotonic(), 0
        try:
            client.bind((source, 0))
            port = client.getsockname()[1]
            client.connect(destination)
            if protocol == "UDP":
                client.send(b"\0")
                client.recv(1)
        except TimeoutError:
            also = "" if protocol == "TCP" else ", and a UDP server need not give one"
            return Sent(False, f"no answer came within {ANSWER_TIMEOUT_S:.0f} s{also}", port)
        except OSError as error:
            return Sent(False, f"the kernel says: {error.strerror or error}", port)
        return Sent(True, f"answered after {(time.monotonic() - began) * 1000:.1f} ms", port)


@contextmanager
def _tracing_in(network: Path, flow: Flow) -> Iterator[NftablesTraces]:
    """Mark the flow's packets in a namespace and listen; this thread is there at the begin and at the end alone."""
    name = f"{trace.TABLE_PREFIX}{os.getpid()}"
    with namespace(network):
        _remove_left_behind()
        traces = NftablesTraces()
        asyncio.run(nftables.load(trace.nft_table(name, flow)))
    try:
        yield traces
    finally:
        traces.close()
        with namespace(network), NftablesSocket() as door:
            door.batch([DeleteTable(Table("inet", name))])


def _remove_left_behind() -> None:
    with NftablesSocket() as door:
        for table in door.tables():
            pid = table.name.removeprefix(trace.TABLE_PREFIX)
            if pid != table.name and pid.isdigit() and not Path("/proc", pid).exists():
                log.warning("the table of a dead tracer is removed table=%s", table)
                door.batch([DeleteTable(table)])


def rule_texts(heard: list[Traced]) -> dict[tuple[str, str, str, int], str]:
    """Ask nft, in this namespace, for the texts of the rules that were heard of."""
    found: dict[tuple[str, str, str, int], str] = {}
    for family, table in {(event.family, event.table) for event in heard}:
        command = ["nft", "-a", "-t", "list", "table", family, table]
        environment = {"PATH": nftables.SEARCH_PATH, "LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIST_TIMEOUT_S, env=environment, check=False
        )
        texts = trace.rule_texts(done.stdout)
        found |= {(family, table, chain, handle): text for (chain, handle), text in texts.items()}
    return found


def by_nftables(
    explanation: Explanation, networks: Mapping[str, Path], sender: Path, flows: Mapping[str, Flow], source: str
) -> Heard:
    """Trace through all rules of nftables, those of iptables-nft among them."""
    with ExitStack() as stack:
        listening: dict[str, NftablesTraces] = {}
        for node, flow in flows.items():
            if node in networks:
                listening[node] = stack.enter_context(_tracing_in(networks[node], flow))
        with namespace(sender):
            sent = send(explanation.protocol, source, explanation.destination)
        told: list[Line] = []
        for node, traces in listening.items():
            heard = traces.read(QUIET_S, QUIET_S)
            with namespace(networks[node]):
                texts = rule_texts(heard)
            told += trace.lines(explanation, node, heard, texts, partial(flows[node].has, port=sent.port))
    notes = tuple(f"Node {node} cannot be looked into from here." for node in flows if node not in networks)
    return Heard(sent.outcome, sent.answered, tuple(told), notes)


def by_kernel_log(
    explanation: Explanation, networks: Mapping[str, Path], sender: Path, flows: Mapping[str, Flow], source: str
) -> Heard:
    """Trace through legacy iptables: its TRACE target tells the kernel's log, which is read for a moment."""
    told: list[Line] = []
    sent = Sent(False, "no packet was sent")
    for node in [node for node in flows if node in networks]:
        # One node after the other: the log does not say whose line it is.
        with _all_namespaces_logged(), _kernel_log() as read, _raw_rules(flows[node], networks[node]):
            with namespace(sender):
                sent = send(explanation.protocol, source, explanation.destination)
            found = read()
        with namespace(networks[node]):
            standing = asyncio.run(_legacy_chains(flows[node].ip_version))
        told += trace.logged(explanation, node, found, standing, partial(flows[node].has, port=sent.port))
    notes = ("Legacy iptables tells the kernel's log alone, so each node's way was asked for by a packet of its own.",)
    return Heard(sent.outcome, sent.answered, tuple(told), notes)


async def _legacy_chains(ip_version: int) -> dict[tuple[str, str], tuple[str, ...]]:
    door = xtables.IptablesDoor("legacy", 6 if ip_version == 6 else 4)
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for table in ("mangle", "nat", "filter"):
        for name, held in chains.parse(await door.save(table)).items():
            found |= {(name, chain): rules for chain, rules in held.items()}
    return found


@contextmanager
def _raw_rules(flow: Flow, network: Path) -> Iterator[None]:
    door = xtables.IptablesDoor("legacy", 6 if flow.ip_version == 6 else 4)
    rules = trace.iptables_rules(flow)

    def text(action: str) -> str:
        return "\n".join(["*raw", *(f"-{action} {chain} {rule}" for chain, rule in rules), "COMMIT\n"])

    with namespace(network):
        asyncio.run(door.restore(text("I")))
    try:
        yield
    finally:
        with namespace(network):
            asyncio.run(door.restore(text("D")))


@contextmanager
def _all_namespaces_logged() -> Iterator[None]:
    """Have the kernel log other namespaces' packets too, for the moment."""
    before = LOG_ALL_NAMESPACES.read_text().strip() if LOG_ALL_NAMESPACES.exists() else "1"
    if before != "1":
        LOG_ALL_NAMESPACES.write_text("1")
    try:
        yield
    finally:
        if before != "1":
            LOG_ALL_NAMESPACES.write_text(before)


@contextmanager
def _kernel_log() -> Iterator[Callable[[], list[str]]]:
    descriptor = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, 0, os.SEEK_END)

        def read() -> list[str]:
            found = []
            while select.select([descriptor], [], [], QUIET_S)[0]:
                try:
                    found.append(os.read(descriptor, KERNEL_LOG_LINE_BYTES).decode(errors="replace"))
                except BlockingIOError:
                    break
                except BrokenPipeError:
                    continue  # older lines were overwritten
            return found

        yield read
    finally:
        os.close(descriptor)
