"""Server-side apply through the API server: what defaults, other writers and kubectl's own notes make of it."""

from __future__ import annotations

import copy
from typing import Any

import orjson

from tests.control.apiserver.harness import CONFIG_MAPS, DEPLOYMENTS, Answer, Api, config_map, deployment, running

APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
NOTE = "kubectl.kubernetes.io/last-applied-configuration"


async def apply(api: Api, wish: Any, manager: str = "m", *, part: str = "", force: bool = False) -> Answer:
    url = DEPLOYMENTS if wish["kind"] == "Deployment" else CONFIG_MAPS
    query = f"fieldManager={manager}" + ("&force=True" if force else "")
    return await api.ask("PATCH", f"{url}/{wish['metadata']['name']}{part}?{query}", wish, content_type=APPLY)


def owned(answer: Answer, manager: str) -> Any:
    entries = answer.json["metadata"].get("managedFields", [])
    return next((entry["fieldsV1"] for entry in entries if entry["manager"] == manager), None)


def with_pod(**fields: Any) -> dict[str, Any]:
    made = deployment("d")
    made["spec"]["template"]["spec"].update(fields)
    return made


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "c", "image": "busybox", **fields}


async def test_what_is_dropped_goes_with_its_defaults() -> None:
    probe = {"httpGet": {"path": "/", "port": 80}}
    volume = {"name": "v", "configMap": {"name": "x"}}
    async with running() as api:
        full = with_pod(containers=[container(livenessProbe=probe)], volumes=[volume], securityContext={"runAsUser": 1})
        made = await apply(api, full)
        assert made.json["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] == 10
        other = {"name": "v", "secret": {"secretName": "y"}}
        changed = await apply(api, with_pod(containers=[container()], volumes=[other]))
        assert changed.code == 200, changed.json
        found = changed.json["spec"]["template"]["spec"]
        assert "livenessProbe" not in found["containers"][0]
        assert found["volumes"] == [{"name": "v", "secret": {"secretName": "y", "defaultMode": 420}}]
        assert "runAsUser" not in found.get("securityContext", {})


async def test_a_structure_stays_while_another_has_something_in_it() -> None:
    async with running() as api:
        await apply(api, with_pod(containers=[container(resources={"limits": {"cpu": "1"}})]))
        other = deployment("d")
        other["spec"] = {
            "template": {"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "1Gi"}}}]}}
        }
        assert (await apply(api, other, "n")).code == 200
        left = await apply(api, with_pod(containers=[container()]))
        assert left.json["spec"]["template"]["spec"]["containers"][0]["resources"] == {"limits": {"memory": "1Gi"}}


async def test_force_may_be_written_as_python_writes_it() -> None:
    async with running() as api:
        await apply(api, {**config_map("a", x="1")})
        assert (await apply(api, config_map("a", x="2"), "n")).code == 409
        assert (await apply(api, config_map("a", x="2"), "n", force=True)).json["data"] == {"x": "2"}


async def test_one_key_twice_is_refused() -> None:
    async with running() as api:
        answer = await apply(api, with_pod(containers=[container(), container()]))
        assert (answer.code, "duplicate entries for key" in answer.json["message"]) == (500, True)


async def test_status_is_owned_through_its_subresource() -> None:
    async with running() as api:
        await apply(api, deployment("d"))
        wish = {**deployment("d", 9), "status": {"replicas": 3, "observedGeneration": 1}}
        answer = await apply(api, wish, "controller", part="/status")
        assert (answer.json["status"]["replicas"], answer.json["spec"]["replicas"]) == (3, 1)
        assert set(owned(answer, "controller")) == {"f:status"}
        again = await apply(api, {**deployment("d"), "status": {"replicas": 7}})
        assert again.json["status"]["replicas"] == 3
        assert "f:status" not in owned(again, "m")


async def test_owners_may_be_written_and_wiped() -> None:
    async with running() as api:
        made = await apply(api, config_map("a", x="1"))
        entries = made.json["metadata"]["managedFields"]
        renamed = [{**entries[0], "manager": "heir"}]
        patch = {"metadata": {"managedFields": renamed}}
        moved = await api.ask("PATCH", f"{CONFIG_MAPS}/a?fieldManager=x", patch, content_type=MERGE)
        assert (owned(moved, "heir"), owned(moved, "m")) == ({"f:data": {"f:x": {}}}, None)
        for broken in (
            [{"manager": "x"}],
            [{**entries[0], "fieldsV1": {"q": {}}}],
            [{**entries[0], "fieldsV1": 5}],
        ):
            kept = await api.ask(
                "PATCH", f"{CONFIG_MAPS}/a?fieldManager=x", {"metadata": {"managedFields": broken}}, content_type=MERGE
            )
            assert (kept.code, owned(kept, "heir")) == (200, {"f:data": {"f:x": {}}})
        owned_by_nobody: list[list[Any]] = [[], [{}]]
        for nobody in owned_by_nobody:
            wipe: Any = {"metadata": {"managedFields": nobody}, "data": {"x": "2"}}
            wiped = await api.ask("PATCH", f"{CONFIG_MAPS}/a", wipe, content_type=MERGE)
            assert "managedFields" not in wiped.json["metadata"]
            await apply(api, config_map("a", x="2"), force=True)
        sent = {**config_map("b", k="v"), "metadata": {"name": "b", "managedFields": [{"fieldsV1": 5}]}}
        assert owned(await api.ask("POST", f"{CONFIG_MAPS}?fieldManager=x", sent), "x") == {
            "f:data": {".": {}, "f:k": {}}
        }


async def test_kubectl_goes_on_by_the_server_where_it_began_by_the_client() -> None:
    async with running() as api:
        noted = deployment("d")
        began = copy.deepcopy(noted)
        began["metadata"]["annotations"] = {NOTE: orjson.dumps(noted).decode(), "other": "x"}
        assert (await api.ask("POST", DEPLOYMENTS, began)).code == 201
        wish = deployment("d", 4)
        assert (await apply(api, wish, "somebody")).code == 409
        done = await apply(api, wish, "kubectl")
        assert (done.code, done.json["spec"]["replicas"]) == (200, 4)
        note = orjson.loads(done.json["metadata"]["annotations"][NOTE])
        assert (note["spec"]["replicas"], note["metadata"]) == (4, {"name": "d", "annotations": {}})
        scaled = await api.ask("PATCH", f"{DEPLOYMENTS}/d", {"spec": {"replicas": 6}}, content_type=MERGE)
        assert scaled.json["spec"]["replicas"] == 6
        late = await apply(api, deployment("d", 5), "kubectl")
        assert (late.code, late.json["details"]["causes"][0]["field"]) == (409, ".spec.replicas")


async def test_the_time_of_an_owner_is_that_of_its_last_change(monkeypatch: Any) -> None:
    times = iter(f"2024-05-06T07:08:0{number}Z" for number in range(9))
    monkeypatch.setattr("control.apiserver.ownership.now_text", lambda: next(times))
    async with running() as api:
        await apply(api, config_map("a", x="1"))
        same = await apply(api, config_map("a", x="1"))
        assert same.json["metadata"]["managedFields"][0]["time"] == "2024-05-06T07:08:00Z"
        other = await apply(api, config_map("a", x="2"))
        assert other.json["metadata"]["managedFields"][0]["time"] == "2024-05-06T07:08:02Z"
