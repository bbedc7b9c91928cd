"""One server with encryption, audit and metrics, on a real etcd, with a KMS plugin in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from control.api.resources import Resource
from control.apiserver.encryption.ciphers import AesCbc
from tests.control.apiserver.encryption.plugins import PluginProcess
from tests.control.apiserver.processes import EtcdServer, Kubectl, Server, api_server, etcd_server
from tests.fakes.webhook_program import Program

pytestmark = pytest.mark.root

KEEP_TRYING_S = 30.0
ONE, TWO, OTHER = bytes(32), bytes([2] * 32), bytes([3] * 32)
VALUE = "a value that must not be seen"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:kube-scheduler"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["configmaps", "pods"]}]},
        {"level": "Metadata"},
    ],
}


def keys(kind: str, *found: tuple[str, bytes]) -> dict[str, Any]:
    return {kind: {"keys": [{"name": name, "secret": base64.b64encode(key).decode()} for name, key in found]}}


@dataclass
class Guarded:
    """The server and what stands around it."""

    server: Server
    store: EtcdServer
    etcdctl: Path
    plugin: PluginProcess
    configuration: Path
    log: Path
    resources: list[Any] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None, user: str = "admin", **headers: str) -> tuple[int, bytes]:
        """Send one request as one of the issued users; "nobody" has no certificate."""
        folder = self.server.directory / "pki"
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        if user != "nobody":
            context.load_cert_chain(folder / f"{user}.crt", folder / f"{user}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, context=context, timeout=30)
        try:
            sent = {
                "content-type": "application/json",
                **{name.replace("_", "-"): text for name, text in headers.items()},
            }
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def made(self, path: str, body: Any) -> Any:
        code, answer = self.ask("POST", path, body)
        assert code == 201, answer
        return json.loads(answer)

    def etcdctl_run(self, *arguments: str, text: bytes = b"") -> bytes:
        """Ask the store itself."""
        command = [str(self.etcdctl), "--endpoints", self.store.url, *arguments]
        environment = {"ETCDCTL_API": "3"}
        return subprocess.run(command, input=text, capture_output=True, check=True, env=environment, timeout=30).stdout

    def stored(self, key: str) -> bytes:
        """Return what stands in the store."""
        return self.etcdctl_run("get", "--print-value-only", f"/registry/{key}")[:-1]

    def put(self, key: str, value: bytes) -> None:
        """Put bytes behind the server's back."""
        self.etcdctl_run("put", f"/registry/{key}", text=value)

    def configure(self, *resources: Any) -> None:
        """Write another configuration and wait until the server has taken it up."""
        self.resources = list(resources)
        kind = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
        before = self.metric("apiserver_encryption_config_controller_automatic_reloads_total", status="success")
        partial = self.configuration.with_suffix(".new")
        partial.write_text(yaml.safe_dump({**kind, "resources": self.resources}))
        partial.replace(self.configuration)
        until(
            lambda: (
                self.metric("apiserver_encryption_config_controller_automatic_reloads_total", status="success") > before
            ),
            "the configuration is not taken up",
        )

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        code, text = self.ask("GET", "/metrics")
        assert code == 200
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in text.decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in found if all(part in line for part in wanted))

    def events(self, name: str = "", **wanted: Any) -> list[Any]:
        """Return the audit events that have these fields, and are about an object of a name where one is given."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            event
            for event in found
            if wanted.items() <= event.items() and (not name or event.get("objectRef", {}).get("name") == name)
        ]

    def event(self, name: str = "", **wanted: Any) -> Any:
        """Return the one audit event that is meant; it comes a moment after the answer."""
        until(lambda: bool(self.events(name, **wanted)), f"no event of {name} {wanted}")
        [found] = self.events(name, **wanted)
        return found


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + KEEP_TRYING_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def first_configuration(plugin: PluginProcess) -> list[Any]:
    kms = {"kms": {"apiVersion": "v2", "name": "vault", "endpoint": plugin.endpoint}}
    return [
        {"resources": ["secrets"], "providers": [kms, {"identity": {}}]},
        {"resources": ["configmaps"], "providers": [keys("aescbc", ("one", ONE)), {"identity": {}}]},
        {"resources": ["*.apps"], "providers": [keys("aesgcm", ("one", ONE)), {"identity": {}}]},
        {"resources": ["*.*"], "providers": [keys("secretbox", ("one", ONE)), {"identity": {}}]},
    ]


@pytest.fixture(scope="module")
def guarded(etcd: Path, etcdctl: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    plugin = PluginProcess(directory)
    configuration, policy, log = directory / "encryption.yaml", directory / "policy.yaml", directory / "audit.log"
    kind = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
    configuration.write_text(yaml.safe_dump({**kind, "resources": first_configuration(plugin)}))
    policy.write_text(yaml.safe_dump(POLICY))
    flags = (
        "--encryption-provider-config", str(configuration), "--encryption-provider-config-automatic-reload=true",
        "--audit-policy-file", str(policy), "--audit-log-path", str(log), "--authorization-mode", "Node,RBAC",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        plugin.start()
        stack.callback(plugin.stop)
        store = stack.enter_context(etcd_server(etcd, directory))
        server = stack.enter_context(api_server(store.url, directory, *flags))
        made = Guarded(server, store, etcdctl, plugin, configuration, log, first_configuration(plugin))
        made.made(SECRETS, secret("first"))
        yield made


SECRETS = "/api/v1/namespaces/default/secrets"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


def secret(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "stringData": {"a": VALUE}}


def config_map(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"a": VALUE}}


def deployment(name: str) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"metadata": {"name": name, "annotations": {"told": VALUE}}, "spec": spec}


def test_what_is_stored_is_encrypted_as_its_resource_is_configured(guarded: Guarded) -> None:
    guarded.made(CONFIG_MAPS, config_map("stored"))
    guarded.made(DEPLOYMENTS, deployment("stored"))
    guarded.made(LEASES, {"metadata": {"name": "stored", "annotations": {"told": VALUE}}})
    wanted = {
        "secrets/default/first": b"k8s:enc:kms:v2:vault:",
        "configmaps/default/stored": b"k8s:enc:aescbc:v1:one:",
        "deployments/default/stored": b"k8s:enc:aesgcm:v1:one:",
        "leases/default/stored": b"k8s:enc:secretbox:v1:one:",
        "namespaces/default": b"k8s:enc:secretbox:v1:one:",
    }
    for key, prefix in wanted.items():
        stored = guarded.stored(key)
        assert stored.startswith(prefix), key
        assert VALUE.encode() not in stored
        assert base64.b64encode(VALUE.encode()) not in stored
    for path in (f"{CONFIG_MAPS}/stored", f"{DEPLOYMENTS}/stored", f"{LEASES}/stored"):
        code, answer = guarded.ask("GET", path)
        assert code == 200
        assert VALUE in answer.decode()
    assert (
        json.loads(guarded.ask("GET", f"{SECRETS}/first")[1])["data"]["a"] == base64.b64encode(VALUE.encode()).decode()
    )
    assert guarded.metric(
        "apiserver_storage_transformation_operations_total", resource="secrets", transformation_type="to_storage"
    )


def test_openssl_decrypts_what_aescbc_stores(guarded: Guarded) -> None:
    guarded.made(CONFIG_MAPS, config_map("openssl"))
    stored = guarded.stored("configmaps/default/openssl").removeprefix(b"k8s:enc:aescbc:v1:one:")
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-K", ONE.hex(), "-iv", stored[:16].hex()]
    done = subprocess.run(command, input=stored[16:], capture_output=True, check=True, timeout=30)
    assert json.loads(done.stdout)["data"] == {"a": VALUE}


def test_watches_and_updates_and_deletions_see_plain_values(guarded: Guarded) -> None:
    made = guarded.made(CONFIG_MAPS, config_map("changed"))
    made["data"]["a"] = "another"
    code, answer = guarded.ask("PUT", f"{CONFIG_MAPS}/changed", made)
    assert code == 200, answer
    stale = {**made, "data": {"a": "stale"}}
    assert guarded.ask("PUT", f"{CONFIG_MAPS}/changed", stale)[0] == 409
    since = int(made["metadata"]["resourceVersion"]) - 1
    assert guarded.ask("DELETE", f"{CONFIG_MAPS}/changed")[0] == 200
    query = f"watch=1&resourceVersion={since}&timeoutSeconds=1&fieldSelector=metadata.name%3Dchanged"
    _, lines = guarded.ask("GET", f"{CONFIG_MAPS}?{query}")
    events = [json.loads(line) for line in lines.splitlines()]
    assert [(event["type"], event["object"]["data"]["a"]) for event in events] == [
        ("ADDED", VALUE), ("MODIFIED", "another"), ("DELETED", "another"),
    ]  # fmt: skip


def test_keys_are_changed_while_the_server_runs(guarded: Guarded, kubectl: Path, tmp_path: Path) -> None:
    asked = Kubectl(kubectl, guarded.server.kubeconfig(), tmp_path)
    for name in ("rotated-a", "rotated-b"):
        guarded.made(CONFIG_MAPS, config_map(name))
    rest = [entry for entry in guarded.resources if entry["resources"] != ["configmaps"]]

    def configure(*providers: Any) -> None:
        guarded.configure({"resources": ["configmaps"], "providers": list(providers)}, *rest)

    configure(keys("aescbc", ("two", TWO), ("one", ONE)), {"identity": {}})
    assert guarded.stored("configmaps/default/rotated-a").startswith(b"k8s:enc:aescbc:v1:one:")
    text = asked("get", "configmaps", "-o", "json")
    asked("replace", "-f", "-", text=text)
    for name in ("rotated-a", "rotated-b"):
        assert guarded.stored(f"configmaps/default/{name}").startswith(b"k8s:enc:aescbc:v1:two:")
    before = guarded.stored("configmaps/default/rotated-a")
    asked("replace", "-f", "-", text=asked("get", "configmaps", "-o", "json"))
    assert guarded.stored("configmaps/default/rotated-a") == before, "nothing is stale any more"
    configure(keys("aescbc", ("two", TWO)), {"identity": {}})
    assert VALUE in asked("get", "configmap", "rotated-b", "-o", "jsonpath={.data.a}")
    configure(keys("aescbc", ("one", ONE), ("two", TWO)), {"identity": {}})


def test_values_of_unknown_keys_are_told_and_never_left_out(guarded: Guarded) -> None:
    guarded.made(CONFIG_MAPS, config_map("sealed"))
    rest = [entry for entry in guarded.resources if entry["resources"] != ["configmaps"]]
    value = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", **config_map("sealed")}).encode()
    foreign = b"k8s:enc:aescbc:v1:three:" + AesCbc(OTHER).seal(value, b"")
    guarded.put("configmaps/default/sealed", foreign)
    text = (
        'Internal error occurred: unable to transform key "/registry/configmaps/default/sealed":'
        " no matching key was found for the provided AES transformer"
    )
    for path in (f"{CONFIG_MAPS}/sealed", CONFIG_MAPS, "/api/v1/configmaps?limit=1", f"{CONFIG_MAPS}?watch=1"):
        until(lambda path=path: guarded.ask("GET", path)[0] == 500, "what cannot be read is not told")  # type: ignore[misc]
        answer = json.loads(guarded.ask("GET", path)[1])
        assert (answer["reason"], answer["message"]) == ("InternalError", text)
    assert guarded.ask("PUT", f"{CONFIG_MAPS}/sealed", config_map("sealed"))[0] == 500
    assert guarded.ask("DELETE", f"{CONFIG_MAPS}/sealed")[0] == 500
    assert guarded.ask("POST", CONFIG_MAPS, config_map("sealed"))[0] == 409
    assert guarded.stored("configmaps/default/sealed") == foreign
    assert guarded.ask("GET", f"{CONFIG_MAPS}/none")[0] == 404
    assert guarded.ask("GET", SECRETS)[0] == 200
    providers = [keys("aescbc", ("one", ONE), ("three", OTHER)), {"identity": {}}]
    guarded.configure({"resources": ["configmaps"], "providers": providers}, *rest)
    until(lambda: guarded.ask("GET", CONFIG_MAPS)[0] == 200, "what can be read again is not read")
    assert json.loads(guarded.ask("GET", f"{CONFIG_MAPS}/sealed")[1])["data"] == {"a": VALUE}


def test_a_value_cannot_be_put_in_anothers_place(guarded: Guarded) -> None:
    for name in ("mine", "theirs"):
        guarded.made(DEPLOYMENTS, deployment(name))
    guarded.put("deployments/default/mine", guarded.stored("deployments/default/theirs"))
    until(lambda: guarded.ask("GET", f"{DEPLOYMENTS}/mine")[0] == 500, "the exchange is not noticed")
    answer = json.loads(guarded.ask("GET", f"{DEPLOYMENTS}/mine")[1])
    assert "cipher: message authentication failed" in answer["message"]
    guarded.etcdctl_run("del", "/registry/deployments/default/mine")
    until(lambda: guarded.ask("GET", DEPLOYMENTS)[0] == 200, "what is gone is still in the way")


def test_a_configuration_that_cannot_be_used_changes_nothing(guarded: Guarded) -> None:
    name = "apiserver_encryption_config_controller_automatic_reloads_total"
    before = guarded.metric(name, status="failure")
    good = guarded.configuration.read_text()
    guarded.configuration.write_text("kind: Nothing")
    until(lambda: guarded.metric(name, status="failure") > before, "the failure is not counted")
    guarded.made(SECRETS, secret("meanwhile"))
    guarded.configuration.write_text(good)
    assert guarded.ask("GET", f"{SECRETS}/meanwhile")[0] == 200


def test_a_server_starts_without_its_plugin_and_reads_once_it_is_there(guarded: Guarded, tmp_path: Path) -> None:
    guarded.made(SECRETS, secret("later"))
    guarded.plugin.stop()
    started = False
    (tmp_path / "pki").symlink_to(guarded.server.directory / "pki")
    flags = ("--encryption-provider-config", str(guarded.configuration))
    try:
        with api_server(guarded.store.url, tmp_path, *flags) as second:
            other = Guarded(second, guarded.store, guarded.etcdctl, guarded.plugin, guarded.configuration, guarded.log)
            code, answer = other.ask("GET", f"{SECRETS}/later")
            assert code == 500
            assert "failed to decrypt DEK" in json.loads(answer)["message"]
            assert other.ask("POST", SECRETS, secret("never"))[0] == 500
            code, answer = other.ask("GET", "/livez?verbose")
            assert code == 500
            assert "[-]kms-providers failed" in answer.decode()
            guarded.plugin.start()
            started = True
            until(lambda: other.ask("GET", f"{SECRETS}/later")[0] == 200, "secrets are not read again")
            until(lambda: other.ask("GET", "/livez")[0] == 200, "the server does not become well")
            assert other.ask("GET", SECRETS)[0] == 200
            other.made(SECRETS, secret("there"))
    finally:
        if not started:
            guarded.plugin.start()


# Audit.


def test_events_are_lines_of_a_private_file(guarded: Guarded) -> None:
    guarded.made(CONFIG_MAPS, config_map("told"))
    event = guarded.event("told", verb="create")
    assert event["level"] == "RequestResponse"
    assert event["user"]["username"] == "kubernetes-admin"
    assert event["sourceIPs"] == ["127.0.0.1"]
    assert event["requestObject"]["data"] == {"a": VALUE}
    assert event["responseObject"]["metadata"]["uid"]
    assert event["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert guarded.log.stat().st_mode & 0o777 == 0o600


def test_secrets_are_told_without_what_is_in_them(guarded: Guarded) -> None:
    assert guarded.ask("GET", f"{SECRETS}/first", Audit_ID="secret")[0] == 200
    guarded.event(auditID="secret")
    events = [event for event in guarded.events() if event.get("objectRef", {}).get("resource") == "secrets"]
    assert events
    assert base64.b64encode(VALUE.encode()).decode() not in json.dumps(events)
    assert not [event for event in events if "requestObject" in event or "responseObject" in event]


def test_impersonation_refusals_and_strangers_are_told(guarded: Guarded) -> None:
    assert guarded.ask("GET", CONFIG_MAPS, Impersonate_User="bob", Audit_ID="as-bob")[0] == 403
    event = guarded.event(auditID="as-bob")
    assert event["user"]["username"] == "kubernetes-admin"
    assert event["impersonatedUser"]["username"] == "bob"
    assert event["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert event["responseStatus"]["reason"] == "Forbidden"
    assert guarded.ask("GET", CONFIG_MAPS, user="controllers", Impersonate_User="bob", Audit_ID="may-not")[0] == 403
    event = guarded.event(auditID="may-not")
    assert event["user"]["username"] == "system:kube-controller-manager"
    assert "impersonatedUser" not in event
    assert guarded.ask("GET", CONFIG_MAPS, user="nobody", Authorization="Bearer wrong", Audit_ID="wrong")[0] == 401
    event = guarded.event(auditID="wrong")
    assert event["responseStatus"]["message"] == "Authentication failed, attempted: bearer"
    assert guarded.ask("GET", CONFIG_MAPS, user="scheduler", Audit_ID="none")[0] in (200, 403)
    assert guarded.events(auditID="none") == []


def _hook(name: str, port: int, bundle: str) -> dict[str, Any]:
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    return {
        "name": f"{name}.example.com", "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": f"https://localhost:{port}/hook", "caBundle": bundle}, "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded", "objectSelector": {"matchLabels": {"told": "yes"}},
    }  # fmt: skip


def test_what_admission_does_is_told(guarded: Guarded, tmp_path: Path) -> None:
    group, rules = "/apis/admissionregistration.k8s.io/v1", _hook("", 1, "")["rules"]
    program = Program(tmp_path)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        change = [{"op": "add", "path": "/metadata/labels/seen", "value": "x"}]
        made = {"allowed": True, "auditAnnotations": {"why": "because", "not valid": "x"}}
        if "seen" in request["object"]["metadata"]["labels"]:
            return made
        return {**made, "patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(change).encode()).decode()}

    program.answer = answer
    hooks = [_hook("one", program.port, program.bundle), _hook("two", 1, program.bundle)]
    policy = {
        "matchConstraints": {"resourceRules": rules, "objectSelector": {"matchLabels": {"told": "yes"}}},
        "validations": [{"expression": "size(object.metadata.labels) > 9", "message": "few"}],
        "auditAnnotations": [{"key": "labels", "valueExpression": "string(size(object.metadata.labels))"}],
    }
    bound = {"policyName": "few", "validationActions": ["Audit"]}
    try:
        guarded.made(f"{group}/mutatingwebhookconfigurations", {"metadata": {"name": "all"}, "webhooks": hooks})
        guarded.made(f"{group}/validatingadmissionpolicies", {"metadata": {"name": "few"}, "spec": policy})
        guarded.made(f"{group}/validatingadmissionpolicybindings", {"metadata": {"name": "few-b"}, "spec": bound})
        numbers = iter(range(1000))

        def annotations() -> dict[str, str]:
            name = f"admitted{next(numbers)}"
            guarded.made(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"told": "yes"}}})
            return dict(guarded.event(name, verb="create")["annotations"])

        until(lambda: "few/labels" in annotations(), "the policy is not in force")
        told = annotations()
    finally:
        program.close()
        guarded.ask("DELETE", f"{group}/mutatingwebhookconfigurations/all")
        guarded.ask("DELETE", f"{group}/validatingadmissionpolicybindings/few-b")
    assert json.loads(told["mutation.webhook.admission.k8s.io/round_0_index_0"])["mutated"] is True
    assert json.loads(told["patch.webhook.admission.k8s.io/round_0_index_0"])["patch"][0]["value"] == "x"
    assert told["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"] == "two.example.com"
    assert json.loads(told["mutation.webhook.admission.k8s.io/round_0_index_1"])["mutated"] is False
    assert told["one.example.com/why"] == "because"
    assert told["few/labels"] == "2"
    assert json.loads(told["validation.policy.admission.k8s.io/validation_failure"])[0]["message"] == "few"


def test_pods_are_told_with_the_policy_they_are_held_to(guarded: Guarded) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"}
    guarded.made("/api/v1/namespaces", {"metadata": {"name": "held", "labels": labels}})
    guarded.made("/api/v1/namespaces/held/serviceaccounts", {"metadata": {"name": "default"}})
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    guarded.made("/api/v1/namespaces/held/pods", pod)
    event = guarded.event(requestURI="/api/v1/namespaces/held/pods", verb="create")
    assert event["annotations"]["pod-security.kubernetes.io/enforce-policy"] == "baseline:latest"
    assert event["annotations"]["pod-security.kubernetes.io/audit-violations"].startswith(
        'would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
    )


async def test_the_hub_is_audited_and_measured_as_rest_is(guarded: Guarded) -> None:
    client = guarded.server.hub_client()
    try:
        resource = Resource("", "v1", "configmaps", "ConfigMap")
        await client.create(resource, {"apiVersion": "v1", "kind": "ConfigMap", **config_map("hub")}, "default")
    finally:
        await client.close()
    event = guarded.event("hub", verb="create")
    assert event["requestURI"] == CONFIG_MAPS
    assert event["user"]["username"] == "kubernetes-admin"
    assert event["requestObject"]["data"] == {"a": VALUE}
    assert event["responseStatus"]["code"] in (200, 201)
    assert event["sourceIPs"] == ["127.0.0.1"]


# Metrics.


def test_metrics_are_for_those_who_may(guarded: Guarded) -> None:
    assert guarded.ask("GET", "/metrics", user="nobody")[0] == 403
    assert guarded.ask("GET", "/metrics", user="scheduler")[0] == 403
    code, text = guarded.ask("GET", "/metrics", Impersonate_User="prometheus", Impersonate_Group="system:monitoring")
    assert code == 200
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    assert {
        "apiserver_request", "apiserver_request_duration_seconds", "apiserver_current_inflight_requests",
        "apiserver_resource_objects", "apiserver_watch_events", "apiserver_storage_size_bytes", "etcd_requests",
        "etcd_request_duration_seconds", "apiserver_admission_controller_admission_duration_seconds",
        "authorization_attempts", "authentication_attempts", "apiserver_audit_event", "process_resident_memory_bytes",
        "kubernetes_build_info", "apiserver_storage_transformation_operations",
    } <= families  # fmt: skip


def test_requests_are_counted_by_what_they_ask_for(guarded: Guarded) -> None:
    def count(**labels: str) -> float:
        return guarded.metric("apiserver_request_total", **labels)

    wanted = {"verb": "POST", "resource": "configmaps", "version": "v1", "scope": "resource", "code": "201"}
    before, unknown = count(**wanted), count(resource="nonsense")
    guarded.made(CONFIG_MAPS, config_map("counted"))
    guarded.ask("GET", "/apis/nonsense.example/v1/nonsense")
    assert count(**wanted) == before + 1
    assert count(resource="nonsense") == unknown == 0, "what is not served makes no series"
    assert guarded.metric("etcd_requests_total", operation="create", resource="configmaps") >= 1
    assert guarded.metric("apiserver_resource_objects", resource="secrets") >= 1
