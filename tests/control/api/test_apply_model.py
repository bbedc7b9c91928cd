"""Server-side apply and kubectl's patches, against a model that shares no code with them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from control.api.apply import apply
from control.api.patch import create_merge_patch, merge_patch
from control.api.status import ApiError
from control.api.strategic import strategic_merge_patch
from control.api.tracking import Manager, Scope, track_creation, track_update
from tests.control.api.apply_model import (
    KEYED,
    NEVER_ABSENT,
    SETS,
    WHOLE,
    ConflictError,
    Model,
    flatten,
    implied,
    key_of,
    owned_paths,
    three_way,
)

DEPLOYMENT = "apps.v1.Deployment"
SCOPE = Scope(DEPLOYMENT, frozenset({("status",)}))
NOW = "2024-05-06T07:08:09Z"
HEAD = {"apiVersion": "apps/v1", "kind": "Deployment"}
few = st.sampled_from(["1", "2"])
names = st.sampled_from(["a", "b", "c"])


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def keyed(*keys: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    items = st.fixed_dictionaries({key: fields.pop(key) for key in keys}, optional=fields)
    return st.lists(items, min_size=1, max_size=3, unique_by=lambda item: tuple(item[key] for key in keys))


containers = keyed(
    "name",
    name=names,
    image=few,
    args=st.lists(few, min_size=1, max_size=2),
    env=keyed("name", name=names, value=few),
    ports=keyed("containerPort", "protocol", containerPort=st.sampled_from([80, 443]),
                protocol=st.sampled_from(["TCP", "UDP"]), name=names),
)  # fmt: skip
template = optional(
    metadata=st.fixed_dictionaries({"labels": st.dictionaries(names, few, min_size=1, max_size=2)}),
    spec=st.fixed_dictionaries(
        {"containers": containers},
        optional={
            "nodeSelector": st.dictionaries(names, few, min_size=1, max_size=2),
            "tolerations": st.lists(st.fixed_dictionaries({"key": names}), min_size=1, max_size=2),
            "hostNetwork": st.just(True),
        },
    ),
).filter(bool)
spec = optional(
    replicas=st.integers(1, 3),
    selector=st.fixed_dictionaries({"matchLabels": st.dictionaries(names, few, min_size=1, max_size=1)}),
    template=template,
).filter(bool)
metadata = optional(
    labels=st.dictionaries(names, few, min_size=1, max_size=2),
    finalizers=st.lists(st.sampled_from(["x/a", "x/b", "x/c"]), min_size=1, max_size=3, unique=True),
)
wishes = st.builds(lambda about, what: {"metadata": {"name": "web", **about}, "spec": what}, metadata, spec)
steps = st.lists(
    st.tuples(st.sampled_from(["apply", "force", "update", "create"]), st.sampled_from(["ann", "bob", "cy"]), wishes),
    min_size=1,
    max_size=6,
)


def flat(obj: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return what of an object can be owned."""
    rest = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind")}
    rest["metadata"] = {k: v for k, v in obj["metadata"].items() if k not in ("name", "managedFields")}
    return flatten(rest)


def owners(obj: dict[str, Any]) -> dict[tuple[str, str], set[tuple[str, ...]]]:
    entries = obj["metadata"].get("managedFields") or []
    return {(entry["manager"], entry["operation"]): owned_paths(entry["fieldsV1"]) for entry in entries}


@settings(max_examples=15, deadline=None)
@given(steps)
def test_apply_does_what_the_model_does(taken: list[tuple[str, str, dict[str, Any]]]) -> None:
    model, live = Model(), None
    for what, who, wish in taken:
        if what in ("update", "create"):
            if (live is None) != (what == "create"):
                continue
            new = {**HEAD, **copy.deepcopy(wish)}
            if live is None:
                track_creation(new, Manager(who, "Update", "apps/v1"), SCOPE, NOW)
                live = new
                model.create(f"{who} Update", flat(wish))
            else:
                # Clients that do not know of owners leave them out.
                live = track_update(live, new, Manager(who, "Update", "apps/v1"), SCOPE, NOW)
                model.update(f"{who} Update", flat(wish))
        else:
            wanted = flat(wish)
            try:
                live = apply(
                    live, {**HEAD, **wish}, Manager(who, "Apply", "apps/v1"), SCOPE, NOW, force=what == "force"
                )
            except ApiError as error:
                refusal = error.status
            else:
                refusal = {}
                model.apply(f"{who} Apply", wanted, force=what == "force")
            if refusal:
                assert refusal["code"] == 409, refusal["message"]
                assert len(refusal["details"]["causes"]) == len(_conflicts(model, who, wanted))
                continue
        if live is None:
            continue
        assert flat(live) == model.live
        # A map that was emptied by an apply may stay, empty, where its maker is known.
        there = set(model.live) | implied(model.live) | NEVER_ABSENT
        told = {f"{who} {how}": fields & there for (who, how), fields in owners(live).items()}
        held = {who: owned & there for who, owned in model.owners.items()}
        assert {who: fields for who, fields in told.items() if fields} == {
            who: fields for who, fields in held.items() if fields
        }


def _conflicts(model: Model, who: str, wanted: dict[tuple[str, ...], Any]) -> set[Any]:
    trial = copy.deepcopy(model)
    try:
        trial.apply(f"{who} Apply", wanted, force=False)
    except ConflictError as conflict:
        return conflict.found
    raise AssertionError("the model knows no conflict")


@settings(max_examples=12, deadline=None)
@given(wishes, wishes)
def test_lists_come_in_the_order_of_the_wish_and_the_rest_keeps_its_own(first: Any, second: Any) -> None:
    one, two = Manager("ann", "Apply", "apps/v1"), Manager("bob", "Apply", "apps/v1")
    live = apply(apply(None, {**HEAD, **first}, one, SCOPE, NOW), {**HEAD, **second}, two, SCOPE, NOW,
                 force=True)  # fmt: skip
    for path in (("metadata", "finalizers"), ("spec", "template", "spec", "containers")):
        before, wanted, after = (_keys(_at(obj, path)) for obj in (first, second, live))
        assert [key for key in after if key in wanted] == wanted
        others = [key for key in before if key not in wanted]
        assert [key for key in after if key in others] == others


def _at(obj: Any, path: tuple[str, ...]) -> list[Any]:
    for step in path:
        obj = (obj or {}).get(step)
    return obj or []


def _keys(items: list[Any]) -> list[str]:
    return [item["name"] if isinstance(item, dict) else item for item in items]


# Patches that clients compute from three states.


def strategic_patch(last: Any, wanted: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the patch by which kubectl tells what it wishes and what it no longer does."""
    patch: dict[str, Any] = {name: None for name in last if name not in wanted}
    for name, value in wanted.items():
        here = (*path, name)
        if here in SETS:
            patch[name] = value
            patch[f"$setElementOrder/{name}"] = value
            if gone := [item for item in last.get(name, []) if item not in value]:
                patch[f"$deleteFromPrimitiveList/{name}"] = gone
        elif here in WHOLE or not isinstance(value, dict | list):
            # Maps have no owner as a whole here: a merge patch goes into them.
            patch[name] = strategic_patch(last.get(name, {}), value, here) if isinstance(value, dict) else value
        elif isinstance(value, dict):
            patch[name] = strategic_patch(last.get(name, {}), value, here)
        else:
            _list_patch(patch, name, last.get(name, []), value, here)
    return patch


def _list_patch(patch: dict[str, Any], name: str, last: list[Any], wanted: list[Any], path: tuple[str, ...]) -> None:
    keys = KEYED[path]
    before = {key_of(item, keys): item for item in last}
    items = []
    for item in wanted:
        inner = strategic_patch(before.get(key_of(item, keys), {}), item, (*path, "*"))
        items.append({**inner, **{key: item[key] for key in keys}})
    now = {key_of(item, keys) for item in wanted}
    gone = [{key: item[key] for key in keys[:1]} for held, item in before.items() if held not in now]
    patch[name] = [*items, *({"$patch": "delete", **key} for key in gone)]
    patch[f"$setElementOrder/{name}"] = [{key: item[key] for key in keys} for item in wanted]


def without_ports(obj: Any) -> Any:
    """Leave ports out: their merge key is one field, the list's keys are two."""
    made = copy.deepcopy(obj)
    for container in _at(made, ("spec", "template", "spec", "containers")):
        container.pop("ports", None)
    return made


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: without_empty(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in ({}, [])}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def merged(path: tuple[str, ...]) -> bool:
    """Tell whether a map that server-side apply takes whole is merged by patches."""
    return path[:4] == ("spec", "template", "spec", "nodeSelector") or path[:2] == ("spec", "selector")


def opened(obj: Any) -> dict[tuple[str, ...], Any]:
    """Flatten an object as patches see it."""
    found: dict[tuple[str, ...], Any] = {}
    for path, value in flat(obj).items():
        if isinstance(value, dict) and merged(path):
            found.update(_inside(value, path))
        else:
            found[path] = value
    return found


def _inside(value: Any, path: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {at: leaf for name, item in value.items() for at, leaf in _inside(item, (*path, name)).items()}


@settings(max_examples=15, deadline=None)
@given(wishes, wishes, wishes)
def test_a_three_way_strategic_patch_keeps_what_others_added(last: Any, wanted: Any, live: Any) -> None:
    last, wanted, live = without_ports(last), without_ports(wanted), without_ports(live)
    patch = strategic_patch(last, wanted)
    patched = strategic_merge_patch({**HEAD, **live}, patch, DEPLOYMENT)
    expected = three_way(opened(last), opened(wanted), opened(live))
    assert opened(without_empty(patched)) == expected
    again = strategic_merge_patch(patched, patch, DEPLOYMENT)
    assert again == patched


plain = st.recursive(
    st.integers(0, 3) | st.booleans() | few,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(names, plain, max_size=3)


@settings(max_examples=12, deadline=None)
@given(documents, documents, documents)
def test_a_three_way_merge_patch_takes_away_what_was_wished_before(last: Any, wanted: Any, live: Any) -> None:
    def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {at: leaf for name, item in value.items() for at, leaf in leaves(item, (*path, name)).items()}

    dropped = {path for path in leaves(last) if path not in leaves(wanted)}
    patch = create_merge_patch({}, copy.deepcopy(wanted))
    for path in dropped:
        target = patch
        for step in path[:-1]:
            target = target.setdefault(step, {}) if isinstance(target, dict) else {}
        if isinstance(target, dict) and path[-1] not in target:
            target[path[-1]] = None
    result = merge_patch(live, patch)
    found = leaves(without_empty(result))
    assert leaves(without_empty(wanted)).items() <= found.items()
    assert not {path for path in dropped if path in found and path not in leaves(wanted)}
    assert merge_patch(result, patch) == result
