"""CertificateSigningRequests: approve what needs no person, sign what is approved, clean away what is old."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from control.api import meta
from control.api.meta import Object
from control.api.resources import CERTIFICATE_SIGNING_REQUESTS as REQUESTS
from control.api.resources import NODES
from control.client.actions import Delete, Update
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers import certificaterules as rules
from control.controllers.pods import format_time, parse_time

log = logging.getLogger(__name__)

BACKDATE = timedelta(minutes=5)
DURATION_MIN = timedelta(minutes=10)
CLEAN_EVERY_S = 60.0
APPROVED_KEPT = timedelta(hours=1)
DENIED_KEPT = timedelta(hours=1)
PENDING_KEPT = timedelta(hours=24)

EXTENDED_USAGES: dict[str, ObjectIdentifier] = {
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True)
class Authority:
    """A certificate authority that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    duration: timedelta = timedelta(days=365)

    @classmethod
    def load(cls, certificate: Path, key: Path, duration: timedelta) -> Authority:
        """Read an authority from its files."""
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError(f"{key}: only EC and RSA keys sign certificates")
        return cls(x509.load_pem_x509_certificate(certificate.read_bytes()), private, duration)

    def sign(self, request: rules.Request, asked_s: int | None, serial: int, now: datetime) -> bytes:
        """Return the certificate for a request as PEM; never longer valid than the authority."""
        duration = self.duration
        if asked_s:
            duration = max(DURATION_MIN, min(duration, timedelta(seconds=asked_s)))
        end = min(now + duration, self.certificate.not_valid_after_utc)
        usages = request.usages
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.parsed.subject)
            .issuer_name(self.certificate.subject)
            .public_key(request.parsed.public_key())
            .serial_number(serial)
            .not_valid_before(max(now - BACKDATE, self.certificate.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature="digital signature" in usages,
                    key_encipherment="key encipherment" in usages,
                    content_commitment=False, data_encipherment=False, key_agreement=False, key_cert_sign=False,
                    crl_sign=False, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )  # fmt: skip
        extended = [EXTENDED_USAGES[usage] for usage in sorted(usages) if usage in EXTENDED_USAGES]
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if request.has_names:
            names = request.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            builder = builder.add_extension(names.value, names.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _condition(kind: str, reason: str, message: str, now: datetime) -> dict[str, Any]:
    stamp = format_time(now)
    return {
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": stamp, "lastTransitionTime": stamp,
    }  # fmt: skip


def is_open(obj: Object) -> bool:
    """Tell whether nobody has decided about a request."""
    kinds = {entry.get("type") for entry in (obj.get("status") or {}).get("conditions") or []}
    return not kinds & {"Approved", "Denied", "Failed"}


def approve(obj: Object, node: Object | None, now: datetime) -> Update | None:
    """Return the approval of a request that needs no person."""
    if not is_open(obj):
        return None
    try:
        request = rules.read(obj)
    except rules.RefusedError:
        return None
    why = rules.approval(str((obj.get("spec") or {}).get("signerName")), request, node)
    if why is None:
        return None
    status = dict(obj.get("status") or {})
    status["conditions"] = [*(status.get("conditions") or []), _condition("Approved", "AutoApproved", why, now)]
    return Update(REQUESTS, {**obj, "status": status}, "approval")


def sign(obj: Object, authority: Authority, serial: int, now: datetime) -> Update | None:
    """Return the status with the certificate of an approved request, or with why there will be none."""
    spec, status = obj.get("spec") or {}, dict(obj.get("status") or {})
    approved = meta.condition_is_true(obj, "Approved") and not meta.condition(obj, "Denied")
    if not approved or meta.condition(obj, "Failed") or status.get("certificate"):
        return None
    signer = str(spec.get("signerName"))
    if signer not in rules.CHECKS:
        return None
    try:
        request = rules.read(obj)
        rules.CHECKS[signer](request)
    except rules.RefusedError as error:
        failed = _condition("Failed", "SignerValidationFailure", str(error), now)
        status["conditions"] = [*(status.get("conditions") or []), failed]
        return Update(REQUESTS, {**obj, "status": status}, "status")
    pem = authority.sign(request, spec.get("expirationSeconds"), serial, now)
    status["certificate"] = base64.b64encode(pem).decode()
    return Update(REQUESTS, {**obj, "status": status}, "status")


def is_stale(obj: Object, now: datetime) -> bool:
    """Tell whether a request is to be cleaned away: decided an hour ago, open for a day, or expired."""
    status = obj.get("status") or {}
    for entry in status.get("conditions") or []:
        since = parse_time(entry.get("lastUpdateTime"))
        kept = DENIED_KEPT if entry.get("type") in ("Denied", "Failed") else APPROVED_KEPT
        if since is not None and now - since > kept:
            return True
    if status.get("certificate"):
        pem = base64.b64decode(status["certificate"])
        try:
            if x509.load_pem_x509_certificate(pem).not_valid_after_utc < now:
                return True
        except ValueError:
            return True
    born = parse_time(obj["metadata"].get("creationTimestamp"))
    return is_open(obj) and born is not None and now - born > PENDING_KEPT


class CertificateApprover:
    """Approves the certificate requests of nodes."""

    name = "certificatesigningrequest-approving"
    workers = 2

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._requests = context.informer(REQUESTS)
        self._nodes = context.informer(NODES)
        self._requests.add_handler(enqueue(self.queue))
        self._nodes.add_handler(self._node_changed)

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        """A serving certificate waits until its node says which addresses it has."""
        if new is None or (
            old is not None and old.get("status", {}).get("addresses") == new.get("status", {}).get("addresses")
        ):
            return
        for obj in self._requests.objects():
            if is_open(obj):
                self.queue.add(meta.key(obj))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Look at one request."""
        obj = self._requests.get(key)
        if obj is None or not is_open(obj):
            return None
        username = str((obj.get("spec") or {}).get("username") or "")
        node = self._nodes.get(username.removeprefix(rules.NODE_USER))
        action = approve(obj, node, self._context.now())
        if action is not None:
            await self._context.write(action)
            log.info("certificate request approved name=%s username=%s", key, username)
        return None


class CertificateSigner:
    """Signs approved requests with the cluster's authority."""

    name = "certificatesigningrequest-signing"
    workers = 2

    def __init__(self, context: Context, authority: Authority) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._authority = authority
        self._requests = context.informer(REQUESTS)
        self._requests.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Look at one request."""
        obj = self._requests.get(key)
        if obj is None:
            return None
        action = sign(obj, self._authority, x509.random_serial_number(), self._context.now())
        if action is not None:
            await self._context.write(action)
            log.info("certificate request decided name=%s signer=%s", key, obj["spec"].get("signerName"))
        return None


class CertificateCleaner:
    """Deletes requests that nobody needs any more; the key is a request, queued by time."""

    name = "certificatesigningrequest-cleaner"
    workers = 1

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._requests = context.informer(REQUESTS)
        self._requests.add_handler(self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if old is None and new is not None:
            self.queue.add_after(meta.key(new), CLEAN_EVERY_S)

    async def background(self) -> None:
        """The queue's delays are the clock."""

    async def sync(self, key: str) -> float | None:
        """Look at one request, and again in a while."""
        obj = self._requests.get(key)
        if obj is None:
            return None
        if is_stale(obj, self._context.now()):
            await self._context.write(Delete(REQUESTS, "", key))
            return None
        return CLEAN_EVERY_S


def signing_controllers(context: Context, authority: Authority | None) -> Sequence[CertificateSigner]:
    """Return the signer where the cluster's authority is at hand."""
    return [CertificateSigner(context, authority)] if authority is not None else []
