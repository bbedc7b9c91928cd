"""The access reviews: SubjectAccessReview and its kin, answered by the authorizer that judges real requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import Cause, bad_request, invalid
from control.apiserver.authz.attributes import Attributes, Opinion, Verdict
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.authz.rules import Rule, compact
from control.apiserver.request import Handlers, ResourceRequest, UserInfo

GROUP = "authorization.k8s.io"
SUBJECT_ACCESS_REVIEWS = Resource(GROUP, "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
SELF_SUBJECT_ACCESS_REVIEWS = Resource(
    GROUP, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
SELF_SUBJECT_RULES_REVIEWS = Resource(
    GROUP, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", namespaced=False
)
LOCAL_SUBJECT_ACCESS_REVIEWS = Resource(GROUP, "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview")


def question_of(user: UserInfo, spec: Mapping[str, Any]) -> Attributes:
    """The question that a review's spec asks about a user."""
    paths = spec.get("nonResourceAttributes")
    if paths is not None:
        return Attributes(user, paths.get("verb", ""), path=paths.get("path", ""), is_resource_request=False)
    about = spec.get("resourceAttributes") or {}
    selector = about.get("fieldSelector") or {}
    return Attributes(
        user=user,
        verb=about.get("verb", ""),
        group=about.get("group", ""),
        version=about.get("version", ""),
        resource=about.get("resource", ""),
        subresource=about.get("subresource", ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        field_selector=selector.get("rawSelector") or _selector_text(selector.get("requirements") or ()),
    )


def subject_of(spec: Mapping[str, Any]) -> UserInfo:
    """The user whom a SubjectAccessReview asks about."""
    extra = {key: tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
    return UserInfo(
        name=spec.get("user", ""), uid=spec.get("uid", ""), groups=tuple(spec.get("groups") or ()), extra=extra
    )


def spec_faults(spec: Mapping[str, Any], *, needs_subject: bool) -> list[Cause]:
    """Upstream's validation of a review's spec."""
    faults = []
    resource, path = spec.get("resourceAttributes") is not None, spec.get("nonResourceAttributes") is not None
    if resource and path:
        text = "Invalid value: null: cannot be specified in combination with resourceAttributes"
        faults.append(Cause("FieldValueInvalid", text, "spec.nonResourceAttributes"))
    if not resource and not path:
        text = "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        faults.append(Cause("FieldValueInvalid", text, "spec.resourceAttributes"))
    if needs_subject and not spec.get("user") and not spec.get("groups"):
        text = 'Invalid value: "": at least one of user or group must be specified'
        faults.append(Cause("FieldValueInvalid", text, "spec.user"))
    return faults


def access_status(verdict: Verdict) -> dict[str, Any]:
    """The status of an access review."""
    status: dict[str, Any] = {"allowed": verdict.allowed}
    if verdict.opinion is Opinion.DENY:
        status["denied"] = True
    if verdict.reason:
        status["reason"] = verdict.reason
    return status


def rules_status(rules: Iterable[Rule]) -> dict[str, Any]:
    """The status of a SelfSubjectRulesReview."""
    resource_rules, path_rules = [], []
    for rule in compact(rules):
        if rule.non_resource_urls:
            path_rules.append({"verbs": list(rule.verbs), "nonResourceURLs": list(rule.non_resource_urls)})
        else:
            resource_rules.append(rule.to_object())
    return {"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": False}


class AccessReviews:
    """Serves the four kinds of authorization.k8s.io/v1."""

    def __init__(self, authorizer: ModeAuthorizer) -> None:
        self._authorizer = authorizer

    def register(self, handlers: Handlers) -> None:
        """Plug into the API server."""
        handlers.add_object(SUBJECT_ACCESS_REVIEWS, "", "create", self.subject_access)
        handlers.add_object(LOCAL_SUBJECT_ACCESS_REVIEWS, "", "create", self.local_subject_access)
        handlers.add_object(SELF_SUBJECT_ACCESS_REVIEWS, "", "create", self.self_subject_access)
        handlers.add_object(SELF_SUBJECT_RULES_REVIEWS, "", "create", self.self_subject_rules)

    async def subject_access(self, request: ResourceRequest) -> Object:
        """Answer for anybody."""
        review = _body(request)
        spec = review.get("spec") or {}
        _refuse_faults(request.resource, spec, needs_subject=True)
        return self._answered(review, question_of(subject_of(spec), spec))

    async def local_subject_access(self, request: ResourceRequest) -> Object:
        """Answer for anybody within one namespace."""
        review = _body(request)
        spec = review.get("spec") or {}
        _refuse_faults(request.resource, spec, needs_subject=True)
        namespace = (spec.get("resourceAttributes") or {}).get("namespace", "")
        if namespace != request.info.namespace:
            raise bad_request(f"spec.resourceAttributes.namespace must match namespace: {request.info.namespace}")
        return self._answered(review, question_of(subject_of(spec), spec))

    async def self_subject_access(self, request: ResourceRequest) -> Object:
        """Answer for the one who asks."""
        review = _body(request)
        spec = review.get("spec") or {}
        _refuse_faults(request.resource, spec, needs_subject=False)
        return self._answered(review, question_of(request.user, spec))

    async def self_subject_rules(self, request: ResourceRequest) -> Object:
        """List what the one who asks may do in a namespace."""
        review = _body(request)
        namespace = (review.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise bad_request("no namespace on request")
        return {**review, "status": rules_status(self._authorizer.rules_for(request.user, namespace))}

    def _answered(self, review: Object, question: Attributes) -> Object:
        return {**review, "status": access_status(self._authorizer.judge(question))}


def _body(request: ResourceRequest) -> Object:
    if request.object is None:
        raise bad_request("the request has no body")
    return {**request.object, "metadata": request.object.get("metadata") or {}}


def _refuse_faults(resource: Resource, spec: Mapping[str, Any], *, needs_subject: bool) -> None:
    if faults := spec_faults(spec, needs_subject=needs_subject):
        raise invalid(resource.kind, "", faults, resource.group)


def _selector_text(requirements: Iterable[Mapping[str, Any]]) -> str:
    """Field selector requirements as text; those that are not plain equality cannot narrow anything here."""
    return ",".join(
        f"{item['key']}={item['values'][0]}"
        for item in requirements
        if item.get("operator") == "In" and len(item.get("values") or ()) == 1
    )
