"""The RBAC evaluator, the starting policy and the escalation check."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from control.apiserver.authz import bootstrap, roles
from control.apiserver.authz.attributes import Attributes, Opinion
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.authz.escalation import escalation_error
from control.apiserver.authz.rbac import RbacIndex
from control.apiserver.authz.rules import Rule, rules_from_object
from control.apiserver.request import UserInfo

PODS_READER = {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}


def binding(kind: str, role: str, *subjects: tuple[str, str]) -> dict[str, Any]:
    shown: list[dict[str, str]] = []
    for subject_kind, name in subjects:
        namespace, slash, account = name.partition("/")
        shown.append(
            {"kind": subject_kind, "name": account if slash else name} | ({"namespace": namespace} if slash else {})
        )
    return {"roleRef": {"kind": kind, "name": role}, "subjects": shown}


def ask(user: UserInfo, verb: str, resource: str, namespace: str = "", **other: Any) -> Attributes:
    return Attributes(user, verb, resource=resource, namespace=namespace, version="v1", **other)


ANN = UserInfo("ann", groups=("dev", "system:authenticated"))
ROBOT = UserInfo("system:serviceaccount:a:robot")


def test_bindings_reach_as_far_as_they_stand() -> None:
    index = RbacIndex()
    index.set_role("", "reader", PODS_READER)
    index.set_role("a", "reader", PODS_READER)
    index.set_binding("a", "one", binding("Role", "reader", ("User", "ann")))
    assert index.authorize(ask(ANN, "get", "pods", "a")).opinion is Opinion.ALLOW
    assert index.authorize(ask(ANN, "get", "pods", "b")).opinion is Opinion.NO_OPINION
    assert index.authorize(ask(ANN, "get", "pods")).opinion is Opinion.NO_OPINION
    index.set_binding("", "two", binding("ClusterRole", "reader", ("Group", "dev")))
    assert index.authorize(ask(ANN, "get", "pods", "b")).opinion is Opinion.ALLOW
    assert index.authorize(ask(ANN, "get", "pods")).reason == (
        'RBAC: allowed by ClusterRoleBinding "two" of ClusterRole "reader" to Group "dev"'
    )


def test_service_accounts_are_users() -> None:
    index = RbacIndex()
    index.set_role("", "reader", PODS_READER)
    index.set_binding("b", "one", binding("ClusterRole", "reader", ("ServiceAccount", "a/robot")))
    verdict = index.authorize(ask(ROBOT, "get", "pods", "b"))
    assert verdict.reason == 'RBAC: allowed by RoleBinding "one/b" of ClusterRole "reader" to ServiceAccount "robot/a"'
    assert not index.authorize(ask(ROBOT, "get", "pods", "a")).allowed


def test_what_is_taken_away_is_gone() -> None:
    index = RbacIndex()
    index.set_role("a", "reader", PODS_READER)
    index.set_binding("a", "one", binding("Role", "reader", ("User", "ann"), ("User", "ann")))
    index.set_binding("a", "one", binding("Role", "reader", ("User", "bob")))
    assert not index.authorize(ask(ANN, "get", "pods", "a")).allowed
    index.set_binding("a", "one", binding("Role", "reader", ("User", "ann")))
    index.set_role("a", "reader", None)
    assert not index.authorize(ask(ANN, "get", "pods", "a")).allowed
    index.set_role("a", "reader", PODS_READER)
    index.set_binding("a", "one", None)
    assert not index.authorize(ask(ANN, "get", "pods", "a")).allowed
    assert index.rules_for(ANN, "a") == ()


def fresh() -> ModeAuthorizer:
    """An authorizer over the policy that every cluster starts with."""
    authorizer = ModeAuthorizer(("Node", "RBAC"))
    for resource, obj in bootstrap.policy():
        metadata = obj["metadata"]
        store = authorizer.rbac.set_binding if "roleRef" in obj else authorizer.rbac.set_role
        store(metadata.get("namespace", ""), metadata["name"], obj)
        assert resource.kind == obj["kind"]
    return authorizer


AUTHENTICATED = ("system:authenticated",)
NOBODY = UserInfo("system:anonymous", groups=("system:unauthenticated",))
SCHEDULER = UserInfo("system:kube-scheduler", groups=AUTHENTICATED)
MANAGER = UserInfo("system:kube-controller-manager", groups=AUTHENTICATED)
PROXY = UserInfo("system:kube-proxy", groups=AUTHENTICATED)
CNI = UserInfo("raftsman:cni", groups=AUTHENTICATED)
KUBELET_CLIENT = UserInfo("kube-apiserver-kubelet-client", groups=("raftsman:kubelet-api-admin", *AUTHENTICATED))
JOINER = UserInfo("system:bootstrap:abcdef", groups=("system:bootstrappers", *AUTHENTICATED))
CSR = {"group": "certificates.k8s.io"}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        pytest.param(ask(UserInfo("root", groups=("system:masters",)), "x", "y"), True, id="masters do anything"),
        pytest.param(ask(SCHEDULER, "create", "pods", "a", subresource="binding"), True, id="scheduler binds"),
        pytest.param(ask(SCHEDULER, "create", "pods", "a"), False, id="scheduler makes no pods"),
        pytest.param(ask(SCHEDULER, "get", "secrets", "a"), False, id="scheduler reads no secrets"),
        pytest.param(ask(MANAGER, "create", "pods", "a"), True, id="controllers make pods"),
        pytest.param(ask(MANAGER, "patch", "nodes", subresource="status"), True, id="controllers mark nodes"),
        pytest.param(ask(MANAGER, "update", "deployments", "a", group="apps", subresource="status"), True,
                     id="controllers write status"),
        pytest.param(ask(MANAGER, "sign", "signers", name="raftsman.dev/node-component", **CSR), True, id="sign ours"),
        pytest.param(ask(MANAGER, "sign", "signers", name="example.com/x", **CSR), False, id="sign no others'"),
        pytest.param(ask(MANAGER, "impersonate", "users", name="root"), False, id="controllers impersonate nobody"),
        pytest.param(ask(PROXY, "watch", "endpointslices", group="discovery.k8s.io"), True, id="proxy watches"),
        pytest.param(ask(PROXY, "list", "secrets"), False, id="proxy reads no secrets"),
        pytest.param(ask(CNI, "watch", "pods"), True, id="cni watches pods"),
        pytest.param(ask(CNI, "update", "pods", "a", subresource="status"), False, id="cni writes nothing"),
        pytest.param(ask(CNI, "get", "secrets", "a"), False, id="cni reads no secrets"),
        pytest.param(ask(KUBELET_CLIENT, "create", "nodes", subresource="proxy"), True, id="kubelet client"),
        pytest.param(ask(KUBELET_CLIENT, "get", "pods", "a"), False, id="kubelet client, nothing else"),
        pytest.param(ask(JOINER, "create", "certificatesigningrequests", **CSR), True, id="joiner asks"),
        pytest.param(ask(JOINER, "get", "nodes"), False, id="joiner reads no nodes"),
        pytest.param(ask(JOINER, "create", "certificatesigningrequests", subresource="nodecomponent", **CSR), True,
                     id="joiner's components are approved"),
        pytest.param(ask(ANN, "create", "selfsubjectaccessreviews", group="authorization.k8s.io"), True, id="can-i"),
        pytest.param(ask(ANN, "get", "pods", "a"), False, id="ann holds nothing"),
        pytest.param(Attributes(NOBODY, "get", path="/readyz", is_resource_request=False), True, id="health"),
        pytest.param(Attributes(NOBODY, "get", path="/api", is_resource_request=False), False, id="no discovery"),
        pytest.param(Attributes(ANN, "get", path="/apis/apps/v1", is_resource_request=False), True, id="discovery"),
        pytest.param(Attributes(ANN, "get", path="/metrics", is_resource_request=False), False, id="no metrics"),
        pytest.param(ask(UserInfo("system:node:n1", groups=("system:nodes",)), "get", "secrets", "a", name="s"), False,
                     id="a node, a stranger's secret"),
    ],
)  # fmt: skip
def test_the_starting_policy(question: Attributes, expected: bool) -> None:
    assert fresh().allows(question) is expected


def test_view_reads_and_edit_writes_and_admin_grants() -> None:
    made = {obj["metadata"]["name"]: rules_from_object(obj) for resource, obj in bootstrap.policy() if "rules" in obj}
    user = UserInfo("u")

    def may(role: str, question: Attributes) -> bool:
        return any(rule.allows(question) for rule in made[role])

    get_secret, make_pod = ask(user, "get", "secrets", "a"), ask(user, "create", "pods", "a")
    grant = ask(user, "create", "rolebindings", "a", group="rbac.authorization.k8s.io")
    table = {
        role: [may(role, question) for question in (get_secret, make_pod, grant)] for role in ("view", "edit", "admin")
    }
    assert table == {"view": [False, False, False], "edit": [True, True, False], "admin": [True, True, True]}
    assert all(may(role, ask(user, "list", "pods", "a")) for role in table)


def test_every_table_of_rules_is_well_formed() -> None:
    tables = [*roles.CLUSTER_ROLES.values(), *roles.CONTROLLER_ROLES.values(), *roles.NAMESPACE_ROLES.values()]
    for table in tables:
        for rule in bootstrap.parse_rules(table):
            assert rule.verbs
            assert bool(rule.resources) != bool(rule.non_resource_urls)
            assert not any("|" in value for value in (*rule.verbs, *rule.resources, *rule.resource_names))


def test_reconciling_only_adds() -> None:
    wanted = next(
        obj for _, obj in bootstrap.policy() if obj["metadata"]["name"] == "system:kube-dns" and "rules" in obj
    )
    assert bootstrap.reconciled(wanted, wanted) is None
    extra = {"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}
    less: Object = {**wanted, "rules": [extra]}
    repaired = bootstrap.reconciled(less, wanted)
    assert repaired is not None
    assert repaired["rules"][0] == extra
    assert bootstrap.reconciled(repaired, wanted) is None
    opted_out = {**less, "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}}
    assert bootstrap.reconciled(opted_out, wanted) is None


def test_reconciling_keeps_foreign_subjects() -> None:
    wanted = next(
        obj for _, obj in bootstrap.policy() if obj["metadata"]["name"] == "cluster-admin" and "roleRef" in obj
    )
    ann = {"kind": "User", "name": "ann"}
    repaired = bootstrap.reconciled({**wanted, "subjects": [ann]}, wanted)
    assert repaired is not None
    assert repaired["subjects"] == [ann, *wanted["subjects"]]


def test_the_escalation_text_is_upstreams() -> None:
    held = [Rule(("get",), ("",), ("pods",))]
    wanted = [Rule(("get", "list"), ("",), ("pods",)), Rule(("get",), non_resource_urls=("/metrics",))]
    assert escalation_error(ANN, held, wanted) == (
        'user "ann" (groups=["dev" "system:authenticated"]) is attempting to grant RBAC permissions not currently'
        " held:\n"
        '{APIGroups:[""], Resources:["pods"], Verbs:["list"]}\n'
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}'
    )
    assert escalation_error(ANN, held, held) is None
    assert escalation_error(UserInfo("root", groups=("system:masters",)), [], wanted) is None
