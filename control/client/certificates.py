"""Get a certificate by asking the API server for it: key, request, wait, files.

The key never leaves the directory it is made in. A certificate that is there already and has more than a fifth of
its life left is used as it is, so that a restart asks for nothing.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.api import meta
from control.api.meta import Object
from control.api.resources import CERTIFICATE_SIGNING_REQUESTS
from control.api.status import ApiError
from control.client.client import Client
from control.client.kubeconfig import write_private

log = logging.getLogger(__name__)

CLIENT_KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_KUBELET = "kubernetes.io/kubelet-serving"
CLIENT = "kubernetes.io/kube-apiserver-client"
NODE_COMPONENT = "raftsman.dev/node-component"
USAGES_CLIENT = ("digital signature", "client auth")
USAGES_SERVING = ("digital signature", "server auth")

WAIT_FIRST_S = 0.05
WAIT_MAX_S = 0.5


class CertificateError(Exception):
    """The request was denied, failed, or was not answered in time."""


@dataclass(frozen=True)
class CertificateFiles:
    """Where a certificate and its key stand."""

    certificate: Path
    key: Path


def make_key() -> ec.EllipticCurvePrivateKey:
    """Make a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_request(
    key: ec.EllipticCurvePrivateKey,
    common_name: str,
    organizations: Sequence[str],
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
) -> bytes:
    """Return a certificate request as PEM."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def is_usable(
    certificate: bytes, key: bytes, common_name: str, now: datetime, alternative_names: frozenset[str] = frozenset()
) -> bool:
    """Tell whether a certificate fits key, name and addresses and has more than a fifth of its life left."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, None)
    except ValueError:
        return False
    if found.public_key() != private.public_key():
        return False
    names = [str(entry.value) for entry in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    life = found.not_valid_after_utc - found.not_valid_before_utc
    if names != [common_name] or now >= found.not_valid_after_utc - life / 5:
        return False
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not alternative_names
    return {str(name.value) for name in extension} >= alternative_names


def decision(obj: Object) -> bytes | None:
    """Return the signed certificate of a CertificateSigningRequest, None while it is open; raise when refused."""
    name = meta.name(obj)
    for condition_type in ("Denied", "Failed"):
        if meta.condition_is_true(obj, condition_type):
            entry = meta.condition(obj, condition_type) or {}
            said = f"{entry.get('reason', '')}: {entry.get('message', '')}"
            raise CertificateError(f"certificate request {name} was {condition_type.lower()}: {said}")
    encoded = (obj.get("status") or {}).get("certificate")
    return base64.b64decode(encoded) if encoded else None


async def request_certificate(
    client: Client,
    signer_name: str,
    common_name: str,
    organizations: Sequence[str],
    usages: Sequence[str],
    *,
    directory: str | Path,
    basename: str,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[str] = (),
    expiration_seconds: int | None = None,
    timeout_s: float = 300.0,
) -> CertificateFiles:
    """Make sure that `directory` holds a certificate `basename.crt` with its key `basename.key` (mode 0600)."""
    files = CertificateFiles(Path(directory) / f"{basename}.crt", Path(directory) / f"{basename}.key")
    alternative_names = frozenset((*dns_names, *(str(ipaddress.ip_address(a)) for a in ip_addresses)))
    if files.certificate.exists() and files.key.exists():
        held, held_key = files.certificate.read_bytes(), files.key.read_bytes()
        if is_usable(held, held_key, common_name, datetime.now(UTC), alternative_names):
            return files
    key = make_key()
    spec = {
        "request": base64.b64encode(make_request(key, common_name, organizations, dns_names, ip_addresses)).decode(),
        "signerName": signer_name,
        "usages": list(usages),
    }
    if expiration_seconds is not None:
        spec["expirationSeconds"] = expiration_seconds  # type: ignore[assignment]
    body = {
        "apiVersion": CERTIFICATE_SIGNING_REQUESTS.api_version,
        "kind": CERTIFICATE_SIGNING_REQUESTS.kind,
        "metadata": {"generateName": "csr-"},
        "spec": spec,
    }
    try:
        async with asyncio.timeout(timeout_s):
            certificate = await _signed(client, body)
    except TimeoutError:
        text = f"no certificate from {signer_name} for {common_name} in {timeout_s:g} s: is the request approved?"
        raise CertificateError(text) from None
    # The key goes first: a crash between the two leaves a pair that does not fit, which is asked for anew.
    write_private(files.key, key_pem(key))
    write_private(files.certificate, certificate)
    log.info("certificate received common_name=%s signer=%s file=%s", common_name, signer_name, files.certificate)
    return files


async def _signed(client: Client, body: Object) -> bytes:
    """Create a request and wait for its certificate; made anew when it is cleaned away unanswered."""
    delay = WAIT_FIRST_S
    name = ""
    while True:
        try:
            if name:
                obj = await client.get(CERTIFICATE_SIGNING_REQUESTS, name)
            else:
                obj = await client.create(CERTIFICATE_SIGNING_REQUESTS, body)
                name = meta.name(obj)
            certificate = decision(obj)
            if certificate is not None:
                return certificate
        except ApiError as error:
            if error.code == 404 and name:
                name = ""
            elif error.code < 500 and error.code not in (401, 403, 429):
                raise CertificateError(f"certificate request refused: {error.message}") from None
            # 401 and 403 pass while a cluster starts: tokens and roles may still be on their way.
            log.warning("certificate request not answered code=%d error=%s", error.code, error.message)
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, WAIT_MAX_S)
