"""State machines for simulated members: a cheap list, the store's own, and what watches over both."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from store.machine import Machine
from store.raft.contract import RunStateMachine, StateMachine

POISON = b"poison"
"""Requests that begin so make the list fail, on every member alike."""

_POSITION = struct.Struct("<QQq16s")


class ListMachine:
    """A state machine that keeps everything it was given, in order."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.seen: set[bytes] = set()

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        self.applied.append((index, payload))
        self.seen.add(payload)
        if payload.startswith(POISON):
            raise ValueError("a defect of the state machine")
        return len(self.applied)

    def snapshot(self) -> Iterator[bytes]:
        kept = list(self.applied)
        for start in range(0, len(kept), 10):
            parts = [struct.pack("<QI", index, len(payload)) + payload for index, payload in kept[start : start + 10]]
            yield b"".join(parts)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.applied = []
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                index, length = struct.unpack_from("<QI", chunk, at)
                at += 12
                self.applied.append((index, chunk[at : at + length]))
                at += length
        self.seen = {payload for _, payload in self.applied}


class Agreement:
    """What was applied, in the order of the first member to do so; every other one must do the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.payloads: list[bytes] = []
        self._digests: list[bytes] = []
        self._seen: set[bytes] = set()
        self.on_done: Callable[[bytes, StateMachine], None] = lambda _payload, _machine: None
        """Told of each request, and of that member's state, afterwards."""

    def applied(self, count: int, digest: bytes, payload: bytes) -> bool:
        """Take note of what a member applies; return whether it is the first to do so."""
        new = count > len(self._digests)
        if count > len(self._digests):
            assert count == len(self._digests) + 1, f"a member applied something out of thin air; seed={self.seed}"
            assert payload not in self._seen, f"a write took effect twice: {payload!r}; seed={self.seed}"
            self._digests.append(digest)
            self.payloads.append(payload)
            self._seen.add(payload)
        assert self._digests[count - 1] == digest, f"members differ at their request {count}; seed={self.seed}"
        return new

    def fingerprint(self) -> bytes:
        """Return a digest of all that was applied."""
        return self._digests[-1] if self._digests else b""


class Recorder:
    """Wraps a state machine and holds it to the agreement, through snapshots too; all payloads are different."""

    def __init__(self, inner: StateMachine, agreement: Agreement) -> None:
        self.inner = inner
        self.count = 0
        self._digest = b"\0" * 16
        self._index = 0
        self._now_ns = 0
        self._agreement = agreement

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        new = self._count(index, now_ns, payload)
        try:
            return self.inner.apply(index, now_ns, payload)
        finally:
            if new:
                self._agreement.on_done(payload, self.inner)

    def _count(self, index: int, now_ns: int, payload: bytes) -> bool:
        assert index >= self._index, "entries are applied in order"
        assert now_ns >= self._now_ns, "the log's time does not go back"
        self._index, self._now_ns = index, now_ns
        self.count += 1
        data = self._digest + struct.pack("<Qq", index, now_ns) + payload
        self._digest = hashlib.blake2b(data, digest_size=16).digest()
        return self._agreement.applied(self.count, self._digest, payload)

    def snapshot(self) -> Iterator[bytes]:
        position = _POSITION.pack(self.count, self._index, self._now_ns, self._digest)
        chunks = iter(self.inner.snapshot())
        # The state is captured at the first step, so that step is taken with the first chunk.
        yield position + next(chunks, b"")
        yield from chunks

    def restore(self, chunks: Iterable[bytes]) -> None:
        source = iter(chunks)
        first = next(source)
        self.count, self._index, self._now_ns, self._digest = _POSITION.unpack_from(first)
        self.inner.restore(_chained(first[_POSITION.size :], source))

    def state(self) -> bytes:
        """Return the whole state, to be compared at one point of the log."""
        return b"".join(self.snapshot())


class RunRecorder(Recorder):
    """Wraps a state machine that takes several requests at once."""

    def apply_run(self, index: int, now_ns: int, payloads: Sequence[bytes]) -> list[object]:
        new = [payload for payload in payloads if self._count(index, now_ns, payload)]
        assert isinstance(self.inner, RunStateMachine)
        results = self.inner.apply_run(index, now_ns, payloads)
        for payload in new:
            self._agreement.on_done(payload, self.inner)
        return results


def recorded(inner: StateMachine, agreement: Agreement) -> Recorder:
    """Wrap a state machine, whichever it is."""
    return RunRecorder(inner, agreement) if isinstance(inner, RunStateMachine) else Recorder(inner, agreement)


def _chained(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def make_store() -> Machine:
    """The store's own state machine."""
    return Machine()
