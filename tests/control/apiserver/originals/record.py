"""Asks an original of Kubernetes what is asked in tests/golden/custom, and keeps its answers.

    python -m tests.control.apiserver.originals.record APIEXTENSIONS-APISERVER ETCD [NAME…]

The program is built from k8s.io/apiextensions-apiserver (Debian: golang-go, golang-k8s-apiextensions-apiserver-dev,
then GO111MODULE=off GOPATH=/usr/share/gocode go build k8s.io/apiextensions-apiserver). Our API server stands beside it
as the one that it asks for namespaces and access.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.control.apiserver.originals.conversations import FOLDER, Conversation, load, store
from tests.control.apiserver.originals.wires import Wire
from tests.control.apiserver.processes import (
    Server,
    api_server,
    etcd_server,
    free_port,
    make_pki,
    process,
    wait_for_port,
)


@contextmanager
def original(program: Path, store_url: str, core: Server, *flags: str) -> Iterator[int]:
    """Run the original beside ``core``; yields its port."""
    folder, port = core.directory / "pki", free_port()
    asks = str(core.kubeconfig())
    command = [
        str(program), "--etcd-servers", store_url, "--etcd-prefix", "/original", "--secure-port", str(port),
        "--bind-address", "127.0.0.1", "--tls-cert-file", str(folder / "apiserver.crt"), "--tls-private-key-file",
        str(folder / "apiserver.key"), "--client-ca-file", str(folder / "ca.crt"), "--kubeconfig", asks,
        "--authentication-kubeconfig", asks, "--authorization-kubeconfig", asks, *flags,
    ]  # fmt: skip
    log = core.directory / f"original-{port}.log"
    with process(command, log) as started:
        wait_for_port(port, started)
        yield port


async def record(wire: Wire, conversation: Conversation) -> None:
    """Ask everything and keep the answers."""
    for request in conversation.requests:
        request["gives"] = await conversation.say(wire, request, record=True)
    store(conversation)


async def ready(wire: Wire) -> None:
    """Wait until a server calls itself ready."""
    async with asyncio.timeout(120):
        while (await wire.ask("GET", "/readyz", {}, b"")).code != 200:
            await asyncio.sleep(0.1)


@contextmanager
def beside(program: Path, etcd: Path) -> Iterator[Wire]:
    """Run etcd, our server and the original; yields the way to the original."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        make_pki(directory / "pki")
        with (
            etcd_server(etcd, directory) as store_,
            api_server(store_.url, directory) as core,
            original(program, store_.url, core) as port,
        ):
            yield Wire(port, directory / "pki", directory / "pki" / "ca.crt")


async def _record_all(wire: Wire, names: list[str]) -> None:
    await ready(wire)
    for name in names:
        print(name, flush=True)
        await record(wire, load(FOLDER / f"{name}.yaml"))


def main() -> None:
    """Record the conversations that are named, or all."""
    program, etcd, *names = sys.argv[1:]
    with beside(Path(program), Path(etcd)) as wire:
        asyncio.run(_record_all(wire, names or sorted(path.stem for path in FOLDER.glob("*.yaml"))))


if __name__ == "__main__":
    main()
