"""Which tests may run beside each other: those of one file, or of one shared cluster, stay with one worker."""

from __future__ import annotations

# What takes longest begins first, so that no worker is left alone with it at the end.
FIRST = (
    "tests/e2e/",
    "tests/machine/",
    "tests/e2e/test_control_planes.py",
    "tests/node/test_inside.py",
    "tests/simulation/",
    "tests/net/test_proxy_robustness.py",
    "tests/net/",
    "tests/store/",
    "tests/control/",
)
SHARED = ("tests/e2e/", "tests/control/apiserver/clients/")
"""Folders whose tests share one cluster, or one server."""
ALONE = ("tests/e2e/test_control_planes.py",)
"""Files there that bring their own; and those whose every test stands by itself."""
SINGLE = ("tests/node/test_inside.py", "tests/simulation/")


def row(nodeid: str) -> str:
    """Return the name of the row in which a test runs; rows run beside each other, their tests one after another."""
    path = nodeid.partition("::")[0]
    if path.startswith(SINGLE):
        return nodeid
    shared = next((folder for folder in SHARED if path.startswith(folder)), path)
    return path if path in ALONE else shared


def rank(nodeid: str) -> int:
    """Return a test's place: lower ranks begin first."""
    matches = [(len(start), -place) for place, start in enumerate(FIRST) if nodeid.startswith(start)]
    return -max(matches)[1] if matches else len(FIRST)
