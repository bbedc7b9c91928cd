"""The admission plugins, each on the objects that it knows."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.api.meta import Object
from control.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Resource,
)
from control.api.status import ApiError, not_found
from control.apiserver.admission.certificates import Certificates, ClusterTrustBundleAttest
from control.apiserver.admission.namespace_lifecycle import NamespaceLifecycle
from control.apiserver.admission.node_restriction import NodeRestriction
from control.apiserver.admission.plugin import Plugin
from control.apiserver.admission.pod_defaults import DefaultTolerationSeconds, Priority, TaintNodesByCondition
from control.apiserver.admission.rbac_escalation import RbacEscalation
from control.apiserver.admission.service_account import MOUNT_PATH, ServiceAccountAdmission
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.request import AdmissionRequest, Operation, UserInfo

ANN = UserInfo("ann", "7", ("system:authenticated",), {"scopes": ("x",)})
N1 = UserInfo("system:node:n1", groups=("system:nodes",))
ROOT = UserInfo("root", groups=("system:masters",))


class Objects:
    """Both lookup and client over a handful of objects."""

    def __init__(self, *objects: tuple[Resource, Object]) -> None:
        self.held = {(r.plural, o["metadata"]["name"], o["metadata"].get("namespace", "")): o for r, o in objects}
        self.live: dict[tuple[str, str, str], Object] = {}

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        return self.held.get((resource.plural, name, namespace))

    def list(self, resource: Resource, namespace: str = "") -> Iterator[Object]:
        return (o for (plural, _, _), o in self.held.items() if plural == resource.plural)


class Cache(Objects):
    """The lookup."""

    async def warm(self, resource: Resource) -> None:
        """Do nothing: everything is here."""

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        return self.find(resource, name, namespace)


class Live(Objects):
    """The client."""

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        found = self.find(resource, name, namespace)
        if found is None:
            raise not_found(resource.plural, name)
        return found


def request(
    operation: Operation, resource: Resource, obj: Object | None = None, *, old: Object | None = None,
    user: UserInfo = ANN, namespace: str = "", name: str = "", subresource: str = "",
) -> AdmissionRequest:  # fmt: skip
    named = name or (obj or old or {}).get("metadata", {}).get("name", "")
    return AdmissionRequest(operation, resource, user, namespace, named, subresource, obj, old)


async def refusal(plugin: Plugin, asked: AdmissionRequest) -> str | None:
    try:
        await plugin.mutate(asked)
        await plugin.validate(asked)
    except ApiError as error:
        return f"{error.code} {error.message}"
    return None


def thing(name: str = "x", **fields: Any) -> Object:
    return {"metadata": {"name": name}, **fields}


GOING = thing("going", status={"phase": "Terminating"})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request("CREATE", CONFIG_MAPS, thing(), namespace="a"), None),
        (request("CREATE", CONFIG_MAPS, thing(), namespace="late"), None),
        (request("CREATE", CONFIG_MAPS, thing(), namespace="nowhere"), '404 namespaces "nowhere" not found'),
        (
            request("CREATE", CONFIG_MAPS, thing(), namespace="going"),
            '403 configmaps "x" is forbidden: unable to create new content in namespace going because it is being'
            " terminated",
        ),
        (request("UPDATE", CONFIG_MAPS, thing(), namespace="going"), None),
        (request("DELETE", CONFIG_MAPS, name="x", namespace="nowhere"), None),
        (
            request("DELETE", NAMESPACES, name="kube-system", namespace="kube-system"),
            '403 namespaces "kube-system" is forbidden: this namespace may not be deleted',
        ),
        (request("DELETE", NAMESPACES, name="a"), None),
        (request("CREATE", NODES, thing()), None),
    ],
    ids=["there", "cache behind", "missing", "going", "update", "delete", "immortal", "mortal", "cluster-scoped"],
)
async def test_namespace_lifecycle(asked: AdmissionRequest, expected: str | None) -> None:
    cache = Cache((NAMESPACES, thing("a")), (NAMESPACES, GOING))
    live = Live((NAMESPACES, thing("late")))
    assert await refusal(NamespaceLifecycle(cache, live), asked) == expected  # type: ignore[arg-type]


def pod(**spec: Any) -> Object:
    return {"metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": [{"name": "c"}], **spec}}


def account(**fields: Any) -> tuple[Resource, Object]:
    return SERVICE_ACCOUNTS, {"metadata": {"name": "default", "namespace": "a"}, **fields}


def service_accounts(*objects: tuple[Resource, Object]) -> ServiceAccountAdmission:
    return ServiceAccountAdmission(Cache(*objects), Live(), lambda: "abcde")  # type: ignore[arg-type]


async def test_a_pod_gets_account_and_token() -> None:
    made = pod(initContainers=[{"name": "i"}])
    plugin = service_accounts(account(imagePullSecrets=[{"name": "pull"}]))
    assert await refusal(plugin, request("CREATE", PODS, made, namespace="a")) is None
    spec = made["spec"]
    assert (spec["serviceAccountName"], spec["serviceAccount"]) == ("default", "default")
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    mount = {"name": "kube-api-access-abcde", "readOnly": True, "mountPath": MOUNT_PATH}
    assert spec["containers"][0]["volumeMounts"] == spec["initContainers"][0]["volumeMounts"] == [mount]
    assert [next(iter(source)) for source in spec["volumes"][0]["projected"]["sources"]] == [
        "serviceAccountToken", "configMap", "downwardAPI"
    ]  # fmt: skip
    again = {**made, "spec": {**spec}}
    await plugin.mutate(request("CREATE", PODS, again, namespace="a"))
    assert again == made


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"automountServiceAccountToken": False}, {}),
        ({}, {"automountServiceAccountToken": False}),
        ({"automountServiceAccountToken": False}, {"automountServiceAccountToken": True}),
        ({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": MOUNT_PATH}]}]}, {}),
    ],
    ids=["pod says no", "account says no", "pod counts before account", "mounts its own"],
)
async def test_no_token_for_who_wants_none(spec: dict[str, Any], fields: dict[str, Any]) -> None:
    made = pod(**spec)
    await service_accounts(account(**fields)).mutate(request("CREATE", PODS, made, namespace="a"))
    assert "volumes" not in made["spec"]


async def test_an_account_that_does_not_exist() -> None:
    made = pod(serviceAccountName="robot")
    assert await refusal(service_accounts(), request("CREATE", PODS, made, namespace="a")) == (
        '403 pods "p" is forbidden: error looking up service account a/robot: serviceaccounts "robot" not found'
    )


MIRROR = {"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n1"}}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request("CREATE", NODES, thing("n1"), user=N1), None),
        (request("CREATE", NODES, thing("n2"), user=N1), 'node "n1" is not allowed to modify node "n2"'),
        (request("UPDATE", NODES, thing("n2"), old=thing("n2"), user=N1), 'node "n1" is not allowed to modify node "n2"'),
        (
            request("CREATE", NODES, {"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": "",
                    "kubernetes.io/hostname": "n1", "team": "a"}}}, user=N1),
            'node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane',
        ),
        (
            request("UPDATE", NODES, {"metadata": {"name": "n1", "labels": {"node-restriction.kubernetes.io/x": "1"}}},
                    old=thing("n1"), user=N1),
            'node "n1" is not allowed to modify labels: node-restriction.kubernetes.io/x',
        ),
        (
            request("UPDATE", NODES, thing("n1", spec={}), old=thing("n1", spec={"taints": [{"key": "k"}]}), user=N1),
            'node "n1" is not allowed to modify taints',
        ),
        (request("UPDATE", NODES, thing("n1"), old=thing("n1"), user=N1, subresource="status"), None),
        (request("CREATE", PODS, MIRROR, user=N1), None),
        (
            request("CREATE", PODS, pod(nodeName="n1"), user=N1),
            'pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods',
        ),
        (
            request("CREATE", PODS, {**MIRROR, "spec": {"nodeName": "n2"}}, user=N1),
            'node "n1" can only create pods with spec.nodeName set to itself',
        ),
        (request("DELETE", PODS, old=pod(nodeName="n1"), user=N1), None),
        (
            request("DELETE", PODS, old=pod(nodeName="n2"), user=N1),
            'node "n1" can only delete pods with spec.nodeName set to itself',
        ),
        (request("UPDATE", PODS, pod(nodeName="n1"), old=pod(nodeName="n1"), user=N1, subresource="status"), None),
        (
            request("UPDATE", PODS, pod(nodeName="n1"), old=pod(nodeName="n2"), user=N1, subresource="status"),
            'node "n1" can only update pod status for pods with spec.nodeName set to itself',
        ),
        (request("CREATE", LEASES, thing("n1"), user=N1, namespace="kube-node-lease"), None),
        (
            request("CREATE", LEASES, thing("n2"), user=N1, namespace="kube-node-lease"),
            "can only access node lease with the same name as the requesting node",
        ),
        (request("UPDATE", NODES, thing("n2"), old=thing("n2"), user=ANN), None),
    ],
)  # fmt: skip
async def test_node_restriction(asked: AdmissionRequest, expected: str | None) -> None:
    told = await refusal(NodeRestriction(Cache()), asked)  # type: ignore[arg-type]
    assert told is None if expected is None else (told is not None and told.endswith(f"is forbidden: {expected}"))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ([], {"node.kubernetes.io/not-ready": 5, "node.kubernetes.io/unreachable": 6}),
        ([{"operator": "Exists"}], {}),
        (
            [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
            {"node.kubernetes.io/unreachable": 6},
        ),
        (
            [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}],
            {"node.kubernetes.io/not-ready": 5, "node.kubernetes.io/unreachable": 6},
        ),
    ],
    ids=["none", "tolerates all", "one", "another effect"],
)
async def test_default_tolerations(given: list[dict[str, Any]], seconds: dict[str, int]) -> None:
    made = pod(tolerations=given)
    await DefaultTolerationSeconds(5, 6).mutate(request("CREATE", PODS, made))
    added = made["spec"]["tolerations"][len(given) :]
    assert {entry["key"]: entry["tolerationSeconds"] for entry in added} == seconds


async def test_a_new_node_is_tainted_once() -> None:
    made = thing("n1", spec={"taints": [{"key": "k", "effect": "NoSchedule"}]})
    for _ in range(2):
        await TaintNodesByCondition().mutate(request("CREATE", NODES, made))
    assert [taint["key"] for taint in made["spec"]["taints"]] == ["k", "node.kubernetes.io/not-ready"]


HIGH = (PRIORITY_CLASSES, thing("high", value=1000, preemptionPolicy="Never"))
USUAL = (PRIORITY_CLASSES, thing("usual", value=10, globalDefault=True))


@pytest.mark.parametrize(
    ("classes", "spec", "expected"),
    [
        ([], {}, (0, None, "PreemptLowerPriority")),
        ([USUAL], {}, (10, "usual", "PreemptLowerPriority")),
        ([USUAL, HIGH], {"priorityClassName": "high"}, (1000, "high", "Never")),
        ([HIGH], {"priorityClassName": "high", "priority": 1000}, (1000, "high", "Never")),
        ([], {"priorityClassName": "x"}, "no PriorityClass with name x was found"),
        (
            [],
            {"priority": 7},
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller"
            " computed 0 from the given PriorityClass name",
        ),
    ],
    ids=["nothing", "default", "named", "agreeing", "unknown", "made up"],
)
async def test_priority(classes: list[Any], spec: dict[str, Any], expected: Any) -> None:
    made = pod(**spec)
    told = await refusal(Priority(Cache(*classes)), request("CREATE", PODS, made))  # type: ignore[arg-type]
    if isinstance(expected, str):
        assert told == f'403 pods "p" is forbidden: {expected}'
    else:
        found = made["spec"]
        assert (found["priority"], found.get("priorityClassName"), found["preemptionPolicy"]) == expected


async def test_one_default_class() -> None:
    asked = request("CREATE", PRIORITY_CLASSES, thing("mine", value=1, globalDefault=True))
    told = await refusal(Priority(Cache(USUAL)), asked)  # type: ignore[arg-type]
    assert told is not None
    assert "PriorityClass usual is already marked as default. Only one default can exist" in told


def csr_object(signer: str, *organizations: str, **status: Any) -> Object:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations]
    names.append(x509.NameAttribute(NameOID.COMMON_NAME, "ann"))
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    pem = built.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    spec = {
        "signerName": signer,
        "request": base64.b64encode(pem).decode(),
        "username": "root",
        "groups": ["system:masters"],
    }
    return thing("csr", spec=spec, status=status)


async def test_a_request_is_recorded_for_who_made_it() -> None:
    made = csr_object("example.com/s", certificate="forged")
    await Certificates(ModeAuthorizer(("RBAC",))).mutate(request("CREATE", CERTIFICATE_SIGNING_REQUESTS, made))
    assert {key: made["spec"][key] for key in ("username", "uid", "groups", "extra")} == {
        "username": "ann", "uid": "7", "groups": ["system:authenticated"], "extra": {"scopes": ["x"]},
    }  # fmt: skip
    assert "status" not in made


@pytest.mark.parametrize(
    ("user", "signer", "subresource", "status", "organizations", "expected"),
    [
        (ANN, "example.com/s", "approval", {"conditions": [{"type": "Approved"}]}, (),
         'user not permitted to approve requests with signerName "example.com/s"'),
        (ROOT, "example.com/s", "approval", {"conditions": [{"type": "Approved"}]}, (), None),
        (ANN, "example.com/s", "status", {"certificate": "c"}, (),
         'user not permitted to sign requests with signerName "example.com/s"'),
        (ROOT, "example.com/s", "status", {"certificate": "c"}, (), None),
        (ANN, "kubernetes.io/kube-apiserver-client", "", {}, ("system:masters",),
         "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
        (ANN, "kubernetes.io/kube-apiserver-client", "", {}, ("dev",), None),
    ],
    ids=["approve", "approve as root", "sign", "sign as root", "masters", "others"],
)  # fmt: skip
async def test_certificate_rights(
    user: UserInfo, signer: str, subresource: str, status: Any, organizations: tuple[str, ...], expected: str | None
) -> None:
    new, old = csr_object(signer, *organizations, **status), csr_object(signer, *organizations)
    asked = (
        request("UPDATE", CERTIFICATE_SIGNING_REQUESTS, new, old=old, user=user, subresource=subresource)
        if subresource
        else request("CREATE", CERTIFICATE_SIGNING_REQUESTS, new, user=user)
    )
    told = await refusal(Certificates(ModeAuthorizer(("RBAC",))), asked)
    assert told == (
        None
        if expected is None
        else f'403 certificatesigningrequests.certificates.k8s.io "csr" is forbidden: {expected}'
    )


async def test_status_cannot_approve_and_approval_cannot_sign() -> None:
    plugin = Certificates(ModeAuthorizer(("RBAC",)))
    old = csr_object("example.com/s")
    new = csr_object("example.com/s", certificate="c", conditions=[{"type": "Approved"}])
    await plugin.mutate(request("UPDATE", CERTIFICATE_SIGNING_REQUESTS, new, old=old, subresource="status"))
    assert new["status"] == {"certificate": "c"}
    new = csr_object("example.com/s", certificate="c", conditions=[{"type": "Approved"}])
    await plugin.mutate(request("UPDATE", CERTIFICATE_SIGNING_REQUESTS, new, old=old, subresource="approval"))
    assert new["status"] == {"conditions": [{"type": "Approved"}]}


TRUST_BUNDLES = Resource("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle", False)


def trust_bundle(signer: str = "example.com/s", bundle: str = "x", **metadata: Any) -> Object:
    return thing("b", spec={"signerName": signer, "trustBundle": bundle}) | {"metadata": {"name": "b", **metadata}}


@pytest.mark.parametrize(
    ("user", "new", "old", "may"),
    [
        (ANN, trust_bundle(), None, False),
        (ROOT, trust_bundle(), None, True),
        (ANN, trust_bundle(signer=""), None, True),
        (ANN, trust_bundle(bundle="y"), trust_bundle(), False),
        (ANN, trust_bundle(finalizers=["a/b"]), trust_bundle(), True),
    ],
    ids=["speaks for a signer", "root", "for nobody", "changes it", "garbage collection"],
)
async def test_who_speaks_for_a_signer_in_trust_bundles(
    user: UserInfo, new: Object, old: Object | None, may: bool
) -> None:
    asked = request("UPDATE" if old else "CREATE", TRUST_BUNDLES, new, old=old, user=user)
    told = await refusal(ClusterTrustBundleAttest(ModeAuthorizer(("RBAC",))), asked)
    assert (told is None) is may
    assert may or 'user not permitted to attest for signerName "example.com/s"' in (told or "")


READ_PODS = [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]
READ_ALL = [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]


def bound(kind: str, role: str) -> Object:
    return thing("b", roleRef={"kind": kind, "name": role}, subjects=[{"kind": "User", "name": "ann"}])


@pytest.mark.parametrize(
    ("resource", "obj", "old", "user", "may"),
    [
        (ROLES, thing(rules=READ_PODS), None, ANN, True),
        (ROLES, thing(rules=READ_ALL), None, ANN, False),
        (ROLES, thing(rules=READ_ALL), None, ROOT, True),
        (ROLES, thing(rules=READ_ALL), thing(rules=READ_ALL), ANN, True),
        (CLUSTER_ROLES, thing(rules=[], aggregationRule={}), None, ANN, True),
        (CLUSTER_ROLES, thing(rules=[], aggregationRule={"clusterRoleSelectors": [{}]}), None, ANN, False),
        (ROLE_BINDINGS, bound("ClusterRole", "reader"), None, ANN, True),
        (ROLE_BINDINGS, bound("ClusterRole", "everything"), None, ANN, False),
        (CLUSTER_ROLE_BINDINGS, bound("ClusterRole", "everything"), None, ANN, False),
        (ROLE_BINDINGS, bound("ClusterRole", "everything"), bound("ClusterRole", "everything"), ANN, True),
        (ROLE_BINDINGS, bound("ClusterRole", "missing"), None, ANN, False),
    ],
    ids=["held", "not held", "root", "unchanged", "no aggregation", "aggregation", "bind held", "bind not held",
         "bind to the cluster", "binding unchanged", "missing role"],
)  # fmt: skip
async def test_nobody_grants_what_they_do_not_hold(
    resource: Resource, obj: Object, old: Object | None, user: UserInfo, may: bool
) -> None:
    authorizer = ModeAuthorizer(("RBAC",))
    authorizer.rbac.set_role("", "reader", {"rules": READ_PODS})
    authorizer.rbac.set_binding("", "one", bound("ClusterRole", "reader"))
    live = Live((CLUSTER_ROLES, thing("reader", rules=READ_PODS)), (CLUSTER_ROLES, thing("everything", rules=READ_ALL)))
    plugin = RbacEscalation(authorizer, live)  # type: ignore[arg-type]
    namespace = "a" if resource.namespaced else ""
    asked = request("UPDATE" if old else "CREATE", resource, obj, old=old, user=user, namespace=namespace)
    assert (await refusal(plugin, asked) is None) is may
