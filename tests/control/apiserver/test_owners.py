"""Owners of fields from an object's creation on, through the API server's doors; and apply patches on scale."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.resources import CONFIG_MAPS as MAPS
from control.api.tracking import MANAGER_BYTES_MAX, manager_name
from tests.control.apiserver.harness import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    Answer,
    Api,
    config_map,
    deployment,
    pod,
    running,
)
from tests.control.apiserver.test_hub import client_of

APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
REPLICAS: dict[str, Any] = {"f:spec": {"f:replicas": {}}}


def owners(answer: Answer | dict[str, Any]) -> dict[str, Any]:
    """Return what is owned, by manager, operation and subresource."""
    obj = answer.json if isinstance(answer, Answer) else answer
    found = {}
    for entry in obj["metadata"].get("managedFields", []):
        words = (entry["manager"], entry["operation"], entry.get("subresource", ""))
        found[" ".join(word for word in words if word)] = entry["fieldsV1"]
    return found


@pytest.mark.parametrize(
    ("field_manager", "agent", "name"),
    [
        ("me", "kubectl/v1.36.4 (linux/amd64)", "me"),
        ("", "kubectl/v1.36.4 (linux/amd64)", "kubectl"),
        ("", "a\tb/1", "ab"),
        ("", "", "unknown"),
        ("", "/x", "unknown"),
        ("", "é" * 100, "é" * (MANAGER_BYTES_MAX // 2)),
    ],
)
def test_writers_are_known_by_their_name_or_their_program(field_manager: str, agent: str, name: str) -> None:
    assert manager_name(field_manager, agent) == name


async def test_each_part_belongs_to_who_wrote_it() -> None:
    async with running() as api:
        made = await api.ask("POST", f"{PODS}?fieldManager=maker", pod("p"))
        assert set(owners(made)) == {"maker Update"}
        assert "f:restartPolicy" in owners(made)["maker Update"]["f:spec"]
        assert "f:status" not in owners(made)["maker Update"]
        status = {"status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}, "metadata": {"labels": {"a": "b"}}}
        told = await api.ask("PATCH", f"{PODS}/p/status", status, content_type=MERGE, user_agent="kubelet/v1.36")
        found = owners(told)["kubelet Update status"]
        assert found["f:status"] == {"f:phase": {}, "f:podIPs": {".": {}, 'k:{"ip":"10.0.0.1"}': {".": {}, "f:ip": {}}}}
        body = told.json
        body["metadata"]["managedFields"] = [{"manager": "forged", "operation": "Update"}]
        body["status"]["phase"] = "Failed"
        again = await api.ask("PUT", f"{PODS}/p/status?fieldManager=gc", body)
        assert owners(again)["gc Update status"] == {"f:status": {"f:phase": {}}}
        assert "f:phase" not in owners(again)["kubelet Update status"]["f:status"]
        assert not [name for name in owners(again) if name.startswith("forged")]


async def test_a_change_that_changes_nothing_is_not_written() -> None:
    async with running() as api:
        made = await api.ask("POST", f"{CONFIG_MAPS}?fieldManager=a", config_map("m", x="1"))
        for manager in ("a", "b"):
            same = await api.ask("PUT", f"{CONFIG_MAPS}/m?fieldManager={manager}", config_map("m", x="1"))
            assert same.json == made.json
        dry = await api.ask("PUT", f"{CONFIG_MAPS}/m?fieldManager=b&dryRun=All", config_map("m", x="2"))
        assert set(owners(dry)) == {"b Update", "a Update"}
        assert (await api.ask("GET", f"{CONFIG_MAPS}/m")).json == made.json


async def test_a_change_that_is_taken_back_leaves_even_the_times_alone(monkeypatch: Any) -> None:
    times = iter(f"2024-05-06T07:08:0{number}Z" for number in range(9))
    monkeypatch.setattr("control.apiserver.ownership.now_text", lambda: next(times))
    async with running() as api:
        await api.ask("POST", f"{CONFIG_MAPS}?fieldManager=a", config_map("m"))
        # No client can set this, so that it is written, owned, and not there.
        patch = {"metadata": {"deletionGracePeriodSeconds": 5}}
        first, second = [
            await api.ask("PATCH", f"{CONFIG_MAPS}/m?fieldManager=a", patch, content_type=MERGE) for _ in range(2)
        ]
        assert first.json == second.json


async def test_what_an_update_creates_is_its_own() -> None:
    async with running() as api:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
        lease["spec"] = {"holderIdentity": "x"}
        url = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l?fieldManager=holder"
        made = await api.ask("PUT", url, lease)
        assert (made.code, owners(made)) == (201, {"holder Update": {"f:spec": {"f:holderIdentity": {}}}})


@pytest.mark.parametrize("transport", ["grpc", "rest", "loopback"])
async def test_all_doors_tell_who_writes(transport: str) -> None:
    name = {"loopback": "kube-apiserver"}.get(transport, "raftsman")
    async with running() as api, client_of(api, transport) as client:
        made = await client.create(MAPS, config_map("m", x="1"), "default")
        assert owners(made) == {f"{name} Update": {"f:data": {".": {}, "f:x": {}}}}
        merged = await client.patch(MAPS, "m", {"data": {"y": "2"}}, "default", field_manager="other")
        assert owners(merged)["other Update"] == {"f:data": {"f:y": {}}}


async def scaled(api: Api, replicas: int, manager: str, *, force: bool = False) -> Answer:
    wish = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}}
    query = f"fieldManager={manager}" + ("&force=true" if force else "")
    return await api.ask("PATCH", f"{DEPLOYMENTS}/d/scale?{query}", wish, content_type=APPLY)


async def test_who_scales_owns_the_replicas_alone() -> None:
    async with running() as api:
        await api.ask("POST", f"{DEPLOYMENTS}?fieldManager=maker", deployment("d"))
        patch = {"spec": {"replicas": 3}}
        answer = await api.ask("PATCH", f"{DEPLOYMENTS}/d/scale?fieldManager=kubectl", patch, content_type=MERGE)
        assert (answer.json["kind"], "managedFields" in answer.json["metadata"]) == ("Scale", False)
        found = await api.ask("GET", f"{DEPLOYMENTS}/d")
        assert owners(found)["kubectl Update scale"] == REPLICAS
        assert "f:replicas" not in owners(found)["maker Update"]["f:spec"]
        entry = next(each for each in found.json["metadata"]["managedFields"] if each.get("subresource") == "scale")
        # As in Kubernetes: since when somebody owns what they scaled is not told.
        assert (entry["apiVersion"], "time" in entry) == ("apps/v1", False)


async def test_scale_takes_apply_patches() -> None:
    async with running() as api:
        await api.ask("POST", f"{DEPLOYMENTS}?fieldManager=maker", deployment("d"))
        refused = await scaled(api, 4, "hpa")
        assert (refused.code, refused.json["message"]) == (
            409, 'Apply failed with 1 conflict: conflict with "maker" using autoscaling/v1: .spec.replicas'
        )  # fmt: skip
        taken = await scaled(api, 4, "hpa", force=True)
        assert (taken.code, taken.json["kind"], taken.json["spec"]) == (200, "Scale", {"replicas": 4})
        found = await api.ask("GET", f"{DEPLOYMENTS}/d")
        assert (found.json["spec"]["replicas"], owners(found)["hpa Apply scale"]) == (4, REPLICAS)
        wish = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 5}}
        late = await api.ask("PATCH", f"{DEPLOYMENTS}/d?fieldManager=x", wish, content_type=APPLY)
        assert late.json["message"] == (
            'Apply failed with 1 conflict: conflict with "hpa" with subresource "scale": .spec.replicas'
        )
        assert (await scaled(api, 6, "hpa")).json["spec"] == {"replicas": 6}
        assert (await scaled(api, -1, "hpa")).code == 422
        unnamed = await scaled(api, 6, "")
        assert (unnamed.code, unnamed.json["details"]["causes"][0]["field"]) == (422, "fieldManager")
        missing = await api.ask(
            "PATCH",
            f"{DEPLOYMENTS}/e/scale?fieldManager=x",
            {"kind": "Scale", "apiVersion": "autoscaling/v1"},
            content_type=APPLY,
        )
        assert missing.code == 404


async def test_an_applied_zero_value_takes_effect() -> None:
    async with running() as api:
        paused = deployment("d")
        paused["spec"]["paused"] = True
        await api.ask("PATCH", f"{DEPLOYMENTS}/d?fieldManager=m", paused, content_type=APPLY)
        paused["spec"]["paused"] = False
        done = await api.ask("PATCH", f"{DEPLOYMENTS}/d?fieldManager=m", paused, content_type=APPLY)
        assert (done.code, done.json["spec"].get("paused", False)) == (200, False)
        assert "f:paused" in owners(done)["m Apply"]["f:spec"]


async def test_versions_of_one_kind_share_their_owners() -> None:
    async with running() as api:
        url = "/apis/autoscaling/{}/namespaces/default/horizontalpodautoscalers"
        spec = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3}
        old = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}}
        made = await api.ask("POST", f"{url.format('v1')}?fieldManager=old", {**old, "spec": spec})
        assert made.code == 201, made.json
        patch = {"spec": {"maxReplicas": 5}}
        new = await api.ask("PATCH", f"{url.format('v2')}/h?fieldManager=new", patch, content_type=MERGE)
        assert owners(new)["new Update"] == {"f:spec": {"f:maxReplicas": {}}}
        assert "f:scaleTargetRef" in owners(new)["old Update"]["f:spec"]
        assert "f:maxReplicas" not in owners(new)["old Update"]["f:spec"]
        unknown = [{**entry, "apiVersion": "autoscaling/v9"} for entry in new.json["metadata"]["managedFields"]]
        strange = {"metadata": {"managedFields": unknown}, "spec": {"minReplicas": 2}}
        left = await api.ask("PATCH", f"{url.format('v2')}/h?fieldManager=x", strange, content_type=MERGE)
        assert set(owners(left)) == {"x Update"}
