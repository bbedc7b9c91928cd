"""ResourceQuota in force: several servers on one store admit what fits, and not one object more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from control.apiserver.config import ApiServerConfig, EtcdConfig
from tests.control.apiserver.harness import CONFIG_MAPS, PODS, Answer, config_map, pod
from tests.control.apiserver.test_security import SecuredApi, until
from tests.fakes.fake_store import FakeStore

QUOTAS = "/api/v1/namespaces/default/resourcequotas"
MERGE = "application/merge-patch+json"


class SlowStore(FakeStore):
    """A store whose writes take a turn of the loop, so that requests come between each other."""

    async def create(self, key: str, value: bytes, ttl_s: int = 0) -> int:
        await asyncio.sleep(0)
        return await super().create(key, value, ttl_s)

    async def update(self, key: str, value: bytes, revision: int, ttl_s: int = 0) -> int:
        await asyncio.sleep(0)
        return await super().update(key, value, revision, ttl_s)


@asynccontextmanager
async def servers(count: int = 1) -> AsyncIterator[list[SecuredApi]]:
    """Run servers on one store, with everybody let in."""
    store = SlowStore()
    config = ApiServerConfig(EtcdConfig(("fake",)), authorization_modes=("AlwaysAllow",))
    made, following = [], []
    for _ in range(count):
        api = SecuredApi(store, config, Path())
        following.append(asyncio.ensure_future(api.feed.run()))
        await api.feed.ready()
        await api.security.bootstrap()
        made.append(api)
    await made[0].ask("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    try:
        yield made
    finally:
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def set_quota(
    api: SecuredApi, hard: dict[str, str], used: dict[str, str] | None = None, name: str = "q", **spec: Any
) -> None:
    """Make a quota whose status stands, as its controller would write it, and wait until everybody knows."""
    await api.ask("POST", QUOTAS, {"metadata": {"name": name}, "spec": {"hard": hard, **spec}})
    state = {"hard": hard, "used": used if used is not None else dict.fromkeys(hard, "0")}
    answer = await api.ask("PATCH", f"{QUOTAS}/{name}/status", {"status": state}, content_type=MERGE)
    assert answer.code == 200, answer.body


async def used(api: SecuredApi, name: str = "q") -> dict[str, str]:
    found: dict[str, str] = (await api.ask("GET", f"{QUOTAS}/{name}")).json["status"]["used"]
    return found


async def known_to(apis: list[SecuredApi]) -> None:
    """Wait until each server has seen all that is stored."""
    for api in apis:

        async def is_fresh(api: SecuredApi = api) -> bool:
            return api.feed.revision >= api.store.at

        await until(is_fresh)


async def test_what_does_not_fit_is_refused_in_kubernetes_words() -> None:
    async with servers() as (api,):
        await set_quota(api, {"pods": "1", "requests.cpu": "1"})
        await known_to([api])
        small = pod("a")
        small["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "600m"}}
        assert (await api.ask("POST", PODS, small)).code == 201
        assert await used(api) == {"pods": "1", "requests.cpu": "600m"}
        small["metadata"]["name"] = "b"
        refused = await api.ask("POST", PODS, small)
        assert (refused.code, refused.json["reason"]) == (403, "Forbidden")
        assert refused.json["message"] == (
            'pods "b" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=600m, '
            "used: pods=1,requests.cpu=600m, limited: pods=1,requests.cpu=1"
        )
        lacking = await api.ask("POST", PODS, pod("c"))
        assert lacking.json["message"] == 'pods "c" is forbidden: failed quota: q: must specify requests.cpu for: c'
        assert (await api.ask("GET", PODS)).json["items"][0]["metadata"]["name"] == "a"


async def test_a_quota_that_nobody_has_counted_yet_holds_everything_back() -> None:
    async with servers() as (api,):
        await api.ask("POST", QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "9"}}})
        await known_to([api])
        # Its bounds are in force once its controller has taken them over.
        assert (await api.ask("POST", PODS, pod("a"))).code == 201
        state = {"status": {"hard": {"pods": "9"}}}
        await api.ask("PATCH", f"{QUOTAS}/q/status", state, content_type=MERGE)
        await known_to([api])
        refused = await api.ask("POST", PODS, pod("b"))
        assert refused.json["message"] == 'pods "b" is forbidden: status unknown for quota: q, resources: pods'


async def test_a_dry_run_is_judged_and_not_charged() -> None:
    async with servers() as (api,):
        await set_quota(api, {"count/configmaps": "1"})
        await known_to([api])
        assert (await api.ask("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("a"))).code == 201
        assert await used(api) == {"count/configmaps": "0"}
        assert (await api.ask("POST", CONFIG_MAPS, config_map("a"))).code == 201
        assert (await api.ask("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("b"))).code == 403


async def test_what_is_not_stored_is_given_back() -> None:
    async with servers() as (api,):
        await set_quota(api, {"configmaps": "5", "pods": "5"})
        await set_quota(api, {"count/configmaps": "5"}, name="r")
        await known_to([api])
        assert (await api.ask("POST", CONFIG_MAPS, config_map("a"))).code == 201
        assert (await api.ask("POST", CONFIG_MAPS, config_map("a"))).json["reason"] == "AlreadyExists"
        assert (await used(api), await used(api, "r")) == ({"configmaps": "1", "pods": "0"}, {"count/configmaps": "1"})


async def test_what_one_quota_took_comes_back_when_another_refuses() -> None:
    async with servers() as (api,):
        await set_quota(api, {"count/configmaps": "5"}, name="a")
        await set_quota(api, {"count/configmaps": "1"}, name="b")
        await known_to([api])
        answers = await asyncio.gather(*(api.ask("POST", CONFIG_MAPS, config_map(f"c{n}")) for n in range(4)))
        assert sorted(answer.code for answer in answers) == [201, 403, 403, 403]
        assert (await used(api, "a"), await used(api, "b")) == ({"count/configmaps": "1"}, {"count/configmaps": "1"})


async def test_three_servers_admit_exactly_what_fits() -> None:
    async with servers(3) as apis:
        await set_quota(apis[0], {"count/configmaps": "25"})
        await known_to(apis)
        tasks = (apis[n % 3].ask("POST", CONFIG_MAPS, config_map(f"c{n}")) for n in range(90))
        answers: list[Answer] = await asyncio.gather(*tasks)
        codes = [answer.code for answer in answers]
        assert (codes.count(201), codes.count(403)) == (25, 65), [a.body for a in answers if a.code not in (201, 403)]
        assert await used(apis[0]) == {"count/configmaps": "25"}
        stored = (await apis[1].ask("GET", CONFIG_MAPS)).json["items"]
        assert len(stored) == 25


async def test_a_refusal_never_comes_from_what_a_server_has_not_heard_yet() -> None:
    async with servers(2) as apis:
        await set_quota(apis[0], {"count/configmaps": "1"}, {"count/configmaps": "1"})
        await known_to(apis)
        apis[1].store.held = True
        await apis[0].ask(
            "PATCH", f"{QUOTAS}/q/status", {"status": {"used": {"count/configmaps": "0"}}}, content_type=MERGE
        )
        asked = asyncio.ensure_future(apis[1].ask("POST", CONFIG_MAPS, config_map("a")))
        await asyncio.sleep(0.01)
        apis[1].store.held = False
        apis[1].store.wake()
        assert (await asked).code == 201


async def test_services_are_charged_when_they_change() -> None:
    async with servers() as (api,):
        await set_quota(api, {"services": "2", "services.nodeports": "1"})
        await known_to([api])
        url = "/api/v1/namespaces/default/services"
        body = {"metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}
        assert (await api.ask("POST", url, body)).code == 201
        refused = await api.ask("PATCH", f"{url}/s", {"spec": {"type": "NodePort"}}, content_type=MERGE)
        assert (
            "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0" in refused.json["message"]
        )
        one = {"spec": {"type": "NodePort", "ports": [{"name": "a", "port": 80}]}}
        assert (await api.ask("PATCH", f"{url}/s", one, content_type=MERGE)).code == 200
        assert await used(api) == {"services": "1", "services.nodeports": "1"}


async def test_volumes_are_held_and_bindings_are_labelled() -> None:
    async with servers() as (api,):
        claim = {
            "metadata": {"name": "v"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        made = await api.ask("POST", "/api/v1/namespaces/default/persistentvolumeclaims", claim)
        assert made.json["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"], made.body
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
        volume = await api.ask("POST", "/api/v1/persistentvolumes", {"metadata": {"name": "pv"}, "spec": spec})
        assert volume.json["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"], volume.body
        zone = {"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "other": "x"}
        await api.ask("POST", "/api/v1/nodes", {"metadata": {"name": "n1", "labels": zone}})
        own = pod("p")
        own["metadata"]["labels"] = {"topology.kubernetes.io/region": "mine"}
        await api.ask("POST", PODS, own)
        await known_to([api])
        bound = await api.ask("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "n1"}})
        assert bound.code == 201, bound.body
        labels = (await api.ask("GET", f"{PODS}/p")).json["metadata"]["labels"]
        # As upstream: what the binding says of a label wins over what the pod had.
        assert labels == {"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}
