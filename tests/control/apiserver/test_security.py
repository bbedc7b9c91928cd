"""Everything that judges requests, together, over a store in memory: who gets in, and what they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver import kinds
from control.apiserver.config import ApiServerConfig, EtcdConfig
from control.apiserver.feed import Feed
from control.apiserver.loopback import LoopbackClient
from control.apiserver.pods import PodSubresources
from control.apiserver.ranges import EtcdRanges
from control.apiserver.registry import Registry, Settings
from control.apiserver.request import Handlers, Hub
from control.apiserver.rest.app import App
from control.apiserver.rest.discovery import Discovery
from control.apiserver.rest.health import Health, fine
from control.apiserver.rest.openapi import OpenAPI
from control.apiserver.security import secure
from control.apiserver.service import Service
from lab import pki
from tests.control.apiserver.harness import Answer, Api
from tests.fakes.fake_store import FakeStore

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def _as_it_is(resource: Resource, obj: Object, validation: str = "Ignore") -> Object:
    return obj


class SecuredApi(Api):
    """The application as it is served, with certificates handed over as TLS would."""

    def __init__(self, store: FakeStore, config: ApiServerConfig, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.feed = Feed(store, kinds.load())  # type: ignore[arg-type]
        self.registry = Registry(store, self.feed, Settings())  # type: ignore[arg-type]
        self.handlers = Handlers()
        client = LoopbackClient()
        ranges = EtcdRanges(store, config.etcd.prefix)  # type: ignore[arg-type]
        self.security = secure(
            Hub(
                config,
                self.feed,
                client,
                self.handlers,
                ranges,
                lambda *_: None,
                _as_it_is,
                lambda _: "",
                revision_of=self.feed.revision_of,
            )
        )
        self.registry.admission = self.security.admission
        self.registry.allocators = self.security.allocators
        security = self.security
        self.service = Service(config, self.registry, self.handlers, security.authenticator, security.authorizer)
        client.service = self.service
        PodSubresources(self.registry).install(self.handlers)
        health = Health({"ping": fine}, {})
        self.app = App(self.service, Discovery(self.feed.kinds), health, OpenAPI(self.feed.kinds))
        self.user = ""

    def scope(self, method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
        made = super().scope(method, url, headers)
        if self.user:
            certificate = x509.load_pem_x509_certificate((self.folder / f"{self.user}.crt").read_bytes())
            made["state"] = {"certificate": certificate.public_bytes(serialization.Encoding.DER)}
        return made

    async def by(self, user: str, method: str, url: str, body: Any = None, **headers: str) -> Answer:
        """Ask with somebody's certificate; nobody's where the name is empty."""
        self.user = user
        try:
            return await self.ask(method, url, body, **headers)
        finally:
            self.user = ""


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[SecuredApi]:
    authority = pki.make_authority(folder, "ca", "kubernetes")
    stranger = pki.make_authority(folder / "other", "ca", "kubernetes")
    pki.make_service_account_key(folder)
    pki.issue(authority, folder, "root", "root", organizations=["system:masters"])
    pki.issue(authority, folder, "ann", "ann")
    pki.issue(authority, folder, "n1", "system:node:n1", organizations=["system:nodes"])
    pki.issue(stranger, folder, "stranger", "root", organizations=["system:masters"])
    config = ApiServerConfig(
        EtcdConfig(("fake",)),
        client_ca_file=folder / "ca.crt",
        service_account_key_files=(folder / "sa.pub",),
        service_account_signing_key_file=folder / "sa.key",
    )
    api = SecuredApi(FakeStore(), config, folder)
    following = asyncio.ensure_future(api.feed.run())
    await api.feed.ready()
    await api.security.bootstrap()
    upkeep = asyncio.ensure_future(api.security.run())
    try:
        yield api
    finally:
        for task in (upkeep, following):
            task.cancel()
        await asyncio.wait([upkeep, following])


async def until(attempt: Any, seconds: float = 5.0) -> None:
    """Wait until the caches have caught up."""
    async with asyncio.timeout(seconds):
        while not await attempt():
            await asyncio.sleep(0.01)


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **fields}


async def test_who_gets_in(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        pods = "/api/v1/namespaces/default/pods"
        assert (await api.by("root", "GET", pods)).code == 200
        refused = await api.by("ann", "GET", pods)
        assert (refused.code, refused.json["message"]) == (
            403,
            'pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace "default"',
        )
        anonymous = await api.by("", "GET", pods)
        assert anonymous.json["message"].startswith('pods is forbidden: User "system:anonymous" cannot list')
        assert (await api.by("", "GET", "/readyz")).code == 200
        assert (await api.by("", "GET", "/apis")).code == 403
        for answer in (
            await api.by("stranger", "GET", pods),
            await api.by("", "GET", pods, authorization="Bearer nonsense"),
            await api.by("", "GET", "/readyz", authorization="Basic cm9vdDpyb290"),
        ):
            assert (answer.code, answer.json["message"]) == (401, "Unauthorized")


async def test_impersonation(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        body = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
        answer = await api.by("root", "POST", review, body, impersonate_user="bob", impersonate_group="dev")
        assert answer.code == 201, answer.body
        assert answer.json["status"]["userInfo"] == {"username": "bob", "groups": ["dev", "system:authenticated"]}
        refused = await api.by("ann", "GET", "/version", impersonate_user="root")
        assert (refused.code, refused.json["message"]) == (
            403,
            'users "root" is forbidden: User "ann" cannot impersonate resource "users" in API group "" at the cluster'
            " scope",
        )


async def test_a_token_lives_as_long_as_its_account(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        await api.by("root", "POST", accounts, named("robot"))
        asked = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 600}}
        made = await api.by("root", "POST", f"{accounts}/robot/token", asked)
        assert made.code == 201
        token = made.json["status"]["token"]
        review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}}
        status = (await api.by("root", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)).json["status"]
        assert (status["authenticated"], status["user"]["username"]) == (True, "system:serviceaccount:default:robot")
        other = {**review, "spec": {"token": token, "audiences": ["vault"]}}
        status = (await api.by("root", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", other)).json["status"]
        assert "authenticated" not in status
        assert status["error"].startswith("invalid bearer token, token audiences")
        assert (await api.by("", "GET", "/apis", authorization=f"Bearer {token}")).code == 200
        await api.by("root", "DELETE", f"{accounts}/robot")

        async def is_worthless() -> bool:
            return (await api.by("", "GET", "/apis", authorization=f"Bearer {token}")).code == 401

        await until(is_worthless)


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"expirationSeconds": 60}, 422, "may not specify a duration less than 10 minutes"),
        ({"expirationSeconds": 1 << 33}, 422, "may not specify a duration larger than 2^32 seconds"),
        ({"boundObjectRef": {"kind": "Node", "name": "x", "apiVersion": "v1"}}, 404, 'nodes "x" not found'),
        (
            {"boundObjectRef": {"kind": "Pig", "name": "x"}},
            400,
            'cannot bind token for serviceaccount "robot" to type Pig',
        ),
    ],
    ids=["short", "long", "missing object", "no such kind"],
)
async def test_token_requests_that_are_refused(tmp_path: Path, spec: dict[str, Any], code: int, text: str) -> None:
    async with secured(tmp_path) as api:
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        await api.by("root", "POST", accounts, named("robot"))
        asked = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec}
        refused = await api.by("root", "POST", f"{accounts}/robot/token", asked)
        assert (refused.code, text in refused.json["message"]) == (code, True), refused.json["message"]


async def test_a_node_gets_no_token_but_its_pods(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        await api.by("root", "POST", "/api/v1/namespaces/default/serviceaccounts", named("default"))
        made = await api.by(
            "root", "POST", "/api/v1/namespaces/default/pods",
            named("p", spec={"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}),
        )  # fmt: skip
        assert made.code == 201, made.body
        url = "/api/v1/namespaces/default/serviceaccounts/default/token"
        reference = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made.json["metadata"]["uid"]}
        bound = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "spec": {"boundObjectRef": reference},
        }

        async def is_given() -> bool:
            return (await api.by("n1", "POST", url, bound)).code == 201

        await until(is_given)
        refused = await api.by("n1", "POST", url, {**bound, "spec": {}})
        assert "node requested token not bound to a pod" in refused.json["message"]


async def test_reviews_of_access(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        about = {"verb": "list", "resource": "pods", "namespace": "default"}
        group = "/apis/authorization.k8s.io/v1"

        def review(kind: str, **spec: Any) -> dict[str, Any]:
            return {"kind": kind, "apiVersion": "authorization.k8s.io/v1", "spec": spec}

        own = review("SelfSubjectAccessReview", resourceAttributes=about)
        assert (await api.by("ann", "POST", f"{group}/selfsubjectaccessreviews", own)).json["status"] == {
            "allowed": False
        }
        await api.by(
            "root", "POST", f"{RBAC}/namespaces/default/rolebindings",
            named("b", roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                  subjects=[{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]),
        )  # fmt: skip

        async def is_allowed() -> bool:
            answer = await api.by("ann", "POST", f"{group}/selfsubjectaccessreviews", own)
            return bool(answer.json["status"]["allowed"])

        await until(is_allowed)
        others = review("SubjectAccessReview", resourceAttributes=about, user="ann")
        status = (await api.by("root", "POST", f"{group}/subjectaccessreviews", others)).json["status"]
        assert status["reason"] == 'RBAC: allowed by RoleBinding "b/default" of ClusterRole "view" to User "ann"'
        nobody = review("SubjectAccessReview", resourceAttributes=about)
        refused = await api.by("root", "POST", f"{group}/subjectaccessreviews", nobody)
        assert "at least one of user or group must be specified" in refused.json["message"]
        rules = review("SelfSubjectRulesReview", namespace="default")
        status = (await api.by("ann", "POST", f"{group}/selfsubjectrulesreviews", rules)).json["status"]
        assert any("pods" in rule["resources"] for rule in status["resourceRules"])


async def test_nobody_rises_by_granting(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        ann = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}
        admin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
        bindings = f"{RBAC}/namespaces/default/rolebindings"
        await api.by("root", "POST", bindings, named("b", roleRef=admin, subjects=[ann]))

        async def is_admin() -> bool:
            return (await api.by("ann", "GET", bindings)).code == 200

        await until(is_admin)
        all_power = named("c", roleRef={**admin, "name": "cluster-admin"}, subjects=[ann])
        refused = await api.by("ann", "POST", bindings, all_power)
        assert refused.code == 403
        assert "is attempting to grant RBAC permissions not currently held" in refused.json["message"]
        assert (
            await api.by("ann", "POST", bindings, named("d", roleRef={**admin, "name": "edit"}, subjects=[ann]))
        ).code == 201


async def test_aggregated_roles_follow_their_sources(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
        rule = {"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]}
        source = {"metadata": {"name": "things", "labels": labels}, "rules": [rule]}
        assert (await api.by("root", "POST", f"{RBAC}/clusterroles", source)).code == 201

        async def has_arrived() -> bool:
            roles = [
                (await api.by("root", "GET", f"{RBAC}/clusterroles/{name}")).json for name in ("view", "edit", "admin")
            ]
            return all(rule in role["rules"] for role in roles)

        await until(has_arrived)


async def test_starting_again_changes_nothing(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        before = (await api.by("root", "GET", f"{RBAC}/clusterroles")).json
        await api.security.bootstrap()
        after = (await api.by("root", "GET", f"{RBAC}/clusterroles")).json
        assert before["items"] == after["items"]
        assert {"admin", "edit", "view", "system:node", "raftsman:cni"} <= {
            role["metadata"]["name"] for role in after["items"]
        }


async def test_the_issuer_is_public_to_service_accounts(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        found = (await api.by("root", "GET", "/.well-known/openid-configuration")).json
        assert found["issuer"] == "https://kubernetes.default.svc.cluster.local"
        keys = await api.by("root", "GET", "/openid/v1/jwks")
        assert len(keys.json["keys"]) == 1
        assert keys.headers["content-type"] == "application/jwk-set+json"
        assert keys.headers["cache-control"] == "public, max-age=3600"
        assert (await api.by("ann", "GET", "/openid/v1/jwks")).code == 403


async def test_what_was_remembered_of_a_token_ends_with_what_it_rests_on(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
        assert (await api.by("root", "POST", accounts, account)).code == 201
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = (await api.by("root", "POST", f"{accounts}/robot/token", request)).json["status"]["token"]

        async def code() -> int:
            answer = await api.ask("GET", "/api/v1/namespaces/default/pods", authorization=f"Bearer {token}")
            return answer.code

        assert [await code(), await code()] == [403, 403]
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "robot"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
        }
        bindings = f"{RBAC}/namespaces/default/rolebindings"
        assert (await api.by("root", "POST", bindings, binding)).code == 201
        await api.feed.fresh()
        assert [await code(), await code()] == [200, 200]
        assert (await api.by("root", "DELETE", f"{bindings}/robot")).code == 200
        await api.feed.fresh()
        assert await code() == 403
        assert (await api.by("root", "DELETE", f"{accounts}/robot")).code == 200
        await api.feed.fresh()
        assert await code() == 401
        assert (await api.by("root", "POST", accounts, account)).code == 201
        await api.feed.fresh()
        assert await code() == 401
