"""Kubernetes' Status object and the one error type that carries it on both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One field's fault inside an Invalid status."""

    reason: str
    """FieldValueRequired, FieldValueInvalid, FieldValueNotSupported, …"""
    message: str
    field: str


class ApiError(Exception):
    """An answer other than success, as the Status object that says so."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        super().__init__(status.get("message", ""))

    @property
    def code(self) -> int:
        """The HTTP status code."""
        return int(self.status.get("code") or 500)

    @property
    def reason(self) -> str:
        """The machine-readable reason, as NotFound, Conflict or Invalid."""
        return str(self.status.get("reason") or "")

    @property
    def message(self) -> str:
        """The text for a person."""
        return str(self.status.get("message") or "")


def failure(code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> ApiError:
    """Return the error of a Failure status."""
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if details:
        status["details"] = details
    status["code"] = code
    return ApiError(status)


def qualified(resource: str, group: str = "") -> str:
    """Return "resource.group", or the resource alone for the core group."""
    return f"{resource}.{group}" if group else resource


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "group": group, "kind": kind}
    return {field: value for field, value in details.items() if value}


def not_found(resource: str, name: str, group: str = "") -> ApiError:
    """404: the named object does not exist."""
    return failure(404, "NotFound", f'{qualified(resource, group)} "{name}" not found', _details(name, group, resource))


def already_exists(resource: str, name: str, group: str = "") -> ApiError:
    """409: an object of this name exists."""
    text = f'{qualified(resource, group)} "{name}" already exists'
    return failure(409, "AlreadyExists", text, _details(name, group, resource))


CONFLICT_TEXT = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: str, name: str, group: str = "", text: str = CONFLICT_TEXT) -> ApiError:
    """409: the object was changed since it was read, or the wish contradicts its state."""
    message = f'Operation cannot be fulfilled on {qualified(resource, group)} "{name}": {text}'
    return failure(409, "Conflict", message, _details(name, group, resource))


def invalid(kind: str, name: str, causes: Sequence[Cause], group: str = "") -> ApiError:
    """422: the object breaks rules; ``causes`` name the fields."""
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    told = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(name, group, kind)
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return failure(422, "Invalid", f'{qualified(kind, group)} "{name}" is invalid: {told}', details)


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return failure(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: the caller is not known."""
    return failure(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, text: str, group: str = "") -> ApiError:
    """403: the caller may not do this; ``text`` says why."""
    about = f'{qualified(resource, group)} "{name}"' if name else qualified(resource, group)
    return failure(403, "Forbidden", f"{about} is forbidden: {text}", _details(name, group, resource))


def method_not_supported(resource: str, action: str, group: str = "") -> ApiError:
    """405: the resource has no such verb."""
    text = f'{action} is not supported on resources of kind "{qualified(resource, group)}"'
    return failure(405, "MethodNotAllowed", text, _details("", group, resource))


def expired(message: str) -> ApiError:
    """410: the resource version is too old; list again."""
    return failure(410, "Expired", message)


def unsupported_media_type(message: str) -> ApiError:
    """415: the body's content type is not served."""
    return failure(415, "UnsupportedMediaType", message)


def too_many_requests(message: str, retry_after_s: int = 1) -> ApiError:
    """429: try again later."""
    return failure(429, "TooManyRequests", message, {"retryAfterSeconds": retry_after_s})


def internal_error(message: str) -> ApiError:
    """500: something here is broken."""
    text = f"Internal error occurred: {message}"
    return failure(500, "InternalError", text, {"causes": [{"message": message}]})


def service_unavailable(message: str) -> ApiError:
    """503: a part that is needed does not answer now."""
    return failure(503, "ServiceUnavailable", message)


def server_timeout(resource: str, action: str, retry_after_s: int = 1) -> ApiError:
    """504/500: the server could not finish in time and the outcome is open."""
    text = f"The {action} operation against {resource} could not be completed at this time, please try again."
    return failure(500, "ServerTimeout", text, {"kind": resource, "retryAfterSeconds": retry_after_s})
