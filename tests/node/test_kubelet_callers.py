"""Who may ask a kubelet: callers by token are known to the API server, and so are their rights."""

from __future__ import annotations

from typing import Any, cast

import pytest

from control.api.resources import Resource
from control.client.client import Client
from node.server.auth import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, Authorizer
from node.server.connection import Request, RequestError

PROMETHEUS = "system:serviceaccount:monitoring:prometheus"
RIGHTS = {(PROMETHEUS, "metrics"), (PROMETHEUS, "proxy"), ("reader", "pods")}
TOKENS = {"good": PROMETHEUS, "narrow": "reader"}


class Reviews:
    """An API server that answers reviews, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def create(self, resource: Resource, review: dict[str, Any]) -> dict[str, Any]:
        spec = review["spec"]
        if resource is TOKEN_REVIEWS:
            self.asked.append(("token", spec["token"]))
            user = TOKENS.get(spec["token"])
            known = {"authenticated": True, "user": {"username": user, "groups": ["system:authenticated"]}}
            return {"status": known if user else {"authenticated": False, "error": "unknown"}}
        assert resource is SUBJECT_ACCESS_REVIEWS
        wanted = spec["resourceAttributes"]
        assert (wanted["resource"], wanted["name"], spec["groups"]) == ("nodes", "n1", ["system:authenticated"])
        self.asked.append((spec["user"], wanted["subresource"]))
        return {"status": {"allowed": (spec["user"], wanted["subresource"]) in RIGHTS}}


def ask(path: str, authorization: str) -> Request:
    return Request("GET", path, {}, {"authorization": authorization} if authorization else {}, path)


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        pytest.param("/metrics", "Bearer good", 200, id="metrics"),
        pytest.param("/metrics/cadvisor", "bearer good", 200, id="below-metrics"),
        pytest.param("/pods", "Bearer narrow", 200, id="pods-by-its-own-right"),
        pytest.param("/pods", "Bearer good", 200, id="pods-by-the-right-to-proxy"),
        pytest.param("/exec/default/p/c", "Bearer narrow", 403, id="exec-needs-proxy"),
        pytest.param("/stats/summary", "Bearer good", 403, id="stats-by-no-right"),
        pytest.param("/metrics", "Bearer bad", 401, id="unknown-token"),
        pytest.param("/metrics", "Basic good", 401, id="other-scheme"),
        pytest.param("/metrics", "Bearer ", 401, id="empty-token"),
        pytest.param("/metrics", "Bearer " + "x" * 20_000, 401, id="huge-token"),
        pytest.param("/metrics", "", 401, id="nobody"),
        pytest.param("/healthz", "", 200, id="open-to-all"),
    ],
)
async def test_a_token_names_its_caller(path: str, authorization: str, status: int) -> None:
    found = 200
    try:
        await Authorizer(cast(Client, Reviews()), "n1", "Webhook").check(ask(path, authorization))
    except RequestError as error:
        found = error.status
    assert found == status


async def test_answers_are_remembered_and_refusals_of_tokens_are_not() -> None:
    api = Reviews()
    guard = Authorizer(cast(Client, api), "n1", "Webhook")
    for _ in range(3):
        await guard.check(ask("/metrics", "Bearer good"))
    assert api.asked == [("token", "good"), (PROMETHEUS, "metrics")]
    for _ in range(2):  # a ServiceAccount's token may be known in a moment
        with pytest.raises(RequestError, match="Unauthorized"):
            await guard.check(ask("/metrics", "Bearer new"))
    assert api.asked[2:] == [("token", "new"), ("token", "new")]


async def test_a_refusal_names_what_was_missing() -> None:
    guard = Authorizer(cast(Client, Reviews()), "n1", "Webhook")
    with pytest.raises(RequestError) as refusal:
        await guard.check(ask("/configz", "Bearer narrow"))
    assert refusal.value.status == 403
    assert str(refusal.value) == "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[configz proxy])"


async def test_tokens_are_nothing_where_they_are_not_asked_about() -> None:
    api = Reviews()
    with pytest.raises(RequestError, match="Unauthorized"):
        await Authorizer(cast(Client, api), "n1", "Webhook", token_webhook=False).check(ask("/metrics", "Bearer good"))
    assert api.asked == []
