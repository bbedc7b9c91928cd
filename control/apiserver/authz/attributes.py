"""What an authorization decision is made about, and how upstream words a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from control.api.status import ApiError, failure, forbidden
from control.apiserver.request import UserInfo

SUPERUSER_GROUP = "system:masters"
_HTML_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
READ_ONLY_VERBS = frozenset({"get", "list", "watch"})


class Opinion(Enum):
    """The three answers of one authorizer; NO_OPINION lets the next one speak."""

    ALLOW = "allow"
    DENY = "deny"
    NO_OPINION = "no opinion"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and the reason that a person may read."""

    opinion: Opinion
    reason: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.opinion is Opinion.ALLOW


NO_OPINION = Verdict(Opinion.NO_OPINION)


@dataclass(frozen=True, slots=True)
class Attributes:
    """One question: whether a user may do a verb to a resource, or to a path."""

    user: UserInfo
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    is_resource_request: bool = True
    field_selector: str = ""
    """The raw field selector of a list or watch; the node authorizer reads spec.nodeName from it."""

    @property
    def combined_resource(self) -> str:
        """The resource with its subresource, as RBAC rules write it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def forbidden_message(attributes: Attributes, reason: str = "") -> str:
    """Upstream's text for a refusal, without the resource prefix that the Status message begins with."""
    user = _quoted(attributes.user.name)
    if not attributes.is_resource_request:
        text = f"User {user} cannot {attributes.verb} path {_quoted(attributes.path)}"
    else:
        text = (
            f"User {user} cannot {attributes.verb} resource {_quoted(attributes.combined_resource)}"
            f" in API group {_quoted(attributes.group)}"
        )
        if attributes.namespace:
            text += f" in the namespace {_quoted(attributes.namespace)}"
        else:
            text += " at the cluster scope"
    text = text.translate(_HTML_ENTITIES)
    return f"{text}: {reason}" if reason else text


def forbidden_error(attributes: Attributes, reason: str = "") -> ApiError:
    """The 403 of a refusal: `pods "web" is forbidden: User ... cannot ...`."""
    detail = forbidden_message(attributes, reason)
    if not attributes.is_resource_request:
        return failure(403, "Forbidden", f"forbidden: {detail}", {})
    return forbidden(attributes.resource, attributes.name, detail, attributes.group)


def _quoted(text: str) -> str:
    """Quote as Go's %q does for the characters that names hold."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
