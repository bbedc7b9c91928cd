"""Which certificate requests are approved by themselves, and what each signer puts its name to: pure rules.

Every signer reads the request itself, never only what its creator says about it: subject, alternative names and
usages must be exactly those of the identity that the signer stands for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import NameOID

from control.api.meta import Object

CLIENT = "kubernetes.io/kube-apiserver-client"
CLIENT_KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_KUBELET = "kubernetes.io/kubelet-serving"
NODE_COMPONENT = "raftsman.dev/node-component"
SIGNERS = (CLIENT, CLIENT_KUBELET, SERVING_KUBELET, NODE_COMPONENT)

NODE_USER = "system:node:"
NODES_GROUP = "system:nodes"
BOOTSTRAPPERS_GROUP = "system:bootstrappers"
NODE_COMPONENTS = frozenset({"system:kube-proxy", "raftsman:cni"})

USAGES_CLIENT = frozenset({"digital signature", "client auth"})
USAGES_SERVING = frozenset({"digital signature", "server auth"})
ENCIPHERMENT = "key encipherment"


class RefusedError(Exception):
    """The request asks for what its signer never signs; the text says what."""


@dataclass(frozen=True)
class Request:
    """What a CertificateSigningRequest asks for, read from its PEM."""

    common_name: str
    organizations: frozenset[str]
    dns_names: frozenset[str]
    ip_addresses: frozenset[str]
    other_names: bool
    usages: frozenset[str]
    username: str
    groups: frozenset[str]
    parsed: x509.CertificateSigningRequest = field(compare=False, repr=False)

    @property
    def has_names(self) -> bool:
        """True when there are alternative names of any kind."""
        return bool(self.dns_names or self.ip_addresses or self.other_names)


def read(obj: Object) -> Request:
    """Read a CertificateSigningRequest object; a broken one is refused."""
    spec = obj.get("spec") or {}
    try:
        parsed = x509.load_pem_x509_csr(base64.b64decode(spec.get("request") or "", validate=True))
        valid = parsed.is_signature_valid
    except (ValueError, binascii.Error) as error:
        raise RefusedError(f"the request is not PEM of a certificate request: {error}") from None
    if not valid:
        raise RefusedError("the request is not signed by its own key")
    names: list[x509.GeneralName] = []
    try:
        names = list(parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    common = [str(entry.value) for entry in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    organizations = parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Request(
        common_name=common[0] if len(common) == 1 else "",
        organizations=frozenset(str(entry.value) for entry in organizations),
        dns_names=frozenset(name.value for name in names if isinstance(name, x509.DNSName)),
        ip_addresses=frozenset(str(name.value) for name in names if isinstance(name, x509.IPAddress)),
        other_names=any(not isinstance(name, x509.DNSName | x509.IPAddress) for name in names),
        usages=frozenset(spec.get("usages") or ()),
        username=str(spec.get("username") or ""),
        groups=frozenset(spec.get("groups") or ()),
        parsed=parsed,
    )


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise RefusedError(text)


def _check_usages(request: Request, wanted: frozenset[str]) -> None:
    given = request.usages - {ENCIPHERMENT}
    _require(given == wanted, f"usages must be {sorted(wanted)}, not {sorted(request.usages)}")


def _check_node_subject(request: Request) -> None:
    _require(request.organizations == {NODES_GROUP}, f"subject organization is not [{NODES_GROUP}]")
    named = request.common_name.startswith(NODE_USER) and request.common_name != NODE_USER
    _require(named, f"subject common name does not begin with {NODE_USER}")


def check_kubelet_client(request: Request) -> None:
    """Refuse what is not a kubelet's client certificate."""
    _check_node_subject(request)
    _require(not request.has_names, "DNS, IP, email and URI alternative names are not allowed")
    _check_usages(request, USAGES_CLIENT)


def check_kubelet_serving(request: Request) -> None:
    """Refuse what is not a kubelet's serving certificate."""
    _check_node_subject(request)
    _require(not request.other_names, "email and URI alternative names are not allowed")
    _require(bool(request.dns_names or request.ip_addresses), "DNS or IP alternative names are required")
    _check_usages(request, USAGES_SERVING)


def check_client(request: Request) -> None:
    """Refuse what is not a client certificate."""
    allowed = {"digital signature", ENCIPHERMENT, "client auth"}
    _require(request.usages <= allowed, f"usages may only be {sorted(allowed)}")
    _require("client auth" in request.usages, "usages must hold client auth")
    _require("system:masters" not in request.organizations, "organization system:masters is not allowed")


def check_node_component(request: Request) -> None:
    """Refuse what is not the client certificate of a node's proxy or network daemon."""
    _require(request.common_name in NODE_COMPONENTS, f"common name must be one of {sorted(NODE_COMPONENTS)}")
    _require(not request.organizations, "subject organizations are not allowed")
    _require(not request.has_names, "alternative names are not allowed")
    _check_usages(request, USAGES_CLIENT)


CHECKS: Mapping[str, Callable[[Request], None]] = {
    CLIENT: check_client,
    CLIENT_KUBELET: check_kubelet_client,
    SERVING_KUBELET: check_kubelet_serving,
    NODE_COMPONENT: check_node_component,
}


def _bootstraps(request: Request) -> bool:
    return any(group == BOOTSTRAPPERS_GROUP or group.startswith(f"{BOOTSTRAPPERS_GROUP}:") for group in request.groups)


def _node_addresses(node: Object) -> frozenset[str]:
    found = (node.get("status") or {}).get("addresses") or []
    return frozenset(str(entry.get("address")) for entry in found)


def approval(signer: str, request: Request, node: Object | None) -> str | None:
    """Return why a request is approved without a person, or None to leave it to one.

    `node` is the Node that the request's common name speaks of. Requests that break a signer's rules are left
    open here; the signer fails them when a person approves them.
    """
    try:
        CHECKS[signer](request)
    except (KeyError, RefusedError):
        return None
    if signer == CLIENT_KUBELET:
        if request.username == request.common_name:
            return "Auto approving self kubelet client certificate after SubjectAccessReview."
        if _bootstraps(request):
            return "Auto approving kubelet client certificate after SubjectAccessReview."
    if signer == NODE_COMPONENT and (NODES_GROUP in request.groups or _bootstraps(request)):
        return "Auto approving node component client certificate."
    if signer == SERVING_KUBELET and request.username == request.common_name and node is not None:
        names = request.dns_names | request.ip_addresses
        if names <= _node_addresses(node) | {request.common_name.removeprefix(NODE_USER)}:
            return "Auto approving kubelet serving certificate: all names are addresses of the node."
    return None
