"""Lists: which revision they are of, and how the next page is found."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import orjson

from control.api import status

INCONSISTENT_TEXT = "The provided continue parameter is too old to display a consistent list result."


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The query of a list."""

    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""


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
        return Continue(int(found["rv"]), str(found["start"]))
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise status.bad_request("continue key is not valid: incorrect encoding") from None


def check(query: ListQuery) -> None:
    """Refuse combinations that mean nothing, as Kubernetes does."""
    match, revision = query.resource_version_match, query.resource_version
    if match and match not in ("Exact", "NotOlderThan"):
        raise _invalid(
            "resourceVersionMatch", f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        )
    if match and query.continue_token:
        raise _invalid("resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden when continue is provided")
    if match and not revision:
        raise _invalid(
            "resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    if match == "Exact" and revision == "0":
        raise _invalid(
            "resourceVersionMatch", 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        )
    if query.continue_token and revision not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")


def _invalid(field: str, message: str) -> status.ApiError:
    return status.invalid("ListOptions", "", [status.Cause("FieldValueForbidden", message, field)], "meta.k8s.io")
