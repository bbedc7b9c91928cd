"""Certificate requests: who is approved without a person, and what is never signed."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.api import meta
from control.api.meta import Object
from control.api.resources import CERTIFICATE_SIGNING_REQUESTS as REQUESTS
from control.api.resources import NODES
from control.client.certificates import make_key, make_request
from control.controllers import certificaterules as rules
from control.controllers.certificates import (
    Authority,
    CertificateApprover,
    CertificateSigner,
    approve,
    is_stale,
    sign,
)
from tests.control.controllers.harness import World, until

NOW = datetime.now(UTC)
NODE: Object = {
    "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}]},
}
NODES_GROUP = ("system:nodes", "system:authenticated")
TOKEN_GROUPS = ("system:bootstrappers", "system:bootstrappers:raftsman:nodes")


def authority(life: timedelta = timedelta(days=10)) -> Authority:
    key = make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    return Authority(certificate, key)


def request(signer: str = rules.CLIENT_KUBELET, name: str = "system:node:n1", organizations: tuple[str, ...] = ("system:nodes",),
            usages: tuple[str, ...] = ("digital signature", "client auth"), user: str = "system:bootstrap:abcdef",
            groups: tuple[str, ...] = TOKEN_GROUPS, dns: tuple[str, ...] = (), ips: tuple[str, ...] = (),
            **spec: Any) -> Object:  # fmt: skip
    pem = make_request(make_key(), name, organizations, dns, ips)
    encoded = base64.b64encode(pem).decode()
    body = {"request": encoded, "signerName": signer, "usages": list(usages), "username": user, "groups": list(groups)}
    return {"metadata": {"name": "csr-1", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {**body, **spec}}


def serving(**more: Any) -> Object:
    given: dict[str, Any] = {"user": "system:node:n1", "groups": NODES_GROUP, "dns": ("n1",), "ips": ("10.0.0.1",)}
    usages = ("digital signature", "server auth")
    return request(rules.SERVING_KUBELET, **{**given, "usages": usages, **more})


def component(**more: Any) -> Object:
    given: dict[str, Any] = {"name": "system:kube-proxy", "organizations": (), "groups": NODES_GROUP}
    return request(rules.NODE_COMPONENT, **{**given, **more})


@pytest.mark.parametrize(
    ("obj", "approved"),
    [
        (request(), True),
        (request(usages=("key encipherment", "digital signature", "client auth")), True),
        (request(user="system:node:n1", groups=NODES_GROUP), True),
        (request(user="system:node:n2", groups=NODES_GROUP), False),
        (request(user="someone", groups=("system:authenticated",)), False),
        (request(organizations=("system:masters",)), False),
        (request(organizations=("system:nodes", "system:masters")), False),
        (request(name="admin"), False),
        (request(name="system:node:"), False),
        (request(dns=("n1",)), False),
        (request(usages=("digital signature", "client auth", "server auth")), False),
        (request(request="bm90IGEgcmVxdWVzdA=="), False),
        (request(request="!"), False),
        (request(rules.CLIENT), False),
        (request("example.com/other"), False),
        (serving(), True),
        (serving(ips=("10.0.0.9",)), False),
        (serving(dns=("n1", "kubernetes.default")), False),
        (serving(user="system:node:n2"), False),
        (serving(dns=(), ips=()), False),
        (serving(groups=TOKEN_GROUPS, user="system:bootstrap:abcdef"), False),
        (component(), True),
        (component(name="raftsman:cni"), True),
        (component(groups=TOKEN_GROUPS), True),
        (component(name="system:kube-scheduler"), False),
        (component(organizations=("system:masters",)), False),
        (component(groups=("system:authenticated",)), False),
        (component(dns=("n1",)), False),
    ],
)
def test_who_is_approved_without_a_person(obj: Object, approved: bool) -> None:
    action = approve(obj, NODE, NOW)
    assert (action is not None) is approved
    if action is not None:
        assert action.subresource == "approval"
        assert meta.condition_is_true(action.object, "Approved")


def test_a_decided_request_is_not_approved_again() -> None:
    denied = {**request(), "status": {"conditions": [{"type": "Denied", "status": "True"}]}}
    assert approve(denied, NODE, NOW) is None


def test_a_serving_request_waits_for_its_node() -> None:
    assert approve(serving(), None, NOW) is None
    assert approve(serving(ips=()), {"metadata": {"name": "n1"}}, NOW) is not None


def approved(obj: Object) -> Object:
    return {**obj, "status": {"conditions": [{"type": "Approved", "status": "True"}]}}


def certificate_of(obj: Object, by: Authority) -> x509.Certificate:
    action = sign(approved(obj), by, 7, NOW)
    assert action is not None
    return x509.load_pem_x509_certificate(base64.b64decode(action.object["status"]["certificate"]))


def test_what_is_signed() -> None:
    by = authority()
    found = certificate_of(serving(), by)
    found.verify_directly_issued_by(by.certificate)
    assert found.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1"]
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert found.not_valid_after_utc == by.certificate.not_valid_after_utc, "never longer than its authority"


@pytest.mark.parametrize(("asked_s", "lasts_s"), [(3600, 3600), (1, 600), (10**9, 86400 * 10)])
def test_how_long_it_lasts(asked_s: int, lasts_s: int) -> None:
    found = certificate_of(request(expirationSeconds=asked_s), authority())
    assert abs((found.not_valid_after_utc - NOW).total_seconds() - lasts_s) < 2


@pytest.mark.parametrize(
    "obj",
    [
        request(organizations=("system:masters",)),
        request(rules.CLIENT, name="x", organizations=("system:masters",)),
        component(name="root"),
        serving(dns=(), ips=()),
        request(request="!"),
    ],
)
def test_even_an_approved_request_fails_its_signers_rules(obj: Object) -> None:
    action = sign(approved(obj), authority(), 1, NOW)
    assert action is not None
    assert "certificate" not in action.object["status"]
    assert (meta.condition(action.object, "Failed") or {})["reason"] == "SignerValidationFailure"


def test_what_is_not_signed() -> None:
    by = authority()
    assert sign(request(), by, 1, NOW) is None
    assert sign(approved(request("example.com/other")), by, 1, NOW) is None
    done = approved(request())
    done["status"]["certificate"] = "x"
    assert sign(done, by, 1, NOW) is None


def at(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("kind", "hours", "stale"),
    [("Approved", 0.9, False), ("Approved", 1.1, True), ("Denied", 1.1, True), ("Failed", 0.5, False),
     ("", 23, False), ("", 25, True)],
)  # fmt: skip
def test_what_is_cleaned_away(kind: str, hours: float, stale: bool) -> None:
    obj = request()
    obj["metadata"]["creationTimestamp"] = at(hours)
    if kind:
        obj["status"] = {"conditions": [{"type": kind, "status": "True", "lastUpdateTime": at(hours)}]}
    assert is_stale(obj, NOW) is stale


async def test_from_request_to_certificate() -> None:
    world = World()
    world.time = NOW
    world.client.put(REQUESTS, serving())
    async with world.running(lambda context: [CertificateApprover(context), CertificateSigner(context, authority())]):
        await world.client.list(REQUESTS)
        assert not (world.client.find(REQUESTS, "csr-1") or {}).get("status")
        world.client.put(NODES, NODE)
        await until(lambda: (world.client.find(REQUESTS, "csr-1") or {}).get("status", {}).get("certificate"))
