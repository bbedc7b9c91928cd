"""Fixtures that all tiers share: the unmodified programs that Raftsman is tried with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler.loadscope import LoadScopeScheduling

from lab import peers
from tests import rows

# The same examples every time: what lands must not depend on luck. Fresh ones: pytest --hypothesis-profile=explore
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")

CACHE = Path(__file__).parent.parent / ".cache" / "peers"
KUBECTL_SUITES = ("sid", "trixie")
ETCD_SUITE = "sid"


class Rows(LoadScopeScheduling):  # type: ignore[misc]
    """Gives whole rows of tests to workers, where several run (`pytest -n N`)."""

    def _split_scope(self, nodeid: str) -> str:
        return rows.row(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Rows:
    """Keep rows together, in the order of collection."""
    config.option.loadscopereorder = False
    return Rows(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: rows.rank(item.nodeid))


@pytest.fixture(scope="session")
def kubectl_versions() -> dict[str, Path]:
    """Debian's newest and its stable kubectl by suite; 1.36 and 1.32 as of late 2026."""
    return {suite: peers.fetch(CACHE, "kubectl", suite, "kubectl") for suite in KUBECTL_SUITES}


@pytest.fixture(scope="session")
def kubectl(kubectl_versions: dict[str, Path]) -> Path:
    """The newest kubectl."""
    return kubectl_versions["sid"]


def _required(program: str, package: str) -> Path:
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is missing; install it with: apt-get install {package}")
    return Path(found)


@pytest.fixture(scope="session")
def etcd() -> Path:
    """The machine's etcd server."""
    return _required("etcd", "etcd-server")


@pytest.fixture(scope="session")
def etcdctl() -> Path:
    """The machine's etcdctl."""
    return _required("etcdctl", "etcd-client")


@pytest.fixture(scope="session")
def etcds() -> dict[str, Path]:
    """The machine's etcd server and Debian's newest; 3.4 and 3.5 as of late 2026."""
    return {
        "installed": _required("etcd", "etcd-server"),
        "newest": peers.fetch(CACHE, "etcd-server", ETCD_SUITE, "etcd"),
    }


@pytest.fixture(scope="session")
def etcdctls() -> dict[str, Path]:
    """The machine's etcdctl and Debian's newest; 3.4 and 3.5 as of late 2026."""
    return {
        "installed": _required("etcdctl", "etcd-client"),
        "newest": peers.fetch(CACHE, "etcd-client", ETCD_SUITE, "etcdctl"),
    }
