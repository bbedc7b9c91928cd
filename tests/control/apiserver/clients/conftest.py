"""One API server for all unmodified clients of this folder: etcd below it, and a node whose kubelet answers."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.apiserver.clients.space import Space, make_space
from tests.control.apiserver.processes import Kubectl, Server, api_server, etcd_server, make_pki
from tests.fakes.fake_kubelet import fake_kubelet


@pytest.fixture(scope="package")
def server(etcd: Path, kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("clients")
    folder = directory / "pki"
    make_pki(folder)
    flags = [
        "--kubelet-certificate-authority", str(folder / "ca.crt"),
        "--kubelet-client-certificate", str(folder / "admin.crt"), "--kubelet-client-key", str(folder / "admin.key"),
        "--kubelet-preferred-address-types", "InternalIP",
    ]  # fmt: skip
    with (
        fake_kubelet(folder) as port,
        etcd_server(etcd, directory) as store,
        api_server(store.url, directory, *flags) as started,
    ):
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "fake"}, "status": status}
        Kubectl(kubectl, started.kubeconfig(), directory)("create", "-f", "-", text=json.dumps(node))
        yield started
        with warnings.catch_warnings():
            # Some clients leave their sockets to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture
def space(server: Server, kubectl: Path, tmp_path: Path) -> Space:
    """A namespace of the test's own."""
    return make_space(server, kubectl, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let clients leave their sockets to the collector: that is their way."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
