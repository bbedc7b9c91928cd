"""Answer CNI calls: allocate, remember, wire, in an order that survives a crash at any point.

    ADD   claim in memory → gate → claim on disk, and interface meanwhile → answer
    DEL   interface → claim in memory and on disk → answer

So every *answered* interface has a claim on disk. After a crash, before the socket answers again, an
interface without a claim is removed (nobody was told of it), so that no address is given twice. A
claim without an interface is harmless: the next ADD of the same attachment completes it, DEL or the
garbage collector drops it. Calls of one attachment run one after another; those of different ones
side by side, their disk writes joined.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from net import netlink
from net.cni import bandwidth, hostports, plan, results, spec, wiring
from net.cni.gate import OPEN, Gate, NotYet, PodReference
from net.cni.hostports import HostPorts
from net.cni.keeper import StateKeeper
from net.cni.plan import Plan
from net.cni.spec import CniError, Request
from net.ipam.allocator import Allocator, Attachment, Claim, RangeExhaustedError
from net.nftables.errors import NftablesError

log = logging.getLogger(__name__)

T = TypeVar("T")
FindPod = Callable[[Request], Awaitable[PodReference | None]]
"""Waits a while until the informer knows the request's pod; None when it does not."""


@dataclass(slots=True)
class CniDaemon:
    """Own the pod interfaces of one node."""

    allocator: Allocator
    keeper: StateKeeper
    mtu: Callable[[], int]
    find_pod: FindPod | None = None
    pod_is_gone: Callable[[str], bool] | None = None
    """Tells by uid whether the hub is known to hold no such pod."""
    gate: Gate = OPEN
    gate_wait_s: float = 8.0
    mode: Literal["ptp", "bridge"] = "ptp"
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
            return results.answer(error.to_object(version), 1)
        finally:
            self._calls -= 1
        log.debug("call is answered command=%s ms=%.1f", request.command, (time.monotonic() - began) * 1000)
        return results.answer(told, 0)

    async def _dispatch(self, request: Request) -> dict[str, Any] | None:
        match request.command:
            case "VERSION":
                return results.version_result(request.version)
            case "STATUS":
                self._check_status()
                return None
            case "GC":
                await self._collect_for(request)
                return None
        if request.plugin == "loopback":
            return await self._loopback(request)
        attachment = Attachment(request.container_id, request.interface)
        async with self.exclusive(attachment):
            match request.command:
                case "ADD":
                    return await self._add(request, attachment)
                case "DEL":
                    await self.remove(attachment)
                case _:
                    await self._check(request, attachment)
        return None

    @asynccontextmanager
    async def exclusive(self, attachment: Attachment) -> AsyncIterator[None]:
        """Keep an attachment from all others as long as the block runs."""
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

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run blocking work; a caller that goes away does not leave it half done unseen."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*arguments))

    def _check_status(self) -> None:
        if not self.allocator.ranges:
            raise CniError(spec.NOT_AVAILABLE, "the node has no pod CIDR yet")
        stopped = [version for version in self.versions() if not wiring.is_forwarding(version)]
        if stopped:
            told = ", ".join(f"IPv{version}" for version in stopped)
            raise CniError(spec.LIMITED_CONNECTIVITY, f"the node does not forward {told}: somebody has switched it off")

    def versions(self) -> tuple[int, ...]:
        """Return the IP versions that pods get addresses of."""
        return tuple(plan.version_of(cidr) for cidr in self.allocator.cidrs)

    async def _loopback(self, request: Request) -> dict[str, Any] | None:
        if request.command == "ADD":
            try:
                await self.in_thread(wiring.set_loopback_up, request.namespace_path)
            except OSError as error:
                raise CniError(spec.IO_FAILURE, "lo cannot be set up", str(error)) from error
            return results.loopback_result(request.version, request.namespace_path)
        return None

    def _plan(self, request: Request, claim: Claim) -> Plan:
        bridge = plan.bridge_of(self.allocator.cidrs) if self.mode == "bridge" else None
        limits = bandwidth.parse(spec.asked(request, "bandwidth"))
        return Plan(claim.attachment, request.namespace_path, claim.addresses, self.mtu(), bridge, limits)

    async def _add(self, request: Request, attachment: Attachment) -> dict[str, Any]:
        if not self.allocator.ranges:
            raise CniError(spec.TRY_AGAIN_LATER, "the node has no pod CIDR yet")
        if not netlink.is_namespace(request.namespace_path):
            raise CniError(spec.INVALID_NAMESPACE, f"{request.namespace_path} is not a network namespace")
        mappings = hostports.parse(spec.asked(request, "portMappings") or ())
        bandwidth.parse(spec.asked(request, "bandwidth"))  # before anything is given out
        pod = await self._pod_of(request)
        is_known = self.allocator.find(attachment) is not None
        name = plan.host_interface(attachment)
        wanted = Claim(attachment, (), request.namespace_path, name, request.pod, pod.uid, mappings)
        try:
            claim = self.allocator.allocate(wanted, time.monotonic())
        except RangeExhaustedError as error:
            raise CniError(spec.TRY_AGAIN_LATER, str(error)) from error
        await self._pass_gate(claim, pod, is_known)
        try:
            wired = self._plan(request, claim)
            await self._settle(self.keeper.persist(), self.in_thread(wiring.attach, wired))
            await self._sync_host_ports(claim)
        except (OSError, NftablesError) as error:
            await self.remove(attachment)
            raise CniError(spec.WIRING_FAILED, f"{request.interface} cannot be wired", str(error)) from error
        return results.result(request.version, wired, request.configuration.get("prevResult"))

    async def _settle(self, *works: Awaitable[None]) -> None:
        """Wait for all works, also where one fails: what comes after must not meet the rest halfway."""
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _pod_of(self, request: Request) -> PodReference:
        if self.find_pod is None:
            namespace, _, name = request.pod.rpartition("/")
            return PodReference(namespace, name, request.pod_uid)
        pod = await self.find_pod(request)
        if pod is None:
            raise CniError(spec.TRY_AGAIN_LATER, f"pod {request.pod} uid {request.pod_uid} is not known yet")
        return pod

    async def _pass_gate(self, claim: Claim, pod: PodReference, is_known: bool) -> None:
        """Wait for the pod's isolation; a new claim that may not pass is given back, unused."""
        try:
            async with asyncio.timeout(self.gate_wait_s):
                await self.gate.admit(pod, claim.addresses)
        except (NotYet, TimeoutError) as error:
            if not is_known:
                self.allocator.release(claim.attachment, time.monotonic(), was_used=False)
                self._release_gate(claim)
            reason = str(error) or f"no answer within {self.gate_wait_s:g} s"
            told = f"the isolation of pod {claim.pod} is not in force yet"
            raise CniError(spec.TRY_AGAIN_LATER, told, reason) from error

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
                await self.gate.admit(PodReference(namespace, name, claim.pod_uid), claim.addresses)
        except (NotYet, TimeoutError) as error:
            log.info("standing pod is not admitted yet pod=%s reason=%s", claim.pod, error)
            return False
        return True

    async def remove(self, attachment: Attachment) -> None:
        """Remove an attachment's interface and its claim; one that holds neither is fine."""
        claim = self.allocator.find(attachment)
        try:
            await self.in_thread(wiring.detach, attachment)
            if claim is not None:
                self.allocator.release(attachment, time.monotonic())
                self._release_gate(claim)
                await self._sync_host_ports(claim)
                await self.keeper.persist()
        except (OSError, NftablesError) as error:
            raise CniError(spec.IO_FAILURE, "the interface cannot be removed", str(error)) from error

    async def _sync_host_ports(self, touched: Claim) -> None:
        if touched.port_mappings and self.host_ports is not None:
            await self.host_ports.sync(self.allocator.claims.values())

    async def repair_host_ports(self) -> None:
        """Compare the host ports with what stands: somebody may have flushed them."""
        if self.host_ports is not None:
            self.host_ports.forget()
            await self.host_ports.sync(self.allocator.claims.values())

    async def _check(self, request: Request, attachment: Attachment) -> None:
        claim = self.allocator.find(attachment)
        if claim is None:
            raise CniError(spec.UNKNOWN_CONTAINER, f"{request.container_id} has no {request.interface} here")
        wanted = self._plan(request, claim)
        try:
            wrong = await self.in_thread(wiring.verify, wanted)
        except OSError as error:
            raise CniError(spec.IO_FAILURE, "the interface cannot be checked", str(error)) from error
        wrong += results.missing_addresses(wanted, request.configuration.get("prevResult"))
        if wrong:
            raise CniError(spec.CHECK_FAILED, "; ".join(wrong))

    async def _collect_for(self, request: Request) -> None:
        """Drop every attachment that the runtime does not name as valid, as many as can be."""
        valid = {Attachment(*pair) for pair in spec.valid_attachments(request)}
        # One that is being made or removed this moment is not left over, though the runtime's list is older than it.
        stale = [held for held in self.allocator.claims if held not in valid and held not in self._locks]
        failed = [error for error in [await self._drop(held, "is not valid any more") for held in stale] if error]
        if failed:
            raise CniError(spec.IO_FAILURE, f"{len(failed)} attachments cannot be removed", "; ".join(failed))

    async def _drop(self, attachment: Attachment, why: str) -> str:
        """Remove an attachment and return what went wrong; empty where nothing did."""
        async with self.exclusive(attachment):
            claim = self.allocator.find(attachment)
            if claim is None:
                return ""
            try:
                await self.remove(attachment)
            except CniError as error:
                log.warning("claim stays pod=%s error=%s", claim.pod, error.details)
                return f"{attachment.container_id}/{attachment.interface}: {error.details}"
        log.info("claim is dropped: its pod %s pod=%s addresses=%s", why, claim.pod, ",".join(claim.addresses))
        return ""

    async def collect_garbage(self) -> int:
        """Drop claims whose namespace is gone, and interfaces without a claim; return how many went."""
        links = await self.in_thread(wiring.pod_links)
        orphans = links - {claim.host_interface for claim in self.allocator.claims.values()}
        gone = [attachment for attachment, claim in self.allocator.claims.items() if self._is_left_over(claim, links)]
        dropped = sum([not await self._drop(attachment, "has vanished") for attachment in gone])
        return dropped + await self.remove_orphans(orphans)

    def _is_left_over(self, claim: Claim, links: Iterable[str]) -> bool:
        """Tell whether nobody will ask for a claim's end any more."""
        if netlink.is_namespace(claim.namespace_path):
            return False  # the runtime has its sandbox still, and says DEL
        # A path may be out of our sight, and a process keep a namespace alive without one: then the hub knows better.
        return claim.host_interface not in links or (self.pod_is_gone is not None and self.pod_is_gone(claim.pod_uid))

    async def remove_orphans(self, links: Iterable[str] | None = None) -> int:
        """Remove interfaces without a claim: each had its claim before it came to be, and has lost it."""
        standing = await self.in_thread(wiring.pod_links) if links is None else links
        held = {claim.host_interface for claim in self.allocator.claims.values()}
        dropped = 0
        for name in set(standing) - held:
            try:
                await self.in_thread(wiring.delete_link, name)
            except OSError as error:
                log.warning("interface without a claim stays link=%s error=%s", name, error)
                continue
            dropped += 1
            log.info("interface without a claim is removed link=%s", name)
        return dropped
