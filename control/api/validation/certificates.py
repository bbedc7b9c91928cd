"""Rules of certificate signing requests: what is asked, who approved it, what was signed."""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from typing import Any

from control.api.meta import Object
from control.api.validation.faults import Faults
from control.api.validation.forms import check_signer_name

_USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
)  # fmt: skip
_LEGACY_SIGNER = "kubernetes.io/legacy-unknown"
_EXPIRATION_S_MIN = 600
_NO_CERTIFICATE = "must contain at least one CERTIFICATE PEM block"
_DECIDED = ("Approved", "Denied")
_LASTING = ("Approved", "Denied", "Failed")
"""Conditions that stay once they are there."""
_BEGIN = re.compile(rb"-----BEGIN ([^-]+)-----\s*\n(.*?)-----END \1-----", re.DOTALL)


def check_signing_request(obj: Object, faults: Faults) -> None:
    """Check a CertificateSigningRequest."""
    spec = obj.get("spec") or {}
    usages = spec.get("usages") or []
    if (wrong := _wrong_request(spec.get("request") or "")) is not None:
        faults.invalid("spec.request", spec.get("request"), wrong)
    if not usages:
        faults.required("spec.usages")
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            faults.not_supported(f"spec.usages[{index}]", usage, _USAGES)
    for index, usage in enumerate(usages):
        if usage in usages[:index]:
            faults.duplicate(f"spec.usages[{index}]", usage)
    signer = spec.get("signerName") or ""
    if signer == _LEGACY_SIGNER:
        faults.invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version")
    else:
        check_signer_name(signer, "spec.signerName", faults)
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _EXPIRATION_S_MIN:
        text = f"may not specify a duration less than {_EXPIRATION_S_MIN} seconds (10 minutes)"
        faults.invalid("spec.expirationSeconds", seconds, text)
    _check_conditions((obj.get("status") or {}).get("conditions") or [], faults)


def _wrong_request(encoded: str) -> str | None:
    """Return what is wrong with the request itself: its form, or the signature by which its key is proven."""
    if _blocks(encoded)[:1] != ["CERTIFICATE REQUEST"]:
        return "PEM block type must be CERTIFICATE REQUEST"
    try:
        return _wrong_signature(base64.b64decode(encoded))
    except ValueError as error:
        return f"x509: malformed certificate request: {error}"


@lru_cache(maxsize=64)
def _wrong_signature(pem: bytes) -> str | None:
    # What reads certificates is large, and most servers see no request for long.
    from cryptography.x509 import load_pem_x509_csr

    return None if load_pem_x509_csr(pem).is_signature_valid else "crypto/rsa: verification error"


def _blocks(encoded: str) -> list[str]:
    """Return the types of the PEM blocks in a text."""
    try:
        return [found.group(1).decode("ascii", "replace") for found in _BEGIN.finditer(base64.b64decode(encoded))]
    except ValueError:
        return []


def _check_conditions(conditions: list[dict[str, Any]], faults: Faults) -> None:
    seen: list[str] = []
    for index, condition in enumerate(conditions):
        here, kind, status = f"status.conditions[{index}]", condition.get("type") or "", condition.get("status") or ""
        if not kind:
            faults.required(f"{here}.type")
        allowed = ["True"] if kind in _LASTING else ["False", "True", "Unknown"]
        faults.one_of(f"{here}.status", status, allowed)
        if kind in _DECIDED and any(other in seen for other in _DECIDED if other != kind):
            faults.invalid("status.conditions", kind, "Approved and Denied conditions are mutually exclusive")
        if kind in seen:
            faults.duplicate(f"{here}.type", kind)
        seen.append(kind)


def check_signing_request_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a request stays as it was decided."""
    _check_kept(new, old, faults, decidable=False)


def check_signing_request_approval(new: Object, old: Object, faults: Faults) -> None:
    """Check a decision: it may be added or explained anew, and is not taken back."""
    _check_conditions((new.get("status") or {}).get("conditions") or [], faults)
    _check_kept(new, old, faults, decidable=True)
    _check_certificate(new, old, faults, settable=False)


def check_signing_request_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what a signer wrote: a certificate once, or that it failed."""
    _check_conditions((new.get("status") or {}).get("conditions") or [], faults)
    _check_kept(new, old, faults, decidable=False)
    _check_certificate(new, old, faults, settable=True)


def _conditions_of(obj: Object, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in (obj.get("status") or {}).get("conditions") or [] if entry.get("type") == kind]


def _check_kept(new: Object, old: Object, faults: Faults, *, decidable: bool) -> None:
    path = "status.conditions"
    for kind in _LASTING:
        if len(_conditions_of(new, kind)) < len(_conditions_of(old, kind)):
            faults.forbidden(path, f'updates may not remove a condition of type "{kind}"')
    for kind in () if decidable else _DECIDED:
        now, was = _conditions_of(new, kind), _conditions_of(old, kind)
        if len(now) > len(was):
            faults.forbidden(path, f'updates may not add a condition of type "{kind}"')
        elif len(now) == len(was) and now != was:
            faults.forbidden(path, f'updates may not modify a condition of type "{kind}"')


def _check_certificate(new: Object, old: Object, faults: Faults, *, settable: bool) -> None:
    now, was = ((obj.get("status") or {}).get("certificate") or "" for obj in (new, old))
    path = "status.certificate"
    if now == was:
        return
    if not settable:
        faults.forbidden(path, "updates may not set certificate content")
    elif was:
        faults.forbidden(path, "updates may not modify existing certificate content")
    if (wrong := _wrong_certificate(now)) is not None:
        faults.invalid(path, "<certificate data>", wrong)


def _wrong_certificate(encoded: str) -> str | None:
    if not encoded:
        return None
    try:
        pem = base64.b64decode(encoded)
    except ValueError:
        return _NO_CERTIFICATE
    found = list(_BEGIN.finditer(pem))
    for block in found:
        if (kind := block.group(1).decode("ascii", "replace")) != "CERTIFICATE":
            return f'only CERTIFICATE PEM blocks are allowed, found "{kind}"'
        if b":" in block.group(2):
            return "no PEM block headers are permitted"
        if (wrong := _unreadable(block.group(0))) is not None:
            return wrong
    return None if found else _NO_CERTIFICATE


def _unreadable(pem: bytes) -> str | None:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        load_pem_x509_certificate(pem)
    except ValueError as error:
        return f"x509: malformed certificate: {error}"
    return None
