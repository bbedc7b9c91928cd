"""Certificates, tokens, bootstrap tokens, the front proxy and impersonation, each on its own."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver.authn import bootstrap_tokens, front_proxy, impersonation, service_accounts
from control.apiserver.authn.identity import InvalidCredentialError
from control.apiserver.authn.jwt_keys import TokenSigner, TokenVerifier, jwks, load_public_keys, verification_key
from control.apiserver.authn.service_accounts import Bound, make_claims, user_from_claims
from control.apiserver.authn.x509 import CertificateAuthority
from control.apiserver.request import UserInfo
from lab import pki

NOW = datetime.now(UTC)


def der(folder: Path, name: str) -> bytes:
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_certificate_names_user_and_groups(tmp_path: Path) -> None:
    authority = pki.make_authority(tmp_path, "ca", "kubernetes")
    pki.issue(authority, tmp_path, "ann", "ann", organizations=["dev", "ops"])
    user = CertificateAuthority.from_file(tmp_path / "ca.crt").user_of(der(tmp_path, "ann"), datetime.now(UTC))
    assert user is not None
    assert (user.name, sorted(user.groups)) == ("ann", ["dev", "ops"])
    assert user.extra["authentication.kubernetes.io/credential-id"][0].startswith("X509SHA256=")


def test_certificates_that_do_not_count(tmp_path: Path) -> None:
    authority = pki.make_authority(tmp_path, "ca", "kubernetes")
    stranger = pki.make_authority(tmp_path / "other", "ca", "kubernetes")
    pki.issue(stranger, tmp_path, "stranger", "ann")
    pki.issue(authority, tmp_path, "server", "ann", usages=[pki.SERVER])
    pki.issue(authority, tmp_path, "ann", "ann")
    ours = CertificateAuthority.from_file(tmp_path / "ca.crt")
    assert ours.user_of(der(tmp_path, "stranger"), datetime.now(UTC)) is None
    with pytest.raises(InvalidCredentialError, match="incompatible key usage"):
        ours.user_of(der(tmp_path, "server"), datetime.now(UTC))
    assert ours.user_of(der(tmp_path, "ann"), datetime.now(UTC)) is not None
    with pytest.raises(InvalidCredentialError, match="expired"):
        ours.user_of(der(tmp_path, "ann"), datetime.now(UTC) + timedelta(days=365 * 50))
    assert not ours.shares_issuer_with(CertificateAuthority.from_file(tmp_path / "other" / "ca.crt"))
    assert ours.shares_issuer_with(ours)


@pytest.fixture(params=["RS256", "ES256"])
def signer(request: pytest.FixtureRequest) -> TokenSigner:
    if request.param == "RS256":
        return TokenSigner(rsa.generate_private_key(65537, 2048))
    return TokenSigner(ec.generate_private_key(ec.SECP256R1()))


def claims(**changes: Any) -> dict[str, Any]:
    return {"iss": "us", "aud": ["us"], "nbf": 100, "iat": 100, "exp": 200, **changes}


def test_a_signed_token_verifies(signer: TokenSigner) -> None:
    verifier = TokenVerifier([signer.public], ["us"])
    token = signer.sign(claims(aud=["a", "us", "b"]))
    assert verifier.is_ours(token)
    assert verifier.verify(token, ("us", "b", "x"), 150)["aud"] == ["us", "b"]
    assert jwt.get_unverified_header(token)["kid"] == signer.public.key_id
    assert jwks([signer.public])["keys"][0]["kid"] == signer.public.key_id


@pytest.mark.parametrize(
    ("changes", "now_s", "reason"),
    [
        ({}, 99, "not valid yet"),
        ({}, 200, "expired"),
        ({"exp": None}, 150, "exp"),
        ({"exp": "200"}, 150, "exp"),
        ({"iss": "them"}, 150, "another issuer"),
        ({"aud": ["x"]}, 150, "audiences"),
        ({"aud": []}, 150, "audiences"),
    ],
    ids=["early", "late", "no expiry", "text expiry", "issuer", "audience", "no audience"],
)
def test_tokens_that_do_not_count(changes: dict[str, Any], now_s: float, reason: str) -> None:
    signer = TokenSigner(ec.generate_private_key(ec.SECP256R1()))
    token = signer.sign(claims(**changes))
    with pytest.raises(InvalidCredentialError, match=reason):
        TokenVerifier([signer.public], ["us"]).verify(token, ("us",), now_s)


def test_another_key_or_no_key_signs_nothing() -> None:
    ours, theirs = (TokenSigner(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    verifier = TokenVerifier([ours.public], ["us"])
    unsigned = jwt.encode(claims(), "", algorithm="none")
    public = ours.public.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"x"}').rstrip(b"=").decode()
    confused = f"{header}.{unsigned.split('.')[1]}.{base64.urlsafe_b64encode(public[:32]).decode()}"
    for token in (theirs.sign(claims()), unsigned, confused, "a.b.c", ""):
        with pytest.raises(InvalidCredentialError):
            verifier.verify(token, ("us",), 150)


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    pki.make_service_account_key(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "sa.pub").read_bytes() + (tmp_path / "sa.key").read_bytes())
    public, from_private = load_public_keys(both)
    assert public.key_id == from_private.key_id == verification_key(public.key).key_id
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="no PEM key"):
        load_public_keys(tmp_path / "empty")


ACCOUNT: Object = {"metadata": {"name": "robot", "namespace": "a", "uid": "u1"}}
POD: Object = {"metadata": {"name": "p", "namespace": "a", "uid": "u2"}}


def made(bound: Bound, seconds: int = 3600) -> dict[str, Any]:
    return make_claims(ACCOUNT, bound, issuer="us", audiences=["us"], now_s=1000, seconds=seconds, token_id="t1")


def getter(*objects: Object) -> Any:
    def get(resource: Resource, name: str, namespace: str) -> Object | None:
        return next((o for o in objects if o["metadata"]["name"] == name), None)

    return get


def test_a_bound_tokens_user() -> None:
    token = made(Bound("Pod", "p", "u2", "n1", "u3"))
    assert token["sub"] == "system:serviceaccount:a:robot"
    user = user_from_claims(token, getter(ACCOUNT, POD), 1000)
    assert user == UserInfo(
        "system:serviceaccount:a:robot",
        "u1",
        ("system:serviceaccounts", "system:serviceaccounts:a"),
        {
            "authentication.kubernetes.io/credential-id": ("JTI=t1",),
            "authentication.kubernetes.io/pod-name": ("p",),
            "authentication.kubernetes.io/pod-uid": ("u2",),
            "authentication.kubernetes.io/node-name": ("n1",),
            "authentication.kubernetes.io/node-uid": ("u3",),
        },
    )


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ((POD,), "ServiceAccount robot of the token does not exist"),
        ((ACCOUNT,), "Pod p of the token does not exist"),
        ((ACCOUNT, {"metadata": {**POD["metadata"], "uid": "new"}}), "Pod p of the token is another one now"),
        (
            (ACCOUNT, {"metadata": {**POD["metadata"], "deletionTimestamp": "1970-01-01T00:00:01Z"}}),
            "Pod p of the token has been deleted",
        ),
    ],
    ids=["no account", "no pod", "another pod", "deleted pod"],
)
def test_a_broken_binding_ends_a_token(objects: tuple[Object, ...], reason: str) -> None:
    with pytest.raises(InvalidCredentialError, match=reason):
        user_from_claims(made(Bound("Pod", "p", "u2")), getter(*objects), 1000)


def test_kubelets_tokens_live_on_and_warn() -> None:
    token = made(Bound("Pod", "p", "u2"), 3607)
    assert token["exp"] == 1000 + 365 * 24 * 3600
    assert token["kubernetes.io"]["warnafter"] == 1000 + 3607
    assert made(Bound(), 3607)["exp"] == 1000 + 3607


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("system:serviceaccount:a:b", ("a", "b")),
        ("system:serviceaccount:a", None),
        ("system:serviceaccount:a:b:c", None),
        ("ann", None),
    ],
)
def test_names_of_service_accounts(name: str, expected: tuple[str, str] | None) -> None:
    assert service_accounts.split_user_name(name) == expected


def bootstrap_secret(**changes: str) -> Object:
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:raftsman:nodes",
        "expiration": "2100-01-01T00:00:00Z",
        **changes,
    }
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": encoded}


@pytest.mark.parametrize(
    ("secret", "token", "expected"),
    [
        (bootstrap_secret(), "abcdef.0123456789abcdef", True),
        (bootstrap_secret(), "abcdef.0123456789abcdeX", False),
        (bootstrap_secret(), "abcdef.0123456789abcde0", False),
        (bootstrap_secret(expiration="2000-01-01T00:00:00Z"), "abcdef.0123456789abcdef", False),
        (bootstrap_secret(expiration="soon"), "abcdef.0123456789abcdef", False),
        (bootstrap_secret(**{"usage-bootstrap-authentication": "false"}), "abcdef.0123456789abcdef", False),
        (bootstrap_secret() | {"type": "Opaque"}, "abcdef.0123456789abcdef", False),
        (None, "abcdef.0123456789abcdef", False),
    ],
    ids=["good", "form", "secret", "expired", "unreadable time", "usage", "type", "unknown"],
)
def test_bootstrap_tokens(secret: Object | None, token: str, expected: bool) -> None:
    user = bootstrap_tokens.authenticate(token, NOW, lambda *_: secret)
    assert (user is not None) is expected
    if user is not None:
        assert user.name == "system:bootstrap:abcdef"
        assert user.groups == ("system:bootstrappers", "system:bootstrappers:raftsman:nodes")


def test_a_bootstrap_token_grants_no_other_groups() -> None:
    secret = bootstrap_secret(**{"auth-extra-groups": "system:masters"})
    with pytest.raises(InvalidCredentialError, match="invalid group"):
        bootstrap_tokens.authenticate("abcdef.0123456789abcdef", NOW, lambda *_: secret)


def test_the_front_proxy_speaks_for_others() -> None:
    headers = {
        "x-remote-user": ("ann",), "x-remote-group": ("dev", "ops"), "x-remote-extra-scopes": ("a", "b"),
        "x-remote-extra-acme.com%2fproject": ("p",),
    }  # fmt: skip
    user = front_proxy.user_from_headers(front_proxy.FrontProxyHeaders(), headers)
    assert user == UserInfo("ann", "", ("dev", "ops"), {"scopes": ("a", "b"), "acme.com/project": ("p",)})
    assert front_proxy.user_from_headers(front_proxy.FrontProxyHeaders(), {"x-remote-group": ("dev",)}) is None


def test_impersonation_asks_for_every_name() -> None:
    root = UserInfo("root")
    wish = impersonation.wanted(
        root,
        {"impersonate-user": ("ann",), "impersonate-group": ("dev",), "impersonate-uid": ("7",),
         "impersonate-extra-scopes": ("x",)},
    )  # fmt: skip
    assert wish is not None
    assert wish.user == UserInfo("ann", "7", ("dev", "system:authenticated"), {"scopes": ("x",)})
    asked = [(c.user.name, c.verb, c.group, c.combined_resource, c.name) for c in wish.checks]
    assert asked == [
        ("root", "impersonate", "", "users", "ann"),
        ("root", "impersonate", "", "groups", "dev"),
        ("root", "impersonate", "authentication.k8s.io", "userextras/scopes", "x"),
        ("root", "impersonate", "authentication.k8s.io", "uids", "7"),
    ]
    robot = impersonation.wanted(root, {"impersonate-user": ("system:serviceaccount:a:robot",)})
    assert robot is not None
    assert robot.user.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    assert [(c.combined_resource, c.namespace, c.name) for c in robot.checks] == [("serviceaccounts", "a", "robot")]
    assert impersonation.wanted(root, {}) is None
    with pytest.raises(impersonation.ImpersonationError):
        impersonation.wanted(root, {"impersonate-group": ("system:masters",)})


def test_the_clock_is_the_callers() -> None:
    """Verification takes its time as an argument: a token of the past verifies in the past."""
    signer = TokenSigner(ec.generate_private_key(ec.SECP256R1()))
    assert TokenVerifier([signer.public], ["us"]).verify(signer.sign(claims()), ("us",), 150)["exp"] < time.time()
