"""The TokenRequest subresource of service accounts, and what the world may read about their issuer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from control.api.meta import Object, uid
from control.api.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS, Resource
from control.api.status import ApiError, Cause, bad_request, conflict, forbidden, invalid, service_unavailable
from control.apiserver.authn.jwt_keys import TokenSigner, VerificationKey, jwks
from control.apiserver.authn.service_accounts import Bound, make_claims
from control.apiserver.authz.node import node_name_of
from control.apiserver.request import Handlers, ResourceRequest, UserInfo
from control.client.client import Client

SECONDS_DEFAULT = 60 * 60
SECONDS_MIN = 10 * 60
SECONDS_MAX = 1 << 32
_BINDABLE = {"Pod": PODS, "Secret": SECRETS, "Node": NODES}
JWKS_PATH = "/openid/v1/jwks"
CONFIGURATION_PATH = "/.well-known/openid-configuration"


def expiration_seconds(spec: Mapping[str, Any], account: str) -> int:
    """The lifetime that is asked for; ApiError with upstream's texts when it is out of bounds."""
    wanted = spec.get("expirationSeconds")
    seconds = SECONDS_DEFAULT if wanted is None else int(wanted)
    text = ""
    if seconds < SECONDS_MIN:
        text = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
    elif seconds > SECONDS_MAX:
        text = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
    if text:
        cause = Cause("FieldValueInvalid", text, "spec.expirationSeconds")
        raise invalid("TokenRequest", account, [cause], "authentication.k8s.io")
    return seconds


def check_node_may(user: UserInfo, reference: Mapping[str, Any] | None, bound: Bound) -> None:
    """A node gets tokens only for pods that run on it, as NodeRestriction demands."""
    node = node_name_of(user)
    if node is None:
        return
    if reference is None:
        raise forbidden("serviceaccounts", "", "node requested token not bound to a pod")
    if reference.get("kind") != "Pod" or reference.get("apiVersion") not in ("v1", "", None):
        raise forbidden("serviceaccounts", "", "node requested token not bound to a pod")
    if not reference.get("uid"):
        raise forbidden("serviceaccounts", "", "node requested token with a pod binding without a uid")
    if bound.node_name != node:
        raise forbidden("serviceaccounts", "", "node requested token bound to a pod scheduled on a different node")


class TokenRequests:
    """Serves serviceaccounts/token."""

    def __init__(
        self,
        client: Client,
        signer: TokenSigner | None,
        *,
        issuer: str,
        audiences: Sequence[str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._signer = signer
        self._issuer = issuer
        self._audiences = tuple(audiences)
        self._clock = clock

    def register(self, handlers: Handlers) -> None:
        """Plug into the API server."""
        handlers.add_object(SERVICE_ACCOUNTS, "token", "create", self.create)

    async def create(self, request: ResourceRequest) -> Object:
        """Issue a token."""
        if self._signer is None:
            raise service_unavailable("this API server has no key to sign tokens with")
        namespace, name = request.info.namespace, request.info.name
        account = await self._client.get(SERVICE_ACCOUNTS, name, namespace)
        asked = request.object or {}
        self._check_metadata(asked, namespace, name)
        spec = dict(asked.get("spec") or {})
        seconds = expiration_seconds(spec, name)
        audiences = list(spec.get("audiences") or self._audiences)
        reference = spec.get("boundObjectRef")
        bound = await self._bind(reference, name, namespace) if reference else Bound()
        check_node_may(request.user, reference, bound)
        now = self._clock()
        claims = make_claims(
            account,
            bound,
            issuer=self._issuer,
            audiences=audiences,
            now_s=int(now.timestamp()),
            seconds=seconds,
            token_id=str(uuid.uuid4()),
        )
        expiry = (now + timedelta(seconds=seconds)).replace(microsecond=0)
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": _timestamp(now)},
            "spec": {"audiences": audiences, "expirationSeconds": seconds}
            | ({"boundObjectRef": reference} if reference else {}),
            "status": {"token": self._signer.sign(claims), "expirationTimestamp": _timestamp(expiry)},
        }

    def _check_metadata(self, asked: Object, namespace: str, name: str) -> None:
        metadata = asked.get("metadata") or {}
        if metadata.get("name") not in (None, "", name):
            raise bad_request("the name of the object does not match the name on the URL")
        if metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    async def _bind(self, reference: Mapping[str, Any], account: str, namespace: str) -> Bound:
        kind, name = str(reference.get("kind", "")), str(reference.get("name", ""))
        resource = _BINDABLE.get(kind)
        if resource is None or reference.get("apiVersion", "v1") != "v1":
            raise bad_request(f'cannot bind token for serviceaccount "{account}" to type {kind}')
        found = await self._client.get(resource, name, namespace if resource.namespaced else "")
        wanted_uid = str(reference.get("uid") or "")
        if wanted_uid and wanted_uid != uid(found):
            raise _uid_conflict(resource, name, wanted_uid)
        node_name = ""
        if kind == "Pod":
            if (found.get("spec", {}).get("serviceAccountName") or "") != account:
                raise bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different'
                    " serviceaccount name."
                )
            node_name = str(found["spec"].get("nodeName") or "")
        node_uid = await self._node_uid(node_name) if node_name else ""
        return Bound(kind, name, uid(found), node_name, node_uid)

    async def _node_uid(self, node_name: str) -> str:
        """The node's uid where it is known; a token for a pod does not depend on it."""
        try:
            return uid(await self._client.get(NODES, node_name))
        except ApiError:
            return ""


def issuer_documents(
    issuer: str, keys: Sequence[VerificationKey], advertised: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path → (media type, document) of OpenID discovery."""
    jwks_uri = f"https://{advertised}{JWKS_PATH}" if advertised else f"{issuer.rstrip('/')}{JWKS_PATH}"
    configuration = {
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted({key.algorithm for key in keys}),
    }
    return {
        CONFIGURATION_PATH: ("application/json", configuration),
        JWKS_PATH: ("application/jwk-set+json", jwks(keys)),
    }


def _uid_conflict(resource: Resource, name: str, wanted_uid: str) -> ApiError:
    text = (
        f"the UID in the bound object reference ({wanted_uid}) does not match the UID in record."
        " The object might have been deleted and then recreated"
    )
    return conflict(resource.plural, name, resource.group, text)


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
