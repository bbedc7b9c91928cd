"""TLS with clients: a certificate of the member's own, revocation, versions and ciphers, pages over https."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab import pki
from store import self_signed
from store.config import StoreConfig
from tests.store.api.conftest import start


def own(directory: Path) -> StoreConfig:
    config = StoreConfig(data_dir=directory, listen_client_urls=("https://10.1.2.3:1",), auto_tls=True)
    return config.with_own_certificate()


def test_a_member_signs_a_certificate_for_itself_once(tmp_path: Path) -> None:
    config = own(tmp_path)
    assert config.cert_file is not None
    assert config.key_file is not None
    assert stat.S_IMODE(config.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.key_file.parent.stat().st_mode) == 0o700
    first = config.cert_file.read_bytes()
    certificate = x509.load_pem_x509_certificate(first)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    lasts = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=364) < lasts < datetime.timedelta(days=366)
    own(tmp_path)
    assert config.cert_file.read_bytes() == first, "kept over a restart"
    self_signed.ensure(tmp_path, ["new.example"], 1)
    assert config.cert_file.read_bytes() != first, "made anew for a name that it lacks"


def test_given_certificates_come_before_one_of_its_own(tmp_path: Path) -> None:
    config = StoreConfig(data_dir=tmp_path, auto_tls=True, cert_file=tmp_path / "c", key_file=tmp_path / "k")
    assert config.with_own_certificate() == config
    assert not list(tmp_path.iterdir())


async def test_clients_and_probes_can_check_it(tmp_path: Path) -> None:
    config = own(tmp_path)
    changes = {"cert_file": config.cert_file, "key_file": config.key_file}
    urls = {"listen_client_urls": ("https://127.0.0.1:0", "http://127.0.0.1:0")}
    async with start(
        tmp_path, front_door="native", **urls, **changes, listen_metrics_urls=("https://127.0.0.1:0",)
    ) as member:
        trusting = ssl.create_default_context(cafile=str(config.cert_file))
        for port in (member.serving.client_ports[0], member.serving.metrics_ports[0]):
            trusting.set_alpn_protocols(["http/1.1"])
            assert (await shake(port, trusting)) is not None
        answer = await ask(member.serving.metrics_ports[0], trusting, "/readyz")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"ok\n")


async def shake(port: int, context: ssl.SSLContext) -> ssl.SSLObject | None:
    """Open a connection and say something on it; what was agreed upon, None where the server wants none."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            agreed: ssl.SSLObject = writer.get_extra_info("ssl_object")
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            # With TLS 1.3 a refusal of the certificate comes after the client's side of the handshake.
            answer = await reader.read()
            writer.close()
            return agreed if answer else None
    except (ssl.SSLError, ConnectionError):
        return None


async def ask(port: int, context: ssl.SSLContext, path: str) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


def revoke(authority: pki.Authority, certificates: list[Path], file: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - datetime.timedelta(hours=1)).next_update(now + datetime.timedelta(days=1))
    for path in certificates:
        serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    assert isinstance(authority.key, ec.EllipticCurvePrivateKey)
    crl = builder.sign(authority.key, hashes.SHA256())
    partial = file.with_suffix(".partial")
    partial.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    partial.replace(file)


def client(directory: Path, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    return context


async def test_who_is_revoked_is_not_served_from_then_on(tmp_path: Path) -> None:
    authority = pki.make_authority(tmp_path, "ca", "store")
    for name in ("server", "ann", "bob"):
        pki.issue(authority, tmp_path, name, name, usages=[pki.SERVER, pki.CLIENT], addresses=["127.0.0.1"])
    revoke(authority, [tmp_path / "bob.crt"], tmp_path / "revoked.pem")
    async with start(
        tmp_path / "data",
        front_door="native",
        listen_client_urls=("https://127.0.0.1:0", "http://127.0.0.1:0"),
        cert_file=tmp_path / "server.crt",
        key_file=tmp_path / "server.key",
        trusted_ca_file=tmp_path / "ca.crt",
        client_cert_auth=True,
        client_crl_file=tmp_path / "revoked.pem",
    ) as member:
        port = member.serving.client_ports[0]
        assert await shake(port, client(tmp_path, "ann")) is not None
        assert await shake(port, client(tmp_path, "bob")) is None
        revoke(authority, [tmp_path / "ann.crt"], tmp_path / "revoked.pem")
        assert await shake(port, client(tmp_path, "ann")) is None
        assert await shake(port, client(tmp_path, "bob")) is not None


@pytest.mark.parametrize(
    ("changes", "version", "cipher"),
    [
        ({}, "TLSv1.3", None),
        ({"tls_max_version": "TLS1.2"}, "TLSv1.2", None),
        (
            {"tls_max_version": "TLS1.2", "cipher_suites": ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",)},
            "TLSv1.2",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
    ],
    ids=["newest", "an older version", "one cipher"],
)
async def test_versions_and_ciphers(
    tmp_path: Path, changes: dict[str, object], version: str, cipher: str | None
) -> None:
    config = own(tmp_path)
    files = {"cert_file": config.cert_file, "key_file": config.key_file}
    urls = ("https://127.0.0.1:0", "http://127.0.0.1:0")
    async with start(tmp_path, front_door="native", listen_client_urls=urls, **files, **changes) as member:
        agreed = await shake(member.serving.client_ports[0], ssl.create_default_context(cafile=str(config.cert_file)))
    assert agreed is not None
    assert agreed.version() == version
    assert cipher is None or (agreed.cipher() or ("",))[0] == cipher


async def test_old_versions_are_refused(tmp_path: Path) -> None:
    config = own(tmp_path)
    files = {"cert_file": config.cert_file, "key_file": config.key_file, "tls_min_version": "TLS1.3"}
    urls = ("https://127.0.0.1:0", "http://127.0.0.1:0")
    async with start(tmp_path, front_door="native", listen_client_urls=urls, **files) as member:
        old = ssl.create_default_context(cafile=str(config.cert_file))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await shake(member.serving.client_ports[0], old) is None


def test_the_reference_door_says_what_it_cannot(tmp_path: Path) -> None:
    config = own(tmp_path)
    with pytest.raises(ValueError, match="need --front-door native"):
        replace(config, front_door="reference", tls_max_version="TLS1.2")
