"""Bootstrap tokens: cluster-info carries a signature of each that may sign, and none outlives its time."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

from control.api import bootstraptokens
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, SECRETS
from control.controllers.bootstraptokens import BootstrapSigner, TokenCleaner
from tests.control.controllers.harness import START, World, until


def stored(token: str, expiration: datetime | None = None) -> Object:
    made = bootstraptokens.secret_object(token, expiration=expiration)
    data = made.pop("stringData")
    return {**made, "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def signatures(world: World) -> dict[str, str]:
    found = world.client.find(CONFIG_MAPS, "cluster-info", "kube-public")
    assert found is not None
    prefix = bootstraptokens.SIGNATURE_PREFIX
    return {key.removeprefix(prefix): value for key, value in found["data"].items() if key.startswith(prefix)}


async def test_cluster_info_is_signed_with_every_token() -> None:
    world = World()
    metadata = {"name": "cluster-info", "namespace": "kube-public"}
    world.client.put(CONFIG_MAPS, {"metadata": metadata, "data": {"kubeconfig": "one", "jws-kubeconfig-gone00": "x"}})
    world.client.put(SECRETS, stored("aaaaaa.0123456789abcdef"))
    async with world.running(lambda context: [BootstrapSigner(context)]):
        await until(lambda: set(signatures(world)) == {"aaaaaa"})
        assert bootstraptokens.is_signed("one", signatures(world)["aaaaaa"], "aaaaaa.0123456789abcdef")
        world.client.put(SECRETS, stored("bbbbbb.0123456789abcdef"))
        await until(lambda: set(signatures(world)) == {"aaaaaa", "bbbbbb"})
        await world.client.delete(SECRETS, "bootstrap-token-aaaaaa", "kube-system")
        await until(lambda: set(signatures(world)) == {"bbbbbb"})
        await world.client.patch(CONFIG_MAPS, "cluster-info", {"data": {"kubeconfig": "two"}}, "kube-public")
        await until(lambda: bootstraptokens.is_signed("two", signatures(world)["bbbbbb"], "bbbbbb.0123456789abcdef"))


async def test_tokens_are_deleted_when_their_time_is_over() -> None:
    world = World()
    world.client.put(SECRETS, stored("aaaaaa.0123456789abcdef", START + timedelta(hours=1)))
    world.client.put(SECRETS, stored("bbbbbb.0123456789abcdef"))
    async with world.running(lambda context: [TokenCleaner(context)]) as controllers:
        await world.settle(controllers)
        assert world.client.find(SECRETS, "bootstrap-token-aaaaaa", "kube-system")
        world.pass_time(3601)
        controllers[0].queue.add("kube-system/bootstrap-token-aaaaaa")
        await until(lambda: not world.client.find(SECRETS, "bootstrap-token-aaaaaa", "kube-system"))
        assert world.client.find(SECRETS, "bootstrap-token-bbbbbb", "kube-system")
