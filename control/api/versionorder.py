"""Which version of a group is preferred to which."""

from __future__ import annotations

import re

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def preference(version: str) -> tuple[int, int, int, str]:
    """Order versions as Kubernetes does: v10, v2, v1, v11beta2, v10beta3, v3alpha1, then others by name."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (3, 0, 0, version)
    level = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (level, -int(found[1]), -int(found[3] or 0), "")
