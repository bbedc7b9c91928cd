"""Hold a CustomResourceDefinition against Kubernetes' rules, and say what stands in its status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.api.custom import jsonpath
from control.api.custom.structural import check_structural
from control.api.custom.version import REVIEW_VERSIONS
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_webhook_client

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_NAMES = ("plural", "singular", "kind", "listKind")
COLUMNS_MAX, VERSIONS_MAX, SELECTABLE_MAX = 100, 100, 8


def check_definition(obj: Object, faults: Faults) -> None:
    """Check a definition that is to be stored."""
    spec = obj.get("spec") or {}
    group, held = spec.get("group") or "", spec.get("names") or {}
    wanted = f"{held.get('plural') or ''}.{group}"
    if (name := obj["metadata"].get("name")) != wanted:
        faults.invalid("metadata.name", name or "", 'must be spec.names.plural+"."+spec.group')
    if not group:
        faults.required("spec.group")
    else:
        faults.invalid_all("spec.group", group, names.dns_subdomain(group))
        if "." not in group:
            faults.invalid("spec.group", group, "should be a domain with at least one dot")
    faults.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    _check_names(held, faults)
    _check_versions(spec, faults)
    _check_conversion(spec.get("conversion") or {}, faults)
    if spec.get("preserveUnknownFields"):
        faults.invalid(
            "spec.preserveUnknownFields", True,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            "spec.versions[*].schema instead",
        )  # fmt: skip
    stored = (obj.get("status") or {}).get("storedVersions") or ()
    listed = {version.get("name") for version in spec.get("versions") or ()}
    for index, version in enumerate(stored):
        if version not in listed:
            faults.invalid(f"status.storedVersions[{index}]", version, "must appear in spec.versions")


def check_definition_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an established definition keeps what its objects hang on."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    faults.unchanged("spec.group", now.get("group"), was.get("group"))
    called, had = now.get("names") or {}, was.get("names") or {}
    faults.unchanged("spec.names.plural", called.get("plural"), had.get("plural"))
    if is_established(old):
        faults.unchanged("spec.scope", now.get("scope"), was.get("scope"))
        faults.unchanged("spec.names.kind", called.get("kind"), had.get("kind"))


def _check_names(held: dict[str, Any], faults: Faults) -> None:
    for field in ("plural", "kind", "listKind"):
        if not held.get(field):
            faults.required(f"spec.names.{field}")
    for field in _NAMES:
        if text := held.get(field):
            faults.invalid_all(f"spec.names.{field}", text, names.dns_1035_label(text.lower()))
    for field in ("shortNames", "categories"):
        for index, text in enumerate(held.get(field) or ()):
            faults.invalid_all(f"spec.names.{field}[{index}]", text, names.dns_1035_label(text))
    if held.get("kind") and held.get("kind") == held.get("listKind"):
        faults.invalid("spec.names.listKind", held["listKind"], "kind and listKind may not be the same")


def _check_versions(spec: dict[str, Any], faults: Faults) -> None:
    versions: list[dict[str, Any]] = spec.get("versions") or []
    if len(versions) > VERSIONS_MAX:
        faults.too_many("spec.versions", len(versions), VERSIONS_MAX)
        return
    seen: set[str] = set()
    for index, version in enumerate(versions):
        path, name = f"spec.versions[{index}]", version.get("name") or ""
        if name in seen:
            faults.invalid("spec.versions", name, "must contain unique version names")
        seen.add(name)
        faults.invalid_all(f"{path}.name", name, names.dns_1035_label(name))
        if version.get("deprecationWarning") is not None and not version.get("deprecated"):
            text = "can only be set for deprecated versions"
            faults.invalid(f"{path}.deprecationWarning", version["deprecationWarning"], text)
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            faults.required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        else:
            check_structural(schema, f"{path}.schema.openAPIV3Schema", faults)
        _check_columns(version.get("additionalPrinterColumns") or (), path, faults)
        _check_subresources(version.get("subresources") or {}, path, faults)
        _check_selectable(version.get("selectableFields") or (), path, faults)
    storing = sum(bool(version.get("storage")) for version in versions)
    if storing != 1:
        told = [version.get("name") for version in versions]
        faults.invalid("spec.versions", told, "must have exactly one version marked as storage version")


def _check_columns(columns: Iterable[Mapping[str, Any]], path: str, faults: Faults) -> None:
    for index, column in enumerate(columns):
        here = f"{path}.additionalPrinterColumns[{index}]"
        if index == COLUMNS_MAX:
            faults.forbidden(here, f"at most {COLUMNS_MAX} columns may be given")
            return
        for field in ("name", "type", "jsonPath"):
            if not column.get(field):
                faults.required(f"{here}.{field}")
        if column.get("type") and column["type"] not in COLUMN_TYPES:
            faults.invalid(f"{here}.type", column["type"], f"must be one of {','.join(COLUMN_TYPES)}")
        if column.get("format") and column["format"] not in COLUMN_FORMATS:
            faults.invalid(f"{here}.format", column["format"], f"must be one of {','.join(COLUMN_FORMATS)}")
        if column.get("jsonPath"):
            _check_path(column["jsonPath"], f"{here}.jsonPath", faults)


def _check_path(text: str, path: str, faults: Faults) -> bool:
    try:
        jsonpath.parse(text)
    except jsonpath.JSONPathError as error:
        faults.invalid(path, text, str(error))
        return False
    return True


def _check_subresources(offered: dict[str, Any], path: str, faults: Faults) -> None:
    scale = offered.get("scale")
    if scale is None:
        return
    for field, below in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status."), ("labelSelectorPath", "")):
        here, text = f"{path}.subresources.scale.{field}", scale.get(field)
        if not text:
            if below:
                faults.required(here)
            continue
        if not _check_path(text, here, faults):
            continue
        if jsonpath.parse(text).fields is None:
            faults.invalid(here, text, "should be a simple json path")
        elif below and not text.startswith(below):
            faults.invalid(here, text, f"should be a json path under {below.rstrip('.')}")
        elif not text.startswith((".spec.", ".status.")):
            faults.invalid(here, text, "should be a json path under either .spec or .status")


def _check_selectable(fields: Iterable[Mapping[str, Any]], path: str, faults: Faults) -> None:
    seen: set[str] = set()
    for index, field in enumerate(fields):
        here, text = f"{path}.selectableFields[{index}].jsonPath", field.get("jsonPath") or ""
        if index == SELECTABLE_MAX:
            faults.too_many(f"{path}.selectableFields", index + 1, SELECTABLE_MAX)
            return
        if not text:
            faults.required(here)
        elif not _check_path(text, here, faults):
            continue
        elif jsonpath.parse(text).fields is None or text.startswith(".metadata"):
            faults.invalid(here, text, "is an invalid path: must be a simple path to a field outside of metadata")
        elif text in seen:
            faults.duplicate(here, text)
        seen.add(text)


def _check_conversion(conversion: dict[str, Any], faults: Faults) -> None:
    strategy = conversion.get("strategy") or "None"
    if strategy not in ("None", "Webhook"):
        faults.not_supported("spec.conversion.strategy", strategy, ("None", "Webhook"))
    webhook = conversion.get("webhook")
    if strategy == "None" and webhook is not None:
        faults.forbidden("spec.conversion.webhook", "should not be set when strategy is not set to Webhook")
    if strategy != "Webhook":
        return
    if webhook is None:
        faults.required("spec.conversion.webhook", "required when strategy is set to Webhook")
        return
    config = webhook.get("clientConfig")
    if config is None:
        faults.required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook")
    else:
        check_webhook_client(config, "spec.conversion.webhook.clientConfig", faults)
    known, here = webhook.get("conversionReviewVersions") or [], "spec.conversion.webhook.conversionReviewVersions"
    if not known:
        faults.required(here)
    elif not any(version in REVIEW_VERSIONS for version in known):
        faults.invalid(here, known, "must include at least one of v1, v1beta1")


def is_established(definition: Object) -> bool:
    """Tell whether objects of the kind may be made."""
    return condition(definition, "Established") == "True"


def condition(definition: Object, kind: str) -> str:
    """Return the status of a condition, empty where it does not stand."""
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return next((str(entry.get("status")) for entry in conditions if entry.get("type") == kind), "")


def accept(definition: Object, taken: Mapping[str, str], now: str) -> Object:
    """Return the status of a definition by the names that others of its group hold: name → whose it is.

    A plural name, a short name or a singular name that somebody else has is not accepted, nor is a kind; what had been
    accepted before stays (Kubernetes' naming controller).
    """
    spec, status = definition["spec"], dict(definition.get("status") or {})
    wished, before = spec["names"], status.get("acceptedNames") or {}
    own = wished["plural"]
    conflicts = [(field, text) for field, text in _all_names(wished) if taken.get(_key(field, text), own) != own]
    if conflicts:
        accepted = {**before}
        field, text = conflicts[0]
        reason = {"plural": "PluralConflict", "singular": "SingularConflict", "kind": "KindConflict",
                  "listKind": "ListKindConflict"}.get(field, "ShortNamesConflict")  # fmt: skip
        verdict = ("False", reason, f'"{text}" is already in use')
    else:
        accepted = {key: value for key, value in wished.items() if value}
        verdict = ("True", "NoConflicts", "no conflicts found")
    status["acceptedNames"] = {"plural": "", "kind": "", **accepted}
    conditions = [dict(entry) for entry in status.get("conditions") or ()]
    _set_condition(conditions, "NamesAccepted", *verdict, now)
    if verdict[0] == "True" and condition(definition, "Established") != "True":
        told = "the initial names have been accepted"
        _set_condition(conditions, "Established", "True", "InitialNamesAccepted", told, now)
    elif verdict[0] != "True" and not condition(definition, "Established"):
        _set_condition(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now)
    status["conditions"] = conditions
    storage = next(version["name"] for version in spec["versions"] if version["storage"])
    stored = list(status.get("storedVersions") or ())
    status["storedVersions"] = stored if storage in stored else [*stored, storage]
    return status


def names_held(definition: Object) -> dict[str, str]:
    """Return the names that a definition has been given: name → its plural."""
    accepted = (definition.get("status") or {}).get("acceptedNames") or {}
    if not accepted.get("plural"):
        return {}
    return {_key(field, text): accepted["plural"] for field, text in _all_names(accepted)}


def _all_names(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(field, held[field]) for field in _NAMES if held.get(field)]
    return found + [("shortNames", text) for text in held.get("shortNames") or ()]


def _key(field: str, text: str) -> str:
    # Kinds and names of resources live in spaces of their own.
    return f"kind {text}" if field in ("kind", "listKind") else text


def _set_condition(conditions: list[Object], kind: str, value: str, reason: str, message: str, now: str) -> None:
    wanted = {"type": kind, "status": value, "reason": reason, "message": message}
    for entry in conditions:
        if entry.get("type") == kind:
            if entry.get("status") != value:
                entry["lastTransitionTime"] = now
            entry.update(wanted)
            return
    conditions.append({"lastTransitionTime": now, **wanted})


def terminating(definition: Object, reason: str, message: str, now: str) -> Object:
    """Return the status of a definition whose objects are being removed."""
    status = dict(definition.get("status") or {})
    conditions = [dict(entry) for entry in status.get("conditions") or ()]
    _set_condition(conditions, "Terminating", "True", reason, message, now)
    return {**status, "conditions": conditions}
