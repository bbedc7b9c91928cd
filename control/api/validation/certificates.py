"""Rules of certificate signing requests: what is asked, who approved it, what was signed."""

from __future__ import annotations

import base64
import re
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
_DECIDED = ("Approved", "Denied")
_LASTING = ("Denied", "Approved", "Failed")
"""Conditions that stay once they are there."""
_BEGIN = re.compile(rb"-----BEGIN ([^-]+)-----\s*\n(.*?)-----END \1-----", re.DOTALL)


def check_signing_request(obj: Object, faults: Faults) -> None:
    """Check a CertificateSigningRequest; the request's content is read where it is signed."""
    spec = obj.get("spec") or {}
    usages = spec.get("usages") or []
    if not usages:
        faults.required("spec.usages")
    if not spec.get("request"):
        faults.required("spec.request")
    elif _blocks(spec["request"])[:1] != ["CERTIFICATE REQUEST"]:
        faults.invalid("spec.request", spec["request"], "PEM block type must be CERTIFICATE REQUEST")
    signer = spec.get("signerName") or ""
    check_signer_name(signer, "spec.signerName", faults)
    if signer == _LEGACY_SIGNER:
        faults.invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < _EXPIRATION_S_MIN:
        text = f"may not specify a duration less than {_EXPIRATION_S_MIN} seconds (10 minutes)"
        faults.invalid("spec.expirationSeconds", seconds, text)
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            faults.not_supported(f"spec.usages[{index}]", usage, _USAGES)
    for index, usage in enumerate(usages):
        if usage in usages[:index]:
            faults.duplicate(f"spec.usages[{index}]", usage)
    _check_conditions((obj.get("status") or {}).get("conditions") or [], faults)


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
            faults.invalid(f"{here}.type", kind, "Approved and Denied conditions are mutually exclusive")
        if kind in seen:
            faults.duplicate(f"{here}.type", kind)
        seen.append(kind)


def check_signing_request_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a request stays what was asked, and as it was decided."""
    faults.unchanged("spec", new.get("spec"), old.get("spec"))
    _check_kept(new, old, (), faults)


def check_signing_request_approval(new: Object, old: Object, faults: Faults) -> None:
    """Check a decision: it may be added, and is not taken back."""
    _check_conditions((new.get("status") or {}).get("conditions") or [], faults)
    _check_kept(new, old, _DECIDED, faults)
    _check_certificate(new, old, faults, settable=False)


def check_signing_request_status(new: Object, old: Object, faults: Faults) -> None:
    """Check what a signer wrote: a certificate once, or that it failed."""
    _check_conditions((new.get("status") or {}).get("conditions") or [], faults)
    _check_kept(new, old, ("Failed",), faults)
    _check_certificate(new, old, faults, settable=True)


def _check_kept(new: Object, old: Object, addable: tuple[str, ...], faults: Faults) -> None:
    for kind in _LASTING:
        now, was = (
            [entry for entry in (obj.get("status") or {}).get("conditions") or [] if entry.get("type") == kind]
            for obj in (new, old)
        )
        if now == was:
            continue
        if len(now) < len(was):
            word = "remove"
        elif len(now) > len(was):
            if kind in addable:
                continue
            word = "add"
        else:
            word = "modify"
        faults.forbidden("status.conditions", f'updates may not {word} a condition of type "{kind}"')


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
    kinds = _blocks(encoded)
    for kind in kinds:
        if kind != "CERTIFICATE":
            return f'only CERTIFICATE PEM blocks are allowed, found "{kind}"'
    return None if kinds else "must contain at least one CERTIFICATE PEM block"
