"""Lists: which revision they are of, and how the next page is found."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import orjson

from control.api import status
from control.api.validation.faults import Faults

NEWEST = -1
"""The revision of a token that goes on with what is there now, whatever the pages before were of."""
REVISION_MAX = (1 << 63) - 1
EXPIRED_TEXT = "The resourceVersion for the provided list is too old."
INCONSISTENT_TEXT = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without"
    " the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
    " Continuing with the provided token results in an inconsistent list - objects that were created, modified, or"
    " deleted between the time the first chunk was returned and now may show up in the list."
)
_MATCHES = ("Exact", "NotOlderThan", "")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The query of a list."""

    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    send_initial_events: bool | None = None
    """Means something to watches alone; lists refuse it."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Where a list goes on: behind this key, as of this revision."""

    revision: int
    after: str


def encode(token: Continue) -> str:
    """Return the token's text; clients must not look into it."""
    made = {"v": "meta.k8s.io/v1", "rv": token.revision, "start": token.after}
    return base64.urlsafe_b64encode(orjson.dumps(made)).rstrip(b"=").decode()


def decode(text: str) -> Continue:
    """Read a token; raises BadRequest."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        version, revision, after = found["v"], found["rv"], found["start"]
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise _invalid("continue key is not valid") from None
    if version != "meta.k8s.io/v1":
        raise _invalid("continue key is not valid: server does not recognize this encoded version")
    if type(revision) is not int or not NEWEST <= revision <= REVISION_MAX or revision == 0:
        raise _invalid("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    if not isinstance(after, str) or not after:
        raise _invalid("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
    return Continue(revision, after)


def _invalid(fault: str) -> status.ApiError:
    return status.bad_request(f"invalid continue token: {fault}")


def too_old(after: str = "") -> status.ApiError:
    """410: the revision of a list is no longer kept; a list of pages may go on behind ``after``, as of now."""
    error = status.expired(INCONSISTENT_TEXT if after else EXPIRED_TEXT)
    if after:
        error.status["metadata"] = {"continue": encode(Continue(NEWEST, after))}
    return error


def check(query: ListQuery) -> None:
    """Refuse combinations that mean nothing, as Kubernetes does."""
    faults = Faults()
    match, revision = query.resource_version_match, query.resource_version
    path = "resourceVersionMatch"
    if match:
        if not revision:
            faults.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
        if query.continue_token:
            faults.forbidden(path, "resourceVersionMatch is forbidden when continue is provided")
        if match not in _MATCHES:
            faults.not_supported(path, match, _MATCHES)
        if match == "Exact" and revision == "0":
            faults.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if query.send_initial_events is not None:
        faults.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if faults:
        raise status.invalid("ListOptions", "", faults.causes, "meta.k8s.io")
    if query.continue_token and revision not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")
