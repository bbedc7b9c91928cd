"""Client certificates: the common name is the user, the organizations are the groups.

TLS has already proved possession of the key and verified the chain against every authority that the listener
trusts. Two authorities may be trusted for different things (people and nodes by one, the front proxy by the
other), so the issuer is checked again here, and so is the time: a connection may outlive its certificate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.apiserver.authn.identity import InvalidCredentialError
from control.apiserver.request import UserInfo

_UID_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57683.2")
_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
CACHE_MAX = 4096
_PUBLIC_FORM = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class _Known:
    user: UserInfo
    not_before: datetime
    not_after: datetime


class CertificateAuthority:
    """Verifies client certificates of one bundle of authorities and names their holders."""

    def __init__(self, bundle_pem: bytes) -> None:
        self._issuers = x509.load_pem_x509_certificates(bundle_pem)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    @classmethod
    def from_file(cls, path: Path) -> CertificateAuthority:
        """Read a bundle of PEM certificates."""
        return cls(path.read_bytes())

    def shares_issuer_with(self, other: CertificateAuthority) -> bool:
        """Whether some authority belongs to both bundles."""
        keys = {issuer.public_key().public_bytes(*_PUBLIC_FORM) for issuer in self._issuers}
        return any(issuer.public_key().public_bytes(*_PUBLIC_FORM) in keys for issuer in other._issuers)

    def user_of(self, certificate_der: bytes, now: datetime) -> UserInfo | None:
        """Name the holder; None for another authority's certificate, InvalidCredentialError for a bad one of ours."""
        known = self._known.get(certificate_der)
        if known is None:
            certificate = x509.load_der_x509_certificate(certificate_der)
            if not issued_by_any(certificate, self._issuers):
                return None
            _check_usage(certificate)
            known = _Known(
                user_from_certificate(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc
            )
            self._known[certificate_der] = known
            if len(self._known) > CACHE_MAX:
                self._known.popitem(last=False)
        if not known.not_before <= now <= known.not_after:
            raise InvalidCredentialError("x509: certificate has expired or is not yet valid")
        return known.user


def user_from_certificate(certificate: x509.Certificate) -> UserInfo:
    """Read the user out of a certificate's subject."""
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or not names[0]:
        raise InvalidCredentialError("x509: the subject has no common name")
    groups = tuple(str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    uids = [str(a.value) for a in certificate.subject.get_attributes_for_oid(_UID_OID)]
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return UserInfo(
        name=names[0],
        uid=uids[0] if uids else "",
        groups=groups,
        extra={_CREDENTIAL_ID: (f"X509SHA256={fingerprint}",)},
    )


def issued_by_any(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> bool:
    """Whether one of these authorities signed the certificate."""
    for issuer in issuers:
        if certificate.issuer != issuer.subject:
            continue
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return True
    return False


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    allowed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if not allowed & set(usages):
        raise InvalidCredentialError("x509: certificate specifies an incompatible key usage")
