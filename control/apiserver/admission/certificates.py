"""CertificateApproval, -Signing and -SubjectRestriction, ClusterTrustBundleAttest, and who a request is recorded for.

A CertificateSigningRequest records its requestor, and approvers trust that record: so it is written here, from
the authenticated user, whatever the body says.
"""

from __future__ import annotations

import base64
import binascii

from cryptography import x509
from cryptography.x509.oid import NameOID

from control.api.meta import Object
from control.api.resources import CERTIFICATE_SIGNING_REQUESTS
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.authz.attributes import SUPERUSER_GROUP, Attributes
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.request import AdmissionRequest, UserInfo

GROUP = "certificates.k8s.io"
API_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
_DECISIONS = frozenset({"Approved", "Denied"})


def record_requestor(request: Object, user: UserInfo) -> None:
    """Write the authenticated user into a new request; what the body claims is dropped."""
    spec = request.setdefault("spec", {})
    for field in ("username", "uid", "groups", "extra"):
        spec.pop(field, None)
    spec["username"] = user.name
    if user.uid:
        spec["uid"] = user.uid
    if user.groups:
        spec["groups"] = list(user.groups)
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra.items()}
    request.pop("status", None)


def keep_foreign_fields(subresource: str, new: Object, old: Object) -> None:
    """Each subresource writes its own part of the status: approval the decisions, status all else."""
    new["spec"] = old.get("spec") or {}
    held, given = dict(old.get("status") or {}), dict(new.get("status") or {})
    old_conditions, new_conditions = held.get("conditions") or [], given.get("conditions") or []
    if subresource == "approval":
        decided = [entry for entry in new_conditions if entry.get("type") in _DECISIONS]
        others = [entry for entry in old_conditions if entry.get("type") not in _DECISIONS]
        status = {**held, "conditions": decided + others}
    else:
        decided = [entry for entry in old_conditions if entry.get("type") in _DECISIONS]
        others = [entry for entry in new_conditions if entry.get("type") not in _DECISIONS]
        status = {**given, "conditions": decided + others}
    if not status["conditions"]:
        del status["conditions"]
    new["status"] = status


def organizations_of(request: Object) -> list[str]:
    """The organizations in the PEM request; empty where it cannot be read, which validation reports."""
    try:
        pem = base64.b64decode(spec_of(request).get("request") or "", validate=True)
        parsed = x509.load_pem_x509_csr(pem)
    except (binascii.Error, ValueError):
        return []
    return [str(entry.value) for entry in parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]


def signer_questions(user: UserInfo, verb: str, signer_name: str) -> tuple[Attributes, ...]:
    """The right to a signer may be held for its name or for its whole domain."""
    domain = signer_name.partition("/")[0]
    return tuple(
        Attributes(user=user, verb=verb, group=GROUP, version="*", resource="signers", name=name)
        for name in (signer_name, f"{domain}/*")
    )


class Certificates(Plugin):
    """Applies the rules above."""

    about = (CERTIFICATE_SIGNING_REQUESTS,)

    def __init__(self, authorizer: ModeAuthorizer) -> None:
        self._authorizer = authorizer

    async def mutate(self, request: AdmissionRequest) -> None:
        """Record the requestor, and keep each subresource to its part."""
        if request.object is None:
            return
        if concerns(request, CERTIFICATE_SIGNING_REQUESTS, "CREATE"):
            record_requestor(request.object, request.user)
        elif request.operation == "UPDATE" and request.resource.plural == CERTIFICATE_SIGNING_REQUESTS.plural:
            old = request.old_object or {}
            if request.subresource in ("approval", "status"):
                keep_foreign_fields(request.subresource, request.object, old)
            else:
                request.object["spec"] = old.get("spec") or {}

    async def validate(self, request: AdmissionRequest) -> None:
        """Check the rights to approve and to sign, and the subject that is asked for."""
        new, old = request.object or {}, request.old_object or {}
        signer = str(spec_of(old or new).get("signerName") or "")
        if concerns(request, CERTIFICATE_SIGNING_REQUESTS, "UPDATE", subresource="approval"):
            if not self._may(request.user, "approve", signer):
                raise denied(request, f'user not permitted to approve requests with signerName "{signer}"')
        elif concerns(request, CERTIFICATE_SIGNING_REQUESTS, "UPDATE", subresource="status"):
            if (new.get("status") or {}).get("certificate") == (old.get("status") or {}).get("certificate"):
                return
            if not self._may(request.user, "sign", signer):
                raise denied(request, f'user not permitted to sign requests with signerName "{signer}"')
        elif (
            concerns(request, CERTIFICATE_SIGNING_REQUESTS, "CREATE")
            and signer == API_CLIENT_SIGNER
            and SUPERUSER_GROUP in organizations_of(new)
        ):
            raise denied(request, f"use of {API_CLIENT_SIGNER} signer with {SUPERUSER_GROUP} group is not allowed")

    def _may(self, user: UserInfo, verb: str, signer: str) -> bool:
        return may_use_signer(self._authorizer, user, verb, signer)


def may_use_signer(authorizer: ModeAuthorizer, user: UserInfo, verb: str, signer: str) -> bool:
    """Tell whether a user holds the right to a signer."""
    return any(authorizer.allows(question) for question in signer_questions(user, verb, signer))


class ClusterTrustBundleAttest(Plugin):
    """Lets those alone speak for a signer in ClusterTrustBundles who hold the right to attest."""

    def __init__(self, authorizer: ModeAuthorizer) -> None:
        self._authorizer = authorizer

    async def validate(self, request: AdmissionRequest) -> None:
        """Check the right to the signer; changes that the garbage collector makes need none."""
        about = (request.resource.group, request.resource.plural)
        if about != (GROUP, "clustertrustbundles") or request.operation not in ("CREATE", "UPDATE"):
            return
        new, old = request.object or {}, request.old_object
        signer = str(spec_of(new).get("signerName") or "")
        if not signer or (old is not None and _without_ownership(new) == _without_ownership(old)):
            return
        if not may_use_signer(self._authorizer, request.user, "attest", signer):
            raise denied(request, f'user not permitted to attest for signerName "{signer}"')


def _without_ownership(obj: Object) -> Object:
    """What the garbage collector leaves as it is, and what the server itself writes left out."""
    ignored = ("finalizers", "ownerReferences", "managedFields", "resourceVersion")
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in ignored}
    return {**obj, "metadata": metadata}
