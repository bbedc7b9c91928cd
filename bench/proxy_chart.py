"""The chart of `bench.proxy`: ours beside what was measured of kube-proxy, each row to its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BAR = 900, 330, 120, 70, 34, 11
_OURS, _THEIRS = "#2a6fbb", "#b8bec6"


def draw_rows(cases: Sequence[dict[str, Any]]) -> str:
    """Return the chart as SVG."""
    rows = [row for case in cases for row in _rows(case)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_TOP + _ROW * len(rows) + 20}" '
        f'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(16, 24, "Service rules: one node's proxy", "16", "bold"),
        _text(16, 44, "kube-proxy 1.36.2 as measured at another time on the same kind of machine", "11"),
        f'<rect x="{_LEFT}" y="54" width="10" height="8" fill="{_OURS}"/>',
        _text(_LEFT + 14, 62, "raftsman", "11"),
        f'<rect x="{_LEFT + 90}" y="54" width="10" height="8" fill="{_THEIRS}"/>',
        _text(_LEFT + 104, 62, "kube-proxy, each row to its own scale", "11"),
    ]
    room = _WIDTH - _LEFT - _RIGHT
    for place, (title, ours, theirs, unit) in enumerate(rows):
        top, most = _TOP + _ROW * place + 6, max(ours, theirs, 1e-9)
        parts.append(_text(16, top + 15, title))
        for row, (value, colour) in enumerate(((ours, _OURS), (theirs, _THEIRS))):
            width, y = max(1.0, value / most * room * 0.9), top + row * (_BAR + 1)
            if value:
                parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
                parts.append(_text(_LEFT + width + 5, y + 9, f"{value:,.2f} {unit}", "10"))
    return "\n".join([*parts, "</svg>", ""])


def _rows(case: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    name = f"{case['mode']} {case['services']:,} × {case['endpoints']}"
    peer = case.get("peer") or {}
    return [
        (f"{name}: start to rules", case["start_s"], peer.get("start_s", 0.0), "s"),
        (f"{name}: one change, median", case["change_ms"]["p50"], peer.get("change_ms", 0.0), "ms"),
        (f"{name}: memory", case["rss_mb"], peer.get("rss_mb", 0.0), "MB"),
    ]


def _text(x: float, y: float, text: str, size: str = "12", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>'


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Return the figures as the table of bench/README.md; the peer's behind a stroke, where it was measured."""
    lines = [
        "| mode, Services × endpoints | start → rules, s | of it rules: s, CPU s | change p50, p99, ms "
        "| connect, more µs | refusal, ms | kernel, RSS MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        peer, change = case.get("peer") or {}, case["change_ms"]
        start = f"{case['start_s']:.2f}" + (f" / {peer['start_s']:.1f}" if peer else "")
        one = f"{change['p50']:.2f}, {change['p99']:.2f}" + (f" / {peer['change_ms']:,.0f}" if peer else "")
        memory = f"{case['kernel_mb']:.1f}, {case['rss_mb']:.0f}" + (f" / {peer['rss_mb']:.0f}" if peer else "")
        lines.append(
            f"| {case['mode']}, {case['services']:,} × {case['endpoints']} | {start} "
            f"| {case['rules_s']:.2f}, {case['rules_cpu_s']:.2f} | {one} | {case['connect']['added_us']:.1f} "
            f"| {case['refusal_ms']:.1f} | {memory} |"
        )
    return "\n".join(lines)
