"""What a peer may cost us: allowances that refill with time, for frames that are cheap to send and not to take."""

from __future__ import annotations

from dataclasses import dataclass

from store.frontdoor import frames


@dataclass(frozen=True)
class Limits:
    """Bounds of one connection."""

    streams_max: int = 10_000
    """Calls at the same time; calls that were cancelled count until their handler has ended."""
    header_list_bytes_max: int = 32 * 1024
    header_frames_max: int = 16
    """CONTINUATION frames of one head."""
    window_bytes: int = 1 << 20
    """What a client may have under way to one stream."""
    connection_window_bytes: int = 16 << 20
    control_frames_burst: int = 2_000
    control_frames_per_s: float = 200.0
    resets_burst: int = 4_000
    resets_per_s: float = 200.0
    closed_streams_max: int = 4_096
    """Streams that were reset and are remembered, to tell late frames from wrong ones."""
    ping_interval_s: float = 5.0
    """Pings that come faster while nothing is sent are strikes."""
    ping_strikes_max: int = 10
    handshake_timeout_s: float = 10.0
    """Time for the TLS handshake, the preface and each head of several frames."""
    stall_timeout_s: float = 120.0
    """Time after which a client that takes nothing of what it asked for is given up."""
    keepalive_interval_s: float = 7200.0
    """After so much silence the client is asked whether it lives; 0 for never."""
    keepalive_timeout_s: float = 20.0


COSTS = {
    frames.PING: 5.0,
    frames.SETTINGS: 20.0,
    frames.DATA: 5.0,
    frames.HEADERS: 5.0,
    frames.RST_STREAM: 1.0,
    frames.PRIORITY: 1.0,
    frames.WINDOW_UPDATE: 1.0,
}
"""Of a frame without use: an empty DATA, the HEADERS of a stream that is refused."""
CREDIT_OF_SENT_FRAME = 3.0


class Allowance:
    """A number of things that may be done at once, and per second in the long run."""

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._seen_at = now

    def spend(self, cost: float, now: float, credit: float = 0.0) -> bool:
        """Take ``cost`` away; return whether it was there."""
        self._left = min(self._burst, self._left + (now - self._seen_at) * self._per_s + credit) - cost
        self._seen_at = now
        return self._left >= 0


class PingStrikes:
    """Counts pings that come too fast, as gRPC servers do: what is sent in between makes them welcome."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last_at = float("-inf")
        self._strikes = 0
        self._sent_frames = 0

    def strike(self, now: float, sent_frames: int) -> bool:
        """Take note of a ping; return whether it is one too many."""
        if sent_frames != self._sent_frames:
            self._sent_frames = sent_frames
            self._strikes = 0
        elif now - self._last_at < self._limits.ping_interval_s:
            self._strikes += 1
        self._last_at = now
        return self._strikes > self._limits.ping_strikes_max
