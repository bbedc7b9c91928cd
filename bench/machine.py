"""Describes the machine that a figure was measured on, and keeps results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, kernel, Python and load."""
    memory_kib = int(_value("/proc/meminfo", "MemTotal:").split()[0])
    return {
        "processor": _value("/proc/cpuinfo", "model name").lstrip(": ") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "kernel": platform.release(),
        "system": _value("/etc/os-release", "PRETTY_NAME=").strip('"'),
        "python": platform.python_version(),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "revision": _revision(),
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _value(path: str, prefix: str) -> str:
    """Return what follows a prefix in a file of lines, empty where it does not stand there."""
    return next((line.removeprefix(prefix).strip() for line in _lines(path) if line.startswith(prefix)), "")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def keep(name: str, figures: dict[str, Any]) -> Path:
    """Write figures with the machine's description to results/NAME.json and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **figures}, indent=2) + "\n")
    return path
