"""How expressions ask the authorizer: the variable ``authorizer`` and who answers for it while one runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from control.api.cel import authorizer as cel_authorizer
from control.apiserver.authz.attributes import Attributes
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.request import AdmissionRequest, UserInfo

JUDGE_ATTEMPTS = 5


def authorizer_of(request: AdmissionRequest) -> dict[str, Any]:
    """Return the values of ``authorizer`` and of ``authorizer.requestResource``, which is what the request is about."""
    about = {"group": request.resource.group, "resource": request.resource.plural, "subresource": request.subresource}
    return cel_authorizer.authorizer({**about, "namespace": request.namespace, "name": request.name})


@contextmanager
def judging(authorizer: ModeAuthorizer | None, user: UserInfo) -> Iterator[None]:
    """Let expressions ask the authorizer about a user while the context lasts."""
    token = cel_authorizer.JUDGE.set(_judge(authorizer, user) if authorizer is not None else None)
    try:
        yield
    finally:
        cel_authorizer.JUDGE.reset(token)


def _judge(authorizer: ModeAuthorizer, user: UserInfo) -> cel_authorizer.Judge:
    def judge(question: Mapping[str, Any]) -> tuple[bool, str]:
        for attempt in range(JUDGE_ATTEMPTS):
            try:
                verdict = authorizer.judge(_attributes(question, user))
                return verdict.allowed, verdict.reason
            except RuntimeError:
                # Asked from aside, it may meet a change of what it goes through; the next time it will not.
                if attempt == JUDGE_ATTEMPTS - 1:
                    raise ValueError("the authorizer's rules change too often") from None
        raise AssertionError("unreachable")

    return judge


def _attributes(question: Mapping[str, Any], user: UserInfo) -> Attributes:
    if name := question.get("user"):
        _, _, namespace, _ = name.split(":", 3)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        user = UserInfo(name, groups=groups)
    if (path := question.get("path")) is not None:
        return Attributes(user, question["verb"], path=path, is_resource_request=False)
    return Attributes(
        user=user,
        verb=question["verb"],
        group=question.get("group", ""),
        version="*",
        resource=question.get("resource", ""),
        subresource=question.get("subresource", ""),
        namespace=question.get("namespace", ""),
        name=question.get("name", ""),
        field_selector=question.get("fieldSelector", ""),
    )
