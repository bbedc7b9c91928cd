"""Several API servers on one store: nothing is handed out twice, and whoever is killed is not missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import (
    CONFIG_MAPS,
    IP_ADDRESSES,
    NAMESPACES,
    RESOURCE_QUOTAS,
    SERVICES,
    Resource,
)
from control.api.status import ApiError
from control.client.client import Client
from control.client.informer import Informer, Informers
from tests.control.apiserver.many import Door, Servers, make_services, own_store, several
from tests.control.apiserver.processes import Kubectl, etcd_server

pytestmark = pytest.mark.root

STORES = ("etcd installed", "etcd newest", "ours")
SERVICES_MADE = 120
IN_FLIGHT = 20
DEADLINE_S = 60.0


@pytest.fixture(scope="module", params=STORES)
def servers(
    request: pytest.FixtureRequest, etcds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("many")
    kind, _, which = request.param.partition(" ")
    with ExitStack() as stack:
        if kind == "ours":
            url = stack.enter_context(own_store(directory))
        else:
            url = stack.enter_context(etcd_server(etcds[which], directory)).url
        # Each server costs a second of processor time: three of them on our store, two on each of the others.
        yield stack.enter_context(several(url, directory, count=3 if kind == "ours" else 2))


def doubles(services: list[Object]) -> list[str]:
    """Return addresses and ports that two Services have."""
    held = Counter(str(address) for service in services for address in service["spec"]["clusterIPs"])
    held.update(str(port["nodePort"]) for service in services for port in service["spec"]["ports"])
    return [value for value, times in held.items() if times > 1]


async def test_no_service_gets_what_another_one_has(servers: Servers) -> None:
    clients = [servers.client(port) for port in servers.ports]
    try:
        await clients[0].create(NAMESPACES, {"metadata": {"name": "many"}})
        told = await make_services(clients, SERVICES_MADE, IN_FLIGHT * len(clients), "many")
        assert told == {"made": SERVICES_MADE}
        made = (await clients[1].list(SERVICES, "many")).items
        assert (len(made), doubles(made)) == (SERVICES_MADE, [])
        recorded = {meta.name(each) for each in (await clients[-1].list(IP_ADDRESSES)).items}
        assert recorded >= {service["spec"]["clusterIP"] for service in made}
    finally:
        for client in clients:
            await client.close()


async def test_all_servers_keep_one_quota(servers: Servers) -> None:
    clients = [servers.client(port) for port in servers.ports]
    try:
        await clients[0].create(NAMESPACES, {"metadata": {"name": "small"}})
        hard = {"count/configmaps": "17"}
        quota = {"metadata": {"name": "q", "namespace": "small"}, "spec": {"hard": hard}}
        stored = await clients[0].create(RESOURCE_QUOTAS, quota, "small")
        status = {"hard": hard, "used": {"count/configmaps": "0"}}
        stored = await clients[0].update(RESOURCE_QUOTAS, {**stored, "status": status}, subresource="status")
        version = meta.resource_version(stored)
        for client in clients:
            # A read that is at least so new: each server has heard of the quota.
            while int((await client.list(RESOURCE_QUOTAS, "small")).resource_version) < int(version):
                await asyncio.sleep(0.01)
        told: Counter[str] = Counter()

        async def create(number: int) -> None:
            body = {"metadata": {"name": f"c{number}"}}
            try:
                await clients[number % len(clients)].create(CONFIG_MAPS, body, "small")
                told["made"] += 1
            except ApiError as error:
                told[error.reason] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(create(number))
        assert told == {"made": 17, "Forbidden": 43}
        assert len((await clients[1].list(CONFIG_MAPS, "small")).items) == 17
        found = await clients[-1].get(RESOURCE_QUOTAS, "q", "small")
        assert found["status"]["used"] == {"count/configmaps": "17"}
    finally:
        for client in clients:
            await client.close()


class Seen:
    """An informer, and how often it was told of each object."""

    def __init__(self, client: Client, space: str) -> None:
        self.client = client
        self.informers = Informers(client)
        self.informer: Informer = self.informers.of(CONFIG_MAPS, space)
        self.added: Counter[str] = Counter()
        self.informer.add_handler(self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if old is None and new is not None:
            self.added[meta.name(new)] += 1


@pytest.mark.parametrize("servers", ["ours"], indirect=True)
async def test_whoever_is_killed_is_not_missed(servers: Servers, kubectl: Path, tmp_path: Path) -> None:
    async with Door().open() as door:
        door.ports = servers.ports
        writer = servers.client(door.port)
        seen = [Seen(servers.client(door.port), "calm"), Seen(servers.client(door.port, hub=True), "calm")]
        asked = Kubectl(kubectl, tmp_path / "kubeconfig", tmp_path)
        asked.kubeconfig.write_text(
            servers.running[0].kubeconfig().read_text().replace(f":{servers.running[0].port}", f":{door.port}")
        )
        waiting = None
        try:
            await create(writer, NAMESPACES, {"metadata": {"name": "calm"}}, "")
            async with asyncio.TaskGroup() as group, asyncio.timeout(DEADLINE_S):
                running = [group.create_task(each.informers.run()) for each in seen]
                for each in seen:
                    await each.informer.wait_synced()
                made = 0
                for _ in range(len(servers.running)):
                    made = await create_some(writer, made, 8)
                    if waiting is None:
                        waiting = asked.start(
                            "wait", "configmap/c0", "-n", "calm", "--for=jsonpath={.data.state}=done", "--timeout=50s"
                        )
                    # Each of the three goes, one after another, while there is work.
                    killed = servers.kill()
                    made = await create_some(writer, made, 4)
                    await asyncio.to_thread(servers.start, killed)
                await patch(writer, "c0", {"data": {"state": "done"}})
                wanted = {f"c{number}" for number in range(made)}
                while any(set(each.added) != wanted for each in seen):
                    await asyncio.sleep(0.02)
                for task in running:
                    task.cancel()
            assert all(set(each.added.values()) == {1} for each in seen)
            assert waiting is not None
            assert "condition met" in await asyncio.to_thread(asked.finish, waiting)
        finally:
            if waiting is not None and waiting.poll() is None:
                waiting.kill()
                waiting.communicate()
            for client in (writer, *(each.client for each in seen)):
                await client.close()


async def create_some(client: Client, made: int, count: int) -> int:
    """Create ConfigMaps with the next numbers; return how many there are."""
    for number in range(made, made + count):
        await create(client, CONFIG_MAPS, {"metadata": {"name": f"c{number}"}, "data": {"state": "new"}}, "calm")
    return made + count


async def create(client: Client, resource: Resource, obj: Object, space: str) -> None:
    """Create an object however many servers die meanwhile."""
    while True:
        try:
            await client.create(resource, obj, space)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return
            if error.code != 503:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def patch(client: Client, name: str, change: Object) -> None:
    while True:
        try:
            await client.patch(CONFIG_MAPS, name, change, "calm")
        except ApiError as error:
            if error.code != 503:
                raise
            await asyncio.sleep(0.05)
        else:
            return
