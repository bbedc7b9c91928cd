"""Which ReplicaSet is a Deployment's current one, what it is called, and how revisions are numbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from control.api import meta
from control.api.meta import Object
from control.api.resources import REPLICA_SETS
from control.controllers.deployment.numbers import (
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    actual,
    by_age,
    max_surge,
    replicas,
)

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)
SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters and digits that form no words and are not taken for one another."""


def fnv32a(data: bytes) -> int:
    """Return the FNV-1a hash of 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def template_hash(template: Mapping[str, Any], collision_count: int | None) -> str:
    """Return a short name for a pod template; the same template always gets the same one."""
    data = orjson.dumps(normalized(template), option=orjson.OPT_SORT_KEYS)
    if collision_count:
        data += collision_count.to_bytes(8, "little")
    return "".join(SAFE_ALPHABET[ord(digit) % len(SAFE_ALPHABET)] for digit in str(fnv32a(data)))


def normalized(template: Mapping[str, Any]) -> Any:
    """Return a template without its hash label and without what is absent in all but name."""
    head = template.get("metadata") or {}
    labels = {key: value for key, value in (head.get("labels") or {}).items() if key != HASH_LABEL}
    return _without_empty({**template, "metadata": {**head, "labels": labels}})


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without_empty(entry) for key, entry in value.items()}
        # An empty map may mean something (emptyDir: {}); null and an empty list never do.
        return {key: entry for key, entry in kept.items() if entry is not None and entry != []}
    if isinstance(value, list):
        return [_without_empty(entry) for entry in value]
    return value


def template_of(obj: Object) -> Mapping[str, Any]:
    """Return spec.template."""
    return (obj.get("spec") or {}).get("template") or {}


def same_template(left: Object, right: Object) -> bool:
    """Tell whether two workloads make the same pods, the hash label apart."""
    return bool(normalized(template_of(left)) == normalized(template_of(right)))


def find_new(deployment: Object, replica_sets: Sequence[Object]) -> Object | None:
    """Return the oldest ReplicaSet that has the Deployment's template."""
    return next((found for found in by_age(replica_sets) if same_template(deployment, found)), None)


def revision(obj: Object) -> int:
    """Return the revision in the annotations, 0 where there is none."""
    try:
        return int(meta.annotations(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def size_annotations(deployment: Object) -> dict[str, str]:
    """Return the annotations that remember the wish under which a ReplicaSet was sized."""
    wished = replicas(deployment)
    return {DESIRED_REPLICAS: str(wished), MAX_REPLICAS: str(wished + max_surge(deployment))}


def new_annotations(deployment: Object, replica_set: Object | None, number: int) -> dict[str, str]:
    """Return the annotations of the current ReplicaSet, whose revision is raised to `number` if it is lower."""
    result = dict(meta.annotations(replica_set)) if replica_set is not None else {}
    for name, value in meta.annotations(deployment).items():
        if name not in NOT_COPIED:
            result[name] = value
    old = result.get(REVISION)
    if old is None or not old.isdigit() or int(old) < number:
        result[REVISION] = str(number)
        if old is not None and old.isdigit():
            history = [entry for entry in result.get(REVISION_HISTORY, "").split(",") if entry]
            result[REVISION_HISTORY] = ",".join([*history, old][-100:])
    if replica_set is None:
        result |= size_annotations(deployment)
    return result


def make_new(deployment: Object, number: int, size: int) -> Object:
    """Return the ReplicaSet of the Deployment's current template."""
    spec = deployment.get("spec") or {}
    template = template_of(deployment)
    digest = template_hash(template, (deployment.get("status") or {}).get("collisionCount"))
    head = template.get("metadata") or {}
    labels = {**(head.get("labels") or {}), HASH_LABEL: digest}
    selector = spec.get("selector") or {}
    new_spec: dict[str, Any] = {
        "replicas": size,
        "selector": {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}},
        "template": {**template, "metadata": {**head, "labels": labels}},
    }
    if spec.get("minReadySeconds"):
        new_spec["minReadySeconds"] = spec["minReadySeconds"]
    return {
        "apiVersion": REPLICA_SETS.api_version,
        "kind": REPLICA_SETS.kind,
        "metadata": {
            "name": f"{meta.name(deployment)}-{digest}",
            "namespace": meta.namespace(deployment),
            "labels": labels,
            "annotations": new_annotations(deployment, None, number),
            "ownerReferences": [meta.controller_reference(deployment)],
        },
        "spec": new_spec,
    }


def to_forget(deployment: Object, old: Sequence[Object]) -> list[Object]:
    """Return the old ReplicaSets beyond the history limit that are empty and may be deleted."""
    limit = (deployment.get("spec") or {}).get("revisionHistoryLimit", 10)
    if limit is None:
        return []
    alive = sorted((found for found in old if not meta.is_being_deleted(found)), key=revision)
    surplus = alive[: max(0, len(alive) - int(limit))]
    return [found for found in surplus if replicas(found) == 0 and actual(found) == 0 and _is_observed(found)]


def _is_observed(replica_set: Object) -> bool:
    return actual(replica_set, "observedGeneration") >= int(replica_set["metadata"].get("generation") or 0)
