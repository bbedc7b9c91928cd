"""How a machine that knows a token and a hash learns whom to trust, as kubeadm does it.

1. Read kube-public/cluster-info from an address that is not trusted yet.
2. Its kubeconfig must carry the token's signature: whoever wrote it knows the token.
3. The authority in it must have the public key whose hash was told on the command line: a token that was stolen is not
   enough to pose as the cluster.
4. Read it again, now over TLS that this authority vouches for; both must be the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import Sequence

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control.api import bootstraptokens
from control.api.bootstraptokens import CLUSTER_INFO, CLUSTER_INFO_NAMESPACE, KUBECONFIG_KEY, SIGNATURE_PREFIX
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material
from lab.state import LabError

RETRY_S = 1.0
HASH_PREFIX = "sha256:"


class NotYetError(Exception):
    """What may still come: the text says what is awaited."""


def public_key_hash(certificate: x509.Certificate) -> str:
    """Return the pin of a certificate: the hash of its public key with its kind (RFC 7469)."""
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return HASH_PREFIX + hashlib.sha256(encoded).hexdigest()


def check_hash(text: str) -> str:
    """Return a pin in its one form; raises LabError."""
    digits = text.lower().removeprefix(HASH_PREFIX)
    if not text.lower().startswith(HASH_PREFIX) or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise LabError(f"{text!r} is no hash of an authority: it is sha256: and 64 hexadecimal digits")
    return HASH_PREFIX + digits


def verified_authority(information: Object, token: str, hashes: Sequence[str]) -> bytes:
    """Return the authority that cluster-info names, once token and hashes say that it is the cluster's.

    Raises NotYetError while there is no signature, LabError where something is wrong. No hashes trust the token alone.
    """
    data = information.get("data") or {}
    content, token_id = data.get(KUBECONFIG_KEY), bootstraptokens.parse(token)[0]
    given = data.get(SIGNATURE_PREFIX + token_id)
    if content is None or given is None:
        raise NotYetError(f"cluster-info is not signed with the token {token_id}; has it run out, or was it deleted?")
    if not bootstraptokens.is_signed(content, given, token):
        raise LabError(f"the signature of cluster-info was not made with the token {token_id}: is its secret right?")
    authority = _authority_of(content)
    try:
        found = {public_key_hash(one) for one in x509.load_pem_x509_certificates(authority)}
    except ValueError as error:
        raise LabError(f"the authority in cluster-info cannot be read: {error}") from error
    if hashes and not found & set(hashes):
        raise LabError(f"the cluster's authority has the hash {', '.join(sorted(found))}, not {', '.join(hashes)}")
    return authority


def _authority_of(content: str) -> bytes:
    try:
        document = yaml.safe_load(content)
        # cluster-info names no user: its one context need not name one either.
        name = document["clusters"][0]["name"]
        context = {"contexts": [{"name": name, "context": {"cluster": name}}], "current-context": name}
        found = kubeconfig.parse({**document, **context}, kubeconfig.SERVICE_ACCOUNT_DIRECTORY)
    except (yaml.YAMLError, KubeconfigError, KeyError, IndexError, TypeError) as error:
        raise LabError(f"the kubeconfig in cluster-info cannot be read: {error}") from error
    if found.certificate_authority.data is None:
        raise LabError("the kubeconfig in cluster-info holds no certificate authority")
    return found.certificate_authority.data


async def discover(endpoint: str, token: str, hashes: Sequence[str], timeout_s: float) -> Kubeconfig:
    """Return how to reach the cluster, with the authority that vouches for it and no credentials."""
    server = f"https://{endpoint}"
    deadline, said = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        try:
            doubtful = await _read(Kubeconfig(server, insecure_skip_tls_verify=True))
            authority = verified_authority(doubtful, token, hashes)
            trusted = Kubeconfig(server, certificate_authority=Material(data=authority))
            if (await _read(trusted)).get("data", {}).get(KUBECONFIG_KEY) == doubtful["data"][KUBECONFIG_KEY]:
                return trusted
            said = "cluster-info changed while it was read"
        except (ApiError, NotYetError) as error:
            said = str(error)
        except ssl.SSLError as error:
            raise LabError(f"{server} does not show a certificate of the cluster's authority: {error}") from error
        await asyncio.sleep(RETRY_S)
    raise LabError(f"cannot learn about the cluster at {server} within {timeout_s:.0f} s: {said}")


async def _read(config: Kubeconfig) -> Object:
    client = config.client("raftsman-join")
    try:
        return await client.get(CONFIG_MAPS, CLUSTER_INFO, CLUSTER_INFO_NAMESPACE)
    finally:
        await client.close()
