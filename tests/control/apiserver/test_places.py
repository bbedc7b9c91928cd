"""A right counts for the place and the verb that it was given for, by whichever door one comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
import pytest_asyncio

from control.apiserver.authz.attributes import Attributes
from control.apiserver.grpc import STATUS_KEY, HubServer
from control.apiserver.request import Credentials, UserInfo
from proto.control import resources_pb2 as pb
from proto.control import resources_pb2_grpc as pb_grpc
from tests.control.apiserver.test_security import RBAC, SecuredApi, named, secured, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHIEF = "chief"
READER = "reader"
RULES = {
    CHIEF: [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    READER: [
        {"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]},
        {"verbs": ["get", "create"], "apiGroups": [""], "resources": ["pods/log", "pods/exec", "pods/proxy"]},
        {"verbs": ["patch", "update"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["patch", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]},
    ],
}


class Named:
    """Knows users by a header, so that no certificates are needed."""

    async def authenticate(self, credentials: Credentials) -> UserInfo | None:
        name = credentials.authorization
        return UserInfo(name, groups=("system:masters",) if name == "root" else ("system:authenticated",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredApi]:
    async with secured(tmp_path_factory.mktemp("places")) as made:
        made.service._authenticator = Named()
        for user, rules in RULES.items():
            role = named(user, rules=rules)
            assert (await made.ask("POST", f"{RBAC}/namespaces/default/roles", role, authorization="root")).code == 201
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user}
            subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
            binding = named(user, roleRef=reference, subjects=subjects)
            url = f"{RBAC}/namespaces/default/rolebindings"
            assert (await made.ask("POST", url, binding, authorization="root")).code == 201
        for name in ("mine", "yours"):
            await made.ask("POST", "/api/v1/namespaces/default/secrets", named(name), authorization="root")
        account = named("default")
        await made.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account, authorization="root")
        pod = named("p", spec={"containers": [{"name": "c", "image": "i"}]})
        assert (await made.ask("POST", "/api/v1/namespaces/default/pods", pod, authorization="root")).code == 201
        node = await made.ask("POST", "/api/v1/nodes", named("n1"), authorization="root")
        assert node.code == 201

        async def is_known() -> bool:
            question = Attributes(UserInfo(READER), "patch", resource="configmaps", namespace="default", name="x")
            return made.security.authorizer.judge(question).allowed  # type: ignore[attr-defined, no-any-return]

        await until(is_known)
        yield made


POWER = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
TO_CHIEF = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": CHIEF}]
SPACE = "namespaces/default"


@pytest.mark.parametrize(
    ("user", "method", "url", "body", "code"),
    [
        pytest.param(CHIEF, "GET", f"/api/v1/{SPACE}/nodes", None, 404, id="nodes in a namespace"),
        pytest.param(CHIEF, "GET", f"/api/v1/{SPACE}/nodes/n1", None, 404, id="a node in a namespace"),
        pytest.param(CHIEF, "GET", f"/api/v1/{SPACE}/nodes/n1/proxy/pods", None, 404, id="a node's proxy in a namespace"),
        pytest.param(CHIEF, "POST", f"{RBAC}/{SPACE}/clusterrolebindings",
                     named("up", roleRef=POWER, subjects=TO_CHIEF), 404, id="a cluster's binding in a namespace"),
        pytest.param(CHIEF, "DELETE", f"/api/v1/{SPACE}/namespaces/kube-system", None, 404, id="another namespace"),
        pytest.param(CHIEF, "PATCH", f"/api/v1/{SPACE}/namespaces/kube-public", {}, 404, id="patch another namespace"),
        pytest.param(CHIEF, "GET", f"/api/v1/{SPACE}", None, 200, id="the own namespace"),
        pytest.param("root", "DELETE", "/api/v1/secrets", None, 405, id="delete in all namespaces"),
        pytest.param("root", "POST", "/api/v1/secrets", named("s"), 405, id="create in no namespace"),
        pytest.param("root", "GET", "/api/v1/secrets/mine", None, 404, id="get in no namespace"),
        pytest.param("root", "GET", "/api/v1/pods/p/log", None, 404, id="a log in no namespace"),
        pytest.param("root", "GET", f"/api/v1/{SPACE}/pods/p/status/more", None, 404, id="behind a subresource"),
        pytest.param(READER, "GET", f"/api/v1/{SPACE}/secrets?fieldSelector=metadata.name=mine", None, 200, id="mine"),
        pytest.param(READER, "GET", f"/api/v1/{SPACE}/secrets", None, 403, id="all secrets"),
        pytest.param(READER, "GET", f"/api/v1/{SPACE}/secrets?fieldSelector=metadata.name!=mine", None, 403, id="not mine"),
        pytest.param(READER, "GET", f"/api/v1/watch/{SPACE}/secrets/mine?fieldSelector=type!%3Dx", None, 400,
                     id="a name and another selector"),
        pytest.param(READER, "PATCH", f"/api/v1/{SPACE}/configmaps/new?fieldManager=m",
                     {"apiVersion": "v1", "kind": "ConfigMap"}, 403, id="create by apply"),
        pytest.param(READER, "PUT", f"/apis/coordination.k8s.io/v1/{SPACE}/leases/new",
                     named("new", spec={}), 403, id="create by update"),
        pytest.param("root", "PUT", f"/apis/coordination.k8s.io/v1/{SPACE}/leases/made",
                     named("made", spec={}), 201, id="update creates a lease"),
        pytest.param("root", "PUT", f"/api/v1/{SPACE}/configmaps/none", named("none"), 404, id="but no config map"),
    ],
)  # fmt: skip
async def test_rest(api: SecuredApi, user: str, method: str, url: str, body: Any, code: int) -> None:
    content_type = (
        "application/apply-patch+yaml"
        if method == "PATCH" and "fieldManager" in url
        else ("application/merge-patch+json" if method == "PATCH" else "application/json")
    )
    answer = await api.ask(method, url, body, content_type=content_type, authorization=user)
    assert (answer.code, answer.json.get("kind") == "Status") == (code, code >= 300), answer.body
    assert "kube-system" in {
        item["metadata"]["name"] for item in (await api.ask("GET", "/api/v1/namespaces", authorization="root")).json["items"]
    }  # fmt: skip


@asynccontextmanager
async def hub_of(api: SecuredApi) -> AsyncIterator[Any]:
    hub = HubServer(replace(api.service.config, grpc_port=0, tls_cert_file=None, client_ca_file=None), api.service)
    await hub.start()
    running = asyncio.ensure_future(hub.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.port}") as channel:
            yield pb_grpc.ResourcesStub(channel)
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=15)


def at(resource: str, name: str = "", namespace: str = "default", subresource: str = "") -> pb.Target:
    return pb.Target(version="v1", resource=resource, namespace=namespace, name=name, subresource=subresource)


POD = orjson.dumps(named("evil", spec={"containers": [{"name": "c", "image": "i"}]}))


@pytest.mark.parametrize(
    ("user", "method", "request_", "code"),
    [
        pytest.param(CHIEF, "Get", pb.GetRequest(target=at("nodes", "n1")), 404, id="a node in a namespace"),
        pytest.param(CHIEF, "Get", pb.GetRequest(target=at("namespaces", "kube-system")), 403, id="another namespace"),
        pytest.param(CHIEF, "Get", pb.GetRequest(target=at("namespaces", "default", "")), 0, id="the own namespace"),
        pytest.param(CHIEF, "Create", pb.CreateRequest(target=at("namespaces", "default"),
                                                      object=orjson.dumps(named("mine"))), 403, id="a new namespace"),
        pytest.param(CHIEF, "Delete", pb.DeleteRequest(target=at("secrets", namespace="")), 403, id="all namespaces"),
        pytest.param("root", "Delete", pb.DeleteRequest(target=at("secrets", namespace="")), 405, id="nowhere"),
        pytest.param(READER, "Get", pb.GetRequest(target=at("pods", "p", subresource="log")), 405, id="a pod as its log"),
        pytest.param(READER, "Create", pb.CreateRequest(target=at("pods", "p", subresource="exec"), object=POD), 405,
                     id="a pod by exec"),
        pytest.param("root", "Delete", pb.DeleteRequest(target=at("pods", "p", subresource="proxy")), 405,
                     id="a pod by its proxy"),
        pytest.param(READER, "List", pb.ListRequest(target=at("secrets", "mine"), field_selector="type!=x"), 400,
                     id="a name and another selector"),
        pytest.param(READER, "List", pb.ListRequest(target=at("secrets"), field_selector="metadata.name=mine"), 0,
                     id="mine"),
        pytest.param(READER, "List", pb.ListRequest(target=at("secrets")), 403, id="all secrets"),
        pytest.param(READER, "Patch", pb.PatchRequest(target=at("configmaps", "new"), field_manager="m",
                     patch_type="application/apply-patch+yaml", patch=b'{"apiVersion":"v1","kind":"ConfigMap"}'), 403,
                     id="create by apply"),
    ],
)  # fmt: skip
async def test_hub(api: SecuredApi, user: str, method: str, request_: Any, code: int) -> None:
    async with hub_of(api) as stub:
        found = 0
        try:
            await getattr(stub, method)(request_, metadata=(("authorization", user),))
        except grpc.aio.AioRpcError as error:
            found = orjson.loads(dict(error.trailing_metadata() or ())[STATUS_KEY])["code"]
        assert found == code
    pods = await api.ask("GET", "/api/v1/namespaces/default/pods", authorization="root")
    assert [item["metadata"]["name"] for item in pods.json["items"]] == ["p"]
