"""Kubeconfig files: the standard form, our hub beside it, and what is wrong in plain words."""

from __future__ import annotations

import base64
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from control.client.certificates import key_pem, make_key
from control.client.grpc import GrpcClient
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material, in_cluster, load, parse, write
from control.client.rest import RestClient


def document(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        **more,
    }


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_what_is_read() -> None:
    hub: dict[str, Any] = {"name": "raftsman.dev/hub", "extension": {"server": "10.0.0.1:6444, 10.0.0.2:6444"}}
    cluster: dict[str, Any] = {
        "certificate-authority-data": encoded(b"CA"),
        "tls-server-name": "kubernetes",
        "extensions": [hub],
    }
    user: dict[str, Any] = {"client-certificate": "u.crt", "client-key": "/abs/u.key", "token": "t"}
    config = parse(document(cluster, user), Path("/etc/k"))
    assert config.server == "https://10.0.0.1:6443"
    assert config.hub == ("10.0.0.1:6444", "10.0.0.2:6444")
    assert config.certificate_authority.read() == b"CA"
    assert config.client_certificate.path == Path("/etc/k/u.crt")
    assert config.client_key.path == Path("/abs/u.key")
    assert config.bearer_token() == "t"
    assert config.tls_server_name == "kubernetes"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (document(None, None, **{"current-context": "y"}), "no entry named 'y' in contexts"),
        (document(clusters=[]), "no entry named 'c' in clusters"),
        (document({"server": "10.0.0.1"}), "server must be an http"),
        (document({"certificate-authority-data": "%%"}), "certificate-authority-data is not base64"),
        ({}, "no entry named '' in contexts"),
    ],
)
def test_what_is_wrong_is_said(broken: dict[str, Any], text: str) -> None:
    with pytest.raises(KubeconfigError, match=text):
        parse(broken, Path())


@pytest.mark.parametrize(("content", "text"), [("[", "not YAML"), ("[]", "expected a map"), (None, "no such")])
def test_files_that_are_none(tmp_path: Path, content: str | None, text: str) -> None:
    file = tmp_path / "k.conf"
    if content is not None:
        file.write_text(content)
    with pytest.raises(KubeconfigError, match=text):
        load(file)


def test_what_is_written_is_read_the_same_and_is_private(tmp_path: Path) -> None:
    config = Kubeconfig(
        "https://10.0.0.1:6443", ("10.0.0.1:6444",), Material(b"CA"), Material(path=Path("/a.crt")),
        Material(path=Path("/a.key")), Material(b"token"), True, "kubernetes", "lab",
    )  # fmt: skip
    file = tmp_path / "deep" / "k.conf"
    write(file, config)
    assert load(file) == config
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["k.conf"]
    names = [entry["name"] for entry in yaml.safe_load(file.read_text())["clusters"][0]["cluster"]["extensions"]]
    assert names == ["raftsman.dev/hub"]


def test_the_transport_follows_the_hub() -> None:
    assert isinstance(Kubeconfig("http://x").client(), RestClient)
    assert isinstance(Kubeconfig("http://x", ("x:1",)).client(), GrpcClient)


def test_in_a_pod(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    config = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert config.server == "https://10.96.0.1:443"
    assert config.bearer_token() == "abc"
    assert in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1"}).server == "https://[fd00::1]:443"
    with pytest.raises(KubeconfigError, match="not in a pod"):
        in_cluster(tmp_path, {})


def test_a_replaced_credential_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    config = Kubeconfig("http://x", token=Material(path=file))
    before = config.stamp()
    fresh = tmp_path / "new"
    fresh.write_text("two")
    os.replace(fresh, file)
    assert config.stamp() != before
    assert config.bearer_token() == "two"


def pair() -> tuple[bytes, bytes]:
    key, now = make_key(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key_pem(key)


def test_tls() -> None:
    certificate, key = pair()
    authority = Material(certificate)
    context = Kubeconfig("https://x", (), authority, authority, Material(key)).ssl_context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    trusting = Kubeconfig("https://x", (), authority, insecure_skip_tls_verify=True).ssl_context()
    assert trusting is not None
    assert trusting.verify_mode == ssl.CERT_NONE
    assert Kubeconfig("http://x").ssl_context() is None
