"""The conversation with a webhook: an AdmissionReview out, its response in; pure."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from control.api.meta import Object
from control.apiserver.request import AdmissionRequest

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"


class ReviewError(ValueError):
    """A webhook's answer is none; the text says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a webhook answered."""

    allowed: bool
    status: Object
    patch: list[Any] | None
    warnings: tuple[str, ...]
    annotations: Mapping[str, str]
    """What the webhook adds to the audit events of the request."""


def request_of(request: AdmissionRequest, uid: str = "") -> Object:
    """Return the ``request`` of a review, which match conditions see too."""
    resource, user = request.resource, request.user
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    about = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    made: Object = {
        "uid": uid or str(uuid.uuid4()),
        "kind": kind,
        "resource": about,
        "requestKind": kind,
        "requestResource": about,
        "name": request.name,
        "namespace": request.namespace,
        "operation": request.operation,
        "userInfo": {
            "username": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {name: list(values) for name, values in user.extra.items()},
        },
        "object": request.object,
        "oldObject": request.old_object,
        "dryRun": request.dry_run,
        "options": request.options or {"kind": _OPTIONS[request.operation], "apiVersion": "meta.k8s.io/v1"},
    }
    if request.subresource:
        made["subResource"] = made["requestSubResource"] = request.subresource
    return made


_OPTIONS = {
    "CREATE": "CreateOptions",
    "UPDATE": "UpdateOptions",
    "DELETE": "DeleteOptions",
    "CONNECT": "CreateOptions",
}


def encode(request: Object) -> bytes:
    """Return the body of a question."""
    return orjson.dumps({"kind": KIND, "apiVersion": API_VERSION, "request": request})


def decode(body: bytes, uid: str, *, may_patch: bool) -> Verdict:
    """Return what a webhook answered; raises ReviewError."""
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ReviewError(f"the response is not JSON: {error}") from None
    if not isinstance(review, dict) or (review.get("apiVersion"), review.get("kind")) != (API_VERSION, KIND):
        raise ReviewError(f"expected webhook response of {API_VERSION}, Kind={KIND}")
    response = review.get("response")
    if not isinstance(response, dict):
        raise ReviewError("webhook response was absent")
    if response.get("uid") != uid:
        raise ReviewError(f'expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    status = response.get("status") if isinstance(response.get("status"), dict) else {}
    warnings = tuple(text for text in response.get("warnings") or () if isinstance(text, str))
    told = response.get("auditAnnotations")
    annotations = {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}
    patch = _patch(response) if may_patch else None
    return Verdict(response.get("allowed") is True, status or {}, patch, warnings, annotations)


def _patch(response: Object) -> list[Any] | None:
    patch, kind = response.get("patch"), response.get("patchType")
    if not patch and not kind:
        return None
    if not patch or kind != "JSONPatch":
        raise ReviewError('webhook returned response.patch but not response.patchType of "JSONPatch"')
    try:
        operations = orjson.loads(base64.b64decode(patch, validate=True))
    except (binascii.Error, ValueError, TypeError) as error:
        raise ReviewError(f"response.patch is no JSON patch in base64: {error}") from None
    if not isinstance(operations, list):
        raise ReviewError("response.patch is no list of operations")
    return operations


def refusal(name: str, verdict: Verdict) -> tuple[int, str, str]:
    """Return code, reason and text of a refusal."""
    told = verdict.status.get("message") or verdict.status.get("reason") or ""
    text = f'admission webhook "{name}" denied the request'
    text = f"{text}: {told}" if told else f"{text} without explanation"
    code = verdict.status.get("code")
    code = code if isinstance(code, int) and 400 <= code < 600 else 403
    return code, str(verdict.status.get("reason") or "Forbidden"), text
