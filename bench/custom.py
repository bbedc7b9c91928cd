"""Custom objects on our API server and on the original apiextensions-apiserver, on the same member of etcd in turn.

    python -m bench.custom APIEXTENSIONS-APISERVER [--rounds N] [--quick] [--json]

The original is built from Kubernetes' own sources (tests/control/apiserver/originals/record.py says how). It is not the
whole kube-apiserver: it serves custom resources alone, and asks ours who a token is and what it may, remembering the
answers for seconds, while ours judges each request itself.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import uvloop
import yaml
from rich.console import Console
from rich.table import Table

from bench import apiserver_world as world
from bench.apiserver_world import NAMESPACE, USER, Measured, OneEtcd, Server, api_server, h2load
from bench.members import ROOT, free_ports

GROUP = "bench.example.com"
CREATED, LISTED = 6_000, 500
READY_TIMEOUT_S = 60.0
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SPACE = f"/apis/{GROUP}/v1/namespaces/{NAMESPACE}/boats"
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"boats.{GROUP}"},
    "spec": {
        "group": GROUP, "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {
                "color": {"type": "string", "maxLength": 512}, "oars": {"type": "integer", "default": 2},
                "crew": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            }}}}}}],
    },
}  # fmt: skip


def boat(name: str = "") -> bytes:
    """Return a custom object of the size of the other benchmarks' ConfigMaps; without a name the server makes one."""
    spec = {"color": "v" * 200, "crew": [{"name": "iason"}, {"name": "medeia"}]}
    metadata = {"name": name} if name else {"generateName": "load-"}
    return json.dumps({"apiVersion": f"{GROUP}/v1", "kind": "Boat", "metadata": metadata, "spec": spec}).encode()


@asynccontextmanager
async def original(program: Path, store: OneEtcd, prefix: str, core: Server, directory: Path) -> AsyncIterator[Server]:
    """Run the original, which asks ``core`` for namespaces and access."""
    folder, (port,) = directory / "pki", free_ports(1)
    user = {"client-certificate": str(folder / "admin.crt"), "client-key": str(folder / "admin.key")}
    cluster = {"server": f"https://127.0.0.1:{core.port}", "certificate-authority": str(folder / "ca.crt")}
    kubeconfig = directory / "original.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "core", "users": [{"name": "admin", "user": user}],
        "clusters": [{"name": "core", "cluster": cluster}],
        "contexts": [{"name": "core", "context": {"cluster": "core", "user": "admin"}}],
    }))  # fmt: skip
    command = [
        str(program), "--etcd-servers", store.urls, "--etcd-prefix", prefix, "--secure-port", str(port),
        "--bind-address", "127.0.0.1", "--tls-cert-file", str(folder / "apiserver.crt"), "--tls-private-key-file",
        str(folder / "apiserver.key"), "--client-ca-file", str(folder / "ca.crt"), "--kubeconfig", str(kubeconfig),
        "--authentication-kubeconfig", str(kubeconfig), "--authorization-kubeconfig", str(kubeconfig),
    ]  # fmt: skip
    with (directory / "original.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        server = Server(process, folder, port, 0)
        server.token = core.token
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not await asyncio.to_thread(server.is_ready):
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError("the original did not start")
            await asyncio.sleep(0.1)
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def allow(core: Server) -> None:
    """Let the user of the load do what is measured."""
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [GROUP], "resources": ["boats"], "verbs": ["create", "get", "list", "watch"]}]
    core.ask("POST", f"/apis/{group}/v1/clusterroles", {"metadata": {"name": "boats"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "namespace": NAMESPACE, "name": USER}
    role = {"apiGroup": group, "kind": "ClusterRole", "name": "boats"}
    binding = {"metadata": {"name": "boats"}, "subjects": [subject], "roleRef": role}
    core.ask("POST", f"/apis/{group}/v1/clusterrolebindings", binding)


async def rows(server: Server, directory: Path, scale: float) -> dict[str, Measured]:
    """Measure one server."""
    await asyncio.to_thread(server.ask, "POST", DEFINITIONS, CRD)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            await asyncio.to_thread(server.ask, "POST", SPACE, json.loads(boat("one")))
            break
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
    seconds = f"{max(4.0 * scale, 1.0):g}"
    made = {"create": await h2load(server, SPACE, directory, "-n", str(int(CREATED * scale)), body=boat())}
    made["get"] = await h2load(server, f"{SPACE}/one", directory, "-D", seconds)
    made["list"] = await h2load(server, f"{SPACE}?limit={LISTED}", directory, "-D", seconds, connections=4)
    return made


async def measure(program: Path, rounds: int, scale: float) -> dict[str, dict[str, list[Measured]]]:
    """Measure both, round by round."""
    together: dict[str, dict[str, list[Measured]]] = {"ours": {}, "original": {}}
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=cache))
    store = OneEtcd(directory / "store")
    try:
        world.make_pki(directory / "pki")
        await store.start()
        for number in range(rounds):
            log = directory / "apiserver.log"
            async with api_server(store, f"/ours-{number}", directory / "pki", log) as ours:
                await asyncio.to_thread(ours.prepare)
                await asyncio.to_thread(allow, ours)
                found = {"ours": await rows(ours, directory, scale)}
                async with original(program, store, f"/original-{number}", ours, directory) as theirs:
                    found["original"] = await rows(theirs, directory, scale)
            for side, measured in found.items():
                for name, one in measured.items():
                    together[side].setdefault(name, []).append(one)
    finally:
        await store.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return together


@click.command()
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="How often; medians are told.")
@click.option("--quick", is_flag=True, help="One round with a tenth of the objects and a quarter of the time.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(program: Path, rounds: int, quick: bool, as_json: bool) -> None:
    """Measure custom objects on both servers."""
    found = uvloop.run(measure(program.resolve(), 1 if quick else rounds, 0.1 if quick else 1.0))
    table = Table(title=f"custom objects, medians of {1 if quick else rounds}")
    for heading in ("row", "server", "per s", "p99 ms", "CPU µs each", "failed"):
        table.add_column(heading, justify="left" if heading in ("row", "server") else "right")
    lines = []
    for side, measured in found.items():
        for name, runs in measured.items():
            middle = {key: statistics.median(getattr(run, key) for run in runs) for key in runs[0].__annotations__}
            lines.append({"row": name, "server": side, **middle})
            cells = (f"{middle['per_s']:,.0f}", f"{middle['p99_ms']:.1f}", f"{middle['cpu_us']:,.0f}")
            table.add_row(name, side, *cells, f"{middle['failed']:.0f}")
    if as_json:
        click.echo(json.dumps(lines, indent=2))
    else:
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
