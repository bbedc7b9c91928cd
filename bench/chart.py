"""A bar chart of two sides, drawn as SVG by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_LEFT, _RIGHT, _TOP = 300, 150, 70
_BAR, _ROW = 11, 34
_WIDTH = 900
_OURS, _THEIRS = "#2a6fbb", "#b8bec6"


class Bar(NamedTuple):
    """One row: two figures and what stands behind them."""

    title: str
    ours: float
    theirs: float
    note: str


def draw(heading: str, caption: str, unit: str, bars: Sequence[Bar], theirs: str = "etcd", digits: int = 0) -> str:
    """Return the chart; each row has its own scale, so that small figures can be compared, too."""
    height = _TOP + _ROW * len(bars) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 24, heading, "16", "bold"),
        _text(16, 44, caption, "11"),
        f'<rect x="{_LEFT}" y="54" width="10" height="8" fill="{_OURS}"/>',
        _text(_LEFT + 14, 62, "raftsman", "11"),
        f'<rect x="{_LEFT + 90}" y="54" width="10" height="8" fill="{_THEIRS}"/>',
        _text(_LEFT + 104, 62, f"{theirs}; {unit}, each row to its own scale", "11"),
    ]
    room = _WIDTH - _LEFT - _RIGHT
    for place, bar in enumerate(bars):
        top = _TOP + _ROW * place + 6
        most = max(bar.ours, bar.theirs, 1e-9)
        parts.append(_text(16, top + 15, bar.title))
        for row, (value, colour) in enumerate(((bar.ours, _OURS), (bar.theirs, _THEIRS))):
            width, y = value / most * room * 0.85, top + row * (_BAR + 1)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
            parts.append(_text(_LEFT + width + 5, y + 9, f"{value:,.{digits}f}", "10"))
        parts.append(_text(_WIDTH - _RIGHT + 10, top + 15, bar.note))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, size: str = "12", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
