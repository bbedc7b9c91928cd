"""Certificates are asked for, waited for, kept, and asked for anew when they do not fit."""

import asyncio
import base64
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from control.api import meta
from control.api.resources import CERTIFICATE_SIGNING_REQUESTS as REQUESTS
from control.client.certificates import (
    CertificateError,
    CertificateFiles,
    is_usable,
    key_pem,
    make_key,
    make_request,
    request_certificate,
)
from tests.fakes.fake_client import FakeClient


def signed(request: bytes, life: timedelta = timedelta(hours=1)) -> bytes:
    csr = x509.load_pem_x509_csr(request)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(csr.subject)
        .public_key(csr.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + life)
    )
    for extension in csr.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(make_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def sign_all(client: FakeClient, condition: str = "Approved") -> None:
    while True:
        for obj in client.objects(REQUESTS):
            if not obj.get("status"):
                status: dict[str, object] = {"conditions": [{"type": condition, "status": "True", "reason": "Test"}]}
                if condition == "Approved":
                    certificate = signed(base64.b64decode(obj["spec"]["request"]))
                    status["certificate"] = base64.b64encode(certificate).decode()
                client.put(REQUESTS, obj | {"status": status})
        await asyncio.sleep(0.01)


async def ask(client: FakeClient, directory: Path, **more: object) -> CertificateFiles:
    return await request_certificate(
        client,
        "kubernetes.io/kubelet-serving",
        "system:node:n1",
        ["system:nodes"],
        ["digital signature", "server auth"],
        directory=directory,
        basename="kubelet",
        ip_addresses=["10.0.0.1"],
        timeout_s=30.0,
        **more,  # type: ignore[arg-type]
    )


async def test_request_sign_and_keep(tmp_path: Path) -> None:
    client = FakeClient()
    async with asyncio.TaskGroup() as group:
        signer = group.create_task(sign_all(client))
        files = await ask(client, tmp_path, dns_names=["n1"])
        again = await ask(client, tmp_path, dns_names=["n1"])
        assert len(client.objects(REQUESTS)) == 1
        await ask(client, tmp_path, dns_names=["n1", "n1.example"])
        assert len(client.objects(REQUESTS)) == 2
        signer.cancel()
    assert files == again
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
    spec = client.objects(REQUESTS)[0]["spec"]
    assert spec["signerName"] == "kubernetes.io/kubelet-serving"


async def test_a_denied_request_says_why(tmp_path: Path) -> None:
    client = FakeClient()
    async with asyncio.TaskGroup() as group:
        signer = group.create_task(sign_all(client, "Denied"))
        with pytest.raises(CertificateError, match="was denied: Test"):
            await ask(client, tmp_path)
        signer.cancel()
    assert not list(tmp_path.iterdir())


async def test_a_request_that_was_cleaned_away_is_made_anew(tmp_path: Path) -> None:
    client = FakeClient()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(client, tmp_path))
        async with asyncio.timeout(5):
            while not client.objects(REQUESTS):
                await asyncio.sleep(0.005)
        client.remove(REQUESTS, meta.name(client.objects(REQUESTS)[0]))
        signer = group.create_task(sign_all(client))
        await asking
        signer.cancel()


def test_what_makes_a_certificate_usable() -> None:
    key = make_key()
    certificate = signed(make_request(key, "a", ["g"], ["h"]), timedelta(hours=10))
    pem, now = key_pem(key), datetime.now(UTC)
    assert is_usable(certificate, pem, "a", now)
    assert is_usable(certificate, pem, "a", now, frozenset({"h"}))
    assert not is_usable(certificate, pem, "a", now, frozenset({"i"}))
    assert not is_usable(certificate, pem, "b", now)
    assert not is_usable(certificate, pem, "a", now + timedelta(hours=8, minutes=30))
    assert not is_usable(certificate, key_pem(make_key()), "a", now)
    assert not is_usable(b"torn", pem, "a", now)
