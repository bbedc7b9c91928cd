"""Which dependents belong to an owner: adopt orphans that match, release what no longer does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from control.api import meta, selectors
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import STRATEGIC_MERGE_PATCH, Client


@dataclass(frozen=True)
class Claims:
    """What is to become of the candidates."""

    owned: tuple[Object, ...]
    adopt: tuple[Object, ...]
    release: tuple[Object, ...]


def decide(owner: Object, candidates: Iterable[Object], only: Callable[[Object], bool]) -> Claims:
    """Sort candidates by controller reference and selector; orphans are adopted only if `only` holds for them."""
    selector_object = (owner.get("spec") or {}).get("selector")
    selector = selectors.from_label_selector(selector_object)
    owned, adopt, release = [], [], []
    for obj in candidates:
        controller = meta.controller_of(obj)
        matches = bool(selector_object) and selector.matches(meta.labels(obj))
        if controller is not None:
            if controller["uid"] != meta.uid(owner):
                continue
            if matches:
                owned.append(obj)
            elif not meta.is_being_deleted(owner):
                release.append(obj)
        elif matches and only(obj) and not meta.is_being_deleted(obj) and not meta.is_being_deleted(owner):
            adopt.append(obj)
    return Claims(tuple(owned), tuple(adopt), tuple(release))


async def claim(
    client: Client,
    owner_resource: Resource,
    owner: Object,
    resource: Resource,
    candidates: Iterable[Object],
    only: Callable[[Object], bool] = lambda _: True,
) -> list[Object]:
    """Return what belongs to the owner after adopting and releasing."""
    claims = decide(owner, candidates, only)
    owned = list(claims.owned)
    if claims.adopt:
        # The cache may show an owner that is gone or was made anew: adopting for it would be an error for good.
        fresh = await client.get(owner_resource, meta.name(owner), meta.namespace(owner))
        if meta.uid(fresh) != meta.uid(owner) or meta.is_being_deleted(fresh):
            claims = Claims(claims.owned, (), claims.release)
    for obj in claims.adopt:
        references = [*meta.owner_references(obj), meta.controller_reference(owner)]
        change = {"metadata": {"uid": meta.uid(obj), "ownerReferences": references}}
        owned.append(await client.patch(resource, meta.name(obj), change, meta.namespace(obj)))
    for obj in claims.release:
        reference = {"$patch": "delete", "uid": meta.uid(owner)}
        change = {"metadata": {"uid": meta.uid(obj), "ownerReferences": [reference]}}
        try:
            await client.patch(resource, meta.name(obj), change, meta.namespace(obj), patch_type=STRATEGIC_MERGE_PATCH)
        except ApiError as error:
            if error.code not in (404, 422):  # gone, or already someone else's
                raise
    return owned
