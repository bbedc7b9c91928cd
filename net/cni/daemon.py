"""Answer CNI calls: allocate, remember, wire, in an order that survives a crash at any point.

    ADD   claim in memory → gate → claim on disk → interface → answer      DEL   interface → claim → disk → answer

So every interface has a claim on disk. A claim without an interface is harmless: the next ADD of
the same attachment completes it, DEL or the garbage collector drops it. Calls of one attachment
run one after another; those of different ones side by side, their disk writes joined.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from net import netlink
from net.cni import hostports, spec, wiring
from net.cni.gate import OPEN, Gate, NotYet, PodReference
from net.cni.hostports import HostPorts
from net.cni.spec import CniError, Request
from net.ipam import files
from net.ipam.allocator import Allocator, Attachment, Claim, RangeExhaustedError
from net.netlink import NetlinkError
from net.xtables import XtablesError

log = logging.getLogger(__name__)

T = TypeVar("T")
FindPod = Callable[[Request], Awaitable[PodReference | None]]
"""Waits a while until the informer knows the request's pod; None when it does not."""
STATE_FILE = "addresses.state"


@dataclass(slots=True)
class StateKeeper:
    """Write the allocator's state to disk; callers that wait at once share one write."""

    path: Path
    allocator: Allocator
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: int = 0
    _written: int = 0

    async def persist(self) -> None:
        """Return once the state as it is now is on disk."""
        self._asked += 1
        wanted = self._asked
        async with self._lock:
            if self._written >= wanted:
                return
            covered, state = self._asked, self.allocator.to_state()
            await asyncio.to_thread(files.save, self.path, state)
            self._written = covered


@dataclass(slots=True)
class CniDaemon:
    """Own the pod interfaces of one node."""

    allocator: Allocator
    keeper: StateKeeper
    mtu: Callable[[], int]
    find_pod: FindPod | None = None
    gate: Gate = OPEN
    gate_wait_s: float = 8.0
    threads: int = 4
    calls_max: int = 256
    host_ports: HostPorts | None = None
    _pool: ThreadPoolExecutor = field(init=False)
    _locks: dict[Attachment, tuple[asyncio.Lock, int]] = field(default_factory=dict)
    _calls: int = 0

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="cni-wiring")

    def close(self) -> None:
        """End the wiring threads once their work is done."""
        self._pool.shutdown()

    async def handle(self, data: bytes) -> bytes:
        """Answer one shim's bytes."""
        version = spec.SUPPORTED_VERSIONS[-1]
        self._calls += 1
        began = time.monotonic()
        try:
            if self._calls > self.calls_max:
                raise CniError(spec.TRY_AGAIN_LATER, "too many calls at once")
            request = spec.parse_request(data)
            version = request.version
            told = await self._dispatch(request)
        except CniError as error:
            log.warning("call failed code=%d error=%s details=%s", error.code, error.message, error.details)
            return spec.answer(error.to_object(version), 1)
        finally:
            self._calls -= 1
        log.debug("call is answered command=%s ms=%.1f", request.command, (time.monotonic() - began) * 1000)
        return spec.answer(told, 0)

    async def _dispatch(self, request: Request) -> dict[str, Any] | None:
        match request.command:
            case "VERSION":
                return spec.version_result()
            case "STATUS":
                self._check_status()
                return None
            case "GC":
                await self._collect_for(request)
                return None
        if request.plugin == "loopback":
            return await self._loopback(request)
        attachment = Attachment(request.container_id, request.interface)
        async with self._exclusive(attachment):
            match request.command:
                case "ADD":
                    return await self._add(request, attachment)
                case "DEL":
                    await self._remove(attachment)
                    return None
                case _:
                    await self._check(request, attachment)
                    return None

    @asynccontextmanager
    async def _exclusive(self, attachment: Attachment) -> AsyncIterator[None]:
        lock, users = self._locks.get(attachment, (asyncio.Lock(), 0))
        self._locks[attachment] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[attachment]
            if users == 1:
                del self._locks[attachment]
            else:
                self._locks[attachment] = (lock, users - 1)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run blocking work; a caller that goes away does not leave it half done unseen."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*arguments))

    def _check_status(self) -> None:
        if self.allocator.cidr is None:
            raise CniError(spec.NOT_AVAILABLE, "the node has no pod CIDR yet")

    async def _loopback(self, request: Request) -> dict[str, Any] | None:
        if request.command == "ADD":
            try:
                await self._in_thread(wiring.set_loopback_up, request.namespace_path)
            except OSError as error:
                raise CniError(spec.IO_FAILURE, "lo cannot be set up", str(error)) from error
            return spec.loopback_result(request.version, request.namespace_path)
        return None

    async def _add(self, request: Request, attachment: Attachment) -> dict[str, Any]:
        if self.allocator.cidr is None:
            raise CniError(spec.TRY_AGAIN_LATER, "the node has no pod CIDR yet")
        if not netlink.is_namespace(request.namespace_path):
            raise CniError(spec.IO_FAILURE, f"{request.namespace_path} is not a network namespace")
        pod = await self._pod_of(request)
        wanted = Claim(
            attachment,
            "",
            request.namespace_path,
            wiring.host_interface(attachment),
            request.pod,
            pod.uid,
            hostports.parse((request.configuration.get("runtimeConfig") or {}).get("portMappings") or ()),
        )
        try:
            claim = self.allocator.allocate(wanted, time.monotonic())
        except RangeExhaustedError as error:
            raise CniError(spec.TRY_AGAIN_LATER, str(error)) from error
        await self._pass_gate(claim, pod)
        plan = wiring.Plan(attachment, request.namespace_path, claim.address, self.mtu())
        try:
            await self.keeper.persist()
            await self._in_thread(wiring.attach, plan)
            await self._sync_host_ports(claim)
        except (OSError, XtablesError) as error:
            await self._remove(attachment)
            raise CniError(spec.WIRING_FAILED, f"{request.interface} cannot be wired", str(error)) from error
        wired = spec.Wired(
            claim.address,
            wiring.GATEWAY,
            plan.host_interface,
            wiring.HOST_MAC,
            request.interface,
            plan.mac,
            plan.mtu,
            request.namespace_path,
        )
        return spec.result(request.version, wired, request.configuration.get("prevResult"))

    async def _pod_of(self, request: Request) -> PodReference:
        if self.find_pod is None:
            namespace, _, name = request.pod.rpartition("/")
            return PodReference(namespace, name, request.pod_uid)
        pod = await self.find_pod(request)
        if pod is None:
            raise CniError(spec.TRY_AGAIN_LATER, f"pod {request.pod} uid {request.pod_uid} is not known yet")
        return pod

    async def _pass_gate(self, claim: Claim, pod: PodReference) -> None:
        """Wait for the pod's isolation; a pod that may not pass holds nothing afterwards."""
        try:
            async with asyncio.timeout(self.gate_wait_s):
                await self.gate.admit(pod, (claim.address,))
        except (NotYet, TimeoutError) as error:
            await self._remove(claim.attachment)
            reason = str(error) or f"no answer within {self.gate_wait_s:g} s"
            raise CniError(
                spec.TRY_AGAIN_LATER, f"the isolation of pod {claim.pod} is not in force yet", reason
            ) from error

    def _release_gate(self, gone: Claim) -> None:
        """Tell the gate, unless another sandbox of the same pod lives."""
        if gone.pod_uid and not any(claim.pod_uid == gone.pod_uid for claim in self.allocator.claims.values()):
            self.gate.release(gone.pod_uid)

    async def admit_standing(self) -> None:
        """Pass the pods that were wired before a restart through the gate, for it has forgotten them."""
        waiting = list(self.allocator.claims.values())
        while waiting:
            passed = await asyncio.gather(*map(self._admit_standing, waiting))
            waiting = [claim for claim, is_done in zip(waiting, passed, strict=True) if not is_done]
            if waiting:
                await asyncio.sleep(self.gate_wait_s)

    async def _admit_standing(self, claim: Claim) -> bool:
        if self.allocator.find(claim.attachment) is not claim:
            return True
        namespace, _, name = claim.pod.rpartition("/")
        try:
            async with asyncio.timeout(self.gate_wait_s):
                await self.gate.admit(PodReference(namespace, name, claim.pod_uid), (claim.address,))
        except (NotYet, TimeoutError) as error:
            log.info("standing pod is not admitted yet pod=%s reason=%s", claim.pod, error)
            return False
        return True

    async def _remove(self, attachment: Attachment) -> None:
        claim = self.allocator.find(attachment)
        try:
            await self._in_thread(wiring.detach, attachment)
            if claim is not None:
                self.allocator.release(attachment, time.monotonic())
                self._release_gate(claim)
                await self._sync_host_ports(claim)
                await self.keeper.persist()
        except (OSError, XtablesError) as error:
            raise CniError(spec.IO_FAILURE, "the interface cannot be removed", str(error)) from error

    async def _sync_host_ports(self, touched: Claim) -> None:
        if touched.port_mappings and self.host_ports is not None:
            await self.host_ports.sync(self.allocator.claims.values())

    async def repair_host_ports(self) -> None:
        """Compare the host ports with what stands: somebody may have flushed them."""
        if self.host_ports is not None:
            if any(claim.port_mappings for claim in self.allocator.claims.values()):
                self.host_ports.forget()
            await self.host_ports.sync(self.allocator.claims.values())

    async def _check(self, request: Request, attachment: Attachment) -> None:
        claim = self.allocator.find(attachment)
        if claim is None:
            raise CniError(spec.UNKNOWN_CONTAINER, f"{request.container_id} has no {request.interface} here")
        plan = wiring.Plan(attachment, request.namespace_path, claim.address, self.mtu())
        try:
            wrong = await self._in_thread(wiring.verify, plan)
        except OSError as error:
            raise CniError(spec.IO_FAILURE, "the interface cannot be checked", str(error)) from error
        addresses = [ip.get("address", "") for ip in (request.configuration.get("prevResult") or {}).get("ips") or ()]
        if addresses and f"{claim.address}/32" not in addresses:
            wrong.append(f"the previous result lacks {claim.address}/32")
        if wrong:
            raise CniError(spec.CHECK_FAILED, "; ".join(wrong))

    async def _collect_for(self, request: Request) -> None:
        """Drop every attachment that the runtime does not name as valid."""
        valid = {
            Attachment(str(entry.get("containerID")), str(entry.get("ifname")))
            for entry in request.configuration.get("cni.dev/valid-attachments") or ()
        }
        for attachment in [held for held in self.allocator.claims if held not in valid]:
            async with self._exclusive(attachment):
                await self._remove(attachment)

    async def collect_garbage(self) -> int:
        """Drop claims whose namespace is gone, and interfaces without a claim; return how many went."""
        links = await self._in_thread(wiring.pod_links)
        dropped = 0
        for attachment, claim in list(self.allocator.claims.items()):
            # Either is enough to keep it: a namespace may outlive its path, and a path be out of our sight.
            if netlink.is_namespace(claim.namespace_path) or claim.host_interface in links:
                continue
            async with self._exclusive(attachment):
                if self.allocator.find(attachment) is claim:
                    await self._remove(attachment)
                    dropped += 1
                    log.info("claim of a vanished pod is dropped pod=%s address=%s", claim.pod, claim.address)
        # An interface had its claim before it came to be: one without a claim has lost it.
        held = {claim.host_interface for claim in self.allocator.claims.values()}
        for name in links - held:
            try:
                await self._in_thread(wiring.delete_link, name)
            except NetlinkError as error:
                log.warning("interface without a claim stays link=%s error=%s", name, error)
                continue
            dropped += 1
            log.info("interface without a claim is removed link=%s", name)
        return dropped
