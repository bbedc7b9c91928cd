"""Deployments: surge and availability, proportional scaling, hashes and revisions, as tables."""

from typing import Any

import pytest

from control.api.meta import Object
from control.controllers.deployment import numbers, revisions


def deployment(replicas: int = 10, surge: Any = "25%", unavailable: Any = "25%", **more: Any) -> Object:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            **more,
        },
    }


def replica_set(name: str, replicas: int, available: int | None = None, *, age: int = 0, most: int = 0) -> Object:
    annotations = {numbers.MAX_REPLICAS: str(most)} if most else {}
    return {
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "annotations": annotations,
            "creationTimestamp": f"2026-01-01T00:00:{59 - age:02d}Z",
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "availableReplicas": replicas if available is None else available},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (10, "0%", "5%", (0, 1)),
        (4, 2, 1, (2, 1)),
        (3, "100%", "100%", (3, 3)),
    ],
)
def test_fenceposts(replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]) -> None:
    assert numbers.fenceposts(deployment(replicas, surge, unavailable)) == expected


@pytest.mark.parametrize(
    ("replicas", "surge", "sizes", "current", "expected"),
    [
        (10, 0, [10, 0], 0, 0),
        (10, 2, [10, 0], 0, 2),
        (10, 2, [5, 0], 0, 7),
        (10, 2, [10, 2], 2, 2),
        (10, 2, [2, 5], 5, 10),
        (3, "25%", [3], 0, 1),
    ],
    ids=["no surge", "as much as surges", "room of the old", "full", "never above the wish", "a percentage"],
)
def test_size_of_the_new_set(replicas: int, surge: Any, sizes: list[int], current: int, expected: int) -> None:
    assert numbers.new_set_size(deployment(replicas, surge), sizes, current) == expected


@pytest.mark.parametrize(
    ("unavailable", "old", "new", "expected"),
    [
        (0, [(10, 10)], (0, 0), {}),
        (2, [(10, 10)], (0, 0), {"old0": 8}),
        (2, [(10, 8)], (0, 0), {"old0": 8}),
        (2, [(8, 8)], (2, 0), {}),
        (2, [(8, 8)], (2, 2), {"old0": 6}),
        (2, [(10, 0)], (0, 0), {"old0": 8}),
        (0, [(8, 10)], (3, 3), {"old0": 7}),
        (10, [(3, 3), (4, 4)], (3, 3), {"old0": 0, "old1": 0}),
    ],
    ids=[
        "nothing to spare",
        "down to the minimum",
        "unhealthy ones first",
        "new ones do not run yet",
        "new ones run",
        "broken ones go as far as the numbers allow",
        "a status that runs behind",
        "everything",
    ],
)
def test_shrinking_the_old(
    unavailable: int, old: list[tuple[int, int]], new: tuple[int, int], expected: dict[str, int]
) -> None:
    sets = [replica_set(f"old{i}", size, available, age=9 - i) for i, (size, available) in enumerate(old)]
    found = numbers.scale_down_old(deployment(10, 3, unavailable), replica_set("new", *new), sets)
    assert found == expected


@pytest.mark.parametrize(
    ("replicas", "sizes", "most", "expected"),
    [
        (20, [10], 12, [22]),
        (12, [5, 5], 12, [8, 6]),
        (5, [5, 5], 12, [4, 3]),
        (0, [5, 5], 12, [0, 0]),
        (15, [8, 3, 1], 12, [12, 4, 1]),
    ],
    ids=[
        "all to the only one",
        "grow, the rest of the rounding to the first",
        "shrink alike",
        "to nothing",
        "in proportion",
    ],
)
def test_proportional_scaling(replicas: int, sizes: list[int], most: int, expected: list[int]) -> None:
    sets = [replica_set(f"rs{i}", size, age=i, most=most) for i, size in enumerate(sizes)]
    found = numbers.proportional(deployment(replicas, 2, 0), sets)
    assert sum(found.values()) == (replicas + 2 if replicas else 0)
    assert sorted(found.values(), reverse=True) == expected


def test_the_hash_is_stable_and_blind_to_what_means_nothing() -> None:
    template = deployment()["spec"]["template"]
    digest = revisions.template_hash(template, None)
    assert digest == revisions.template_hash(
        {"spec": template["spec"], "metadata": {"labels": {"app": "web"}, "creationTimestamp": None}}, None
    )
    assert set(digest) <= set(revisions.SAFE_ALPHABET)
    assert digest != revisions.template_hash(template, 1)
    changed = {**template, "spec": {"containers": [{"name": "c", "image": "b"}]}}
    assert digest != revisions.template_hash(changed, None)


def test_the_hash_of_a_known_template_never_changes() -> None:
    # A different hash would make a new ReplicaSet of every Deployment when the controller is upgraded.
    assert revisions.template_hash({"metadata": {"labels": {"a": "b"}}, "spec": {}}, None) == "6fbc755689"


def test_fnv32a() -> None:
    assert revisions.fnv32a(b"") == 0x811C9DC5
    assert revisions.fnv32a(b"foobar") == 0xBF9CF968


def test_revisions_rise_and_remember() -> None:
    wish = deployment()
    wish["metadata"]["annotations"] = {"team": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    made = revisions.make_new(wish, 1, 3)
    assert made["metadata"]["annotations"] == {
        "team": "x", "deployment.kubernetes.io/revision": "1",
        "deployment.kubernetes.io/desired-replicas": "10", "deployment.kubernetes.io/max-replicas": "13",
    }  # fmt: skip
    later = revisions.new_annotations(wish, made, 4)
    assert later["deployment.kubernetes.io/revision"] == "4"
    assert later["deployment.kubernetes.io/revision-history"] == "1"
    assert revisions.new_annotations(wish, made, 1)["deployment.kubernetes.io/revision"] == "1"
    digest = made["metadata"]["labels"]["pod-template-hash"]
    assert made["metadata"]["name"] == f"web-{digest}"
    assert made["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert revisions.find_new(wish, [made]) is made


def test_history_beyond_the_limit_is_forgotten_oldest_first() -> None:
    old = []
    for number in range(1, 6):
        found = replica_set(f"rs{number}", 0 if number != 2 else 1)
        found["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": str(number)}
        old.append(found)
    names = [found["metadata"]["name"] for found in revisions.to_forget(deployment(revisionHistoryLimit=2), old)]
    assert names == ["rs1", "rs3"]
