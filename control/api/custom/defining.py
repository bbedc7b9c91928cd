"""Hold a CustomResourceDefinition against Kubernetes' rules: its names, versions, subresources and conversion.

What all versions say alike is told of the definition as a whole (`spec.validation`, `spec.subresources` …): so it is
inside Kubernetes, where these rules are checked.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from control.api.custom.definition import is_established
from control.api.custom.pruning import Schema
from control.api.custom.structural import check_structural
from control.api.custom.version import REVIEW_VERSIONS
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.forms import check_webhook_client, metadata_of
from control.api.validation.internal import internal

COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
SELECTABLE_MAX = 8
_SHARED = ("schema", "subresources", "additionalPrinterColumns", "selectableFields")
"""What versions may say alike; it is told of them all then."""
_APPROVAL = "api-approved.kubernetes.io"
_SEE = "see https://github.com/kubernetes/enhancements/pull/1111"
_NO_LEAF = (
    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
)
_PATH_PART = re.compile(r"\.|\[|\]|[^.\[\]]+")


def check_definition(obj: Object, faults: Faults) -> None:
    """Check a definition that is to be stored."""
    spec = obj.get("spec") or {"conversion": {"strategy": "None"}}
    group, held = spec.get("group") or "", spec.get("names") or {}
    _check_group(group, faults)
    faults.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    versions: list[dict[str, Any]] = spec.get("versions") or []
    shared = {field: versions[0].get(field) for field in _SHARED if _is_shared(versions, field)}
    _check_schemas_given(versions, faults)
    apart = [{**version, **dict.fromkeys(shared)} for version in versions]
    for index, (version, whole) in enumerate(zip(apart, versions, strict=True)):
        _check_version(version, whole, f"spec.versions[{index}]", faults)
    _check_version_list(apart, faults, given=spec.get("versions") is not None)
    _check_names(held, faults)
    _check_shared(shared, versions, faults)
    _check_conversion(spec.get("conversion") or {}, faults)
    _check_stored(obj, versions, faults)


def check_definition_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that an established definition keeps what its objects hang on."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    called, had = now.get("names") or {}, was.get("names") or {}
    if is_established(old):
        faults.unchanged("spec.scope", now.get("scope"), was.get("scope"))
        faults.unchanged("spec.names.kind", called.get("kind"), had.get("kind"))
    faults.unchanged("spec.group", now.get("group"), was.get("group"))
    faults.unchanged("spec.names.plural", called.get("plural"), had.get("plural"))
    if approval_state(new) != approval_state(old):
        check_approval(new, faults)
    if not was.get("preserveUnknownFields"):
        check_pruning(new, faults)
    # Else what was wrong before may stay; a version that objects may be stored in is missed at every change.
    found, before = Faults(), Faults()
    _check_stored(new, now.get("versions") or [], found)
    _check_stored(old, was.get("versions") or [], before)
    faults.causes.extend(cause for cause in found.causes if cause in before.causes)


def check_new_definition(obj: Object, faults: Faults) -> None:
    """Check what is asked of new definitions alone, or where it changes."""
    spec, called = obj.get("spec") or {}, Faults()
    wanted = f"{(spec.get('names') or {}).get('plural') or ''}.{spec.get('group') or ''}"
    if (name := metadata_of(obj).get("name")) != wanted:
        called.invalid("metadata.name", name or "", 'must be spec.names.plural+"."+spec.group')
    faults.causes[:0] = called.causes  # it is told first
    check_approval(obj, faults)
    check_pruning(obj, faults)


def check_pruning(obj: Object, faults: Faults) -> None:
    """Check that unknown fields are cut."""
    if (obj.get("spec") or {}).get("preserveUnknownFields"):
        faults.invalid(
            "spec.preserveUnknownFields", True,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            "spec.versions[*].schema instead",
        )  # fmt: skip


def approval_state(obj: Object) -> str:
    """Return whether a definition in one of Kubernetes' groups was approved: missing, bypassed, approved, invalid."""
    text = (metadata_of(obj).get("annotations") or {}).get(_APPROVAL) or ""
    if not text:
        return "missing"
    if text.startswith("unapproved"):
        return "bypassed"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "invalid"
    return "approved" if parts.scheme and parts.netloc else "invalid"


def check_approval(obj: Object, faults: Faults) -> None:
    """Check that who defines a kind in one of Kubernetes' groups says who approved that."""
    group = (obj.get("spec") or {}).get("group") or ""
    if not f".{group}".endswith((".k8s.io", ".kubernetes.io")):
        return
    state, path = approval_state(obj), f"metadata.annotations[{_APPROVAL}]"
    text = f'protected groups must have approval annotation "{_APPROVAL}"'
    if state == "missing":
        faults.required(path, f"{text}, {_SEE}")
    elif state == "invalid":
        given = (metadata_of(obj).get("annotations") or {}).get(_APPROVAL)
        faults.invalid(path, given, f'{text} with either a URL or a reason starting with "unapproved", {_SEE}')


def _check_group(group: str, faults: Faults) -> None:
    if not group:
        faults.required("spec.group")
    elif found := names.dns_subdomain(group):
        faults.invalid("spec.group", group, ",".join(found))
    elif "." not in group:
        faults.invalid("spec.group", group, "should be a domain with at least one dot")


def _is_shared(versions: list[dict[str, Any]], field: str) -> bool:
    return bool(versions) and all(
        (version.get(field) or None) == (versions[0].get(field) or None) for version in versions
    )


def _schema(version: dict[str, Any]) -> Schema | None:
    found: Schema | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return found


def _check_schemas_given(versions: list[dict[str, Any]], faults: Faults) -> None:
    for index, version in enumerate(versions):
        if _schema(version) is None:
            faults.required(f"spec.versions[{index}].schema.openAPIV3Schema")


def _check_version(version: dict[str, Any], whole: dict[str, Any], path: str, faults: Faults) -> None:
    name = version.get("name") or ""
    if found := names.dns_1035_label(name):
        faults.invalid(f"{path}.name", name, ",".join(found))
    warning = version.get("deprecationWarning")
    if warning is not None:
        faults.invalid_all(f"{path}.deprecationWarning", warning, _warning_faults(warning, version))
    _check_parts(version, whole, f"{path}.schema", path, faults)


def _warning_faults(warning: str, version: dict[str, Any]) -> list[str]:
    if not version.get("deprecated"):
        return ["can only be set for deprecated versions"]
    faults = ["must be <= 256 characters long"] if len(warning.encode()) > 256 else []
    if not warning:
        faults.append("must not be an empty string")
    offset = 0
    for letter in warning:
        if not letter.isprintable():
            text = "must only contain printable UTF-8 characters; non-printable character found at index"
            return [*faults, f"{text} {offset}"]
        offset += len(letter.encode())
    return faults


def _check_parts(
    parts: dict[str, Any],
    whole: dict[str, Any],
    schema_path: str,
    path: str,
    faults: Faults,
    *,
    status: bool | None = None,
) -> None:
    """Check the schema, subresources, columns and selectable fields of a version, or those of all."""
    has_status = (whole.get("subresources") or {}).get("status") is not None if status is None else status
    schema = _schema(parts)
    if schema is not None:
        check_structural(schema, f"{schema_path}.openAPIV3Schema", faults, has_status=has_status)
    _check_subresources(parts.get("subresources") or {}, f"{path}.subresources", faults)
    for index, column in enumerate(parts.get("additionalPrinterColumns") or ()):
        _check_column(column, f"{path}.additionalPrinterColumns[{index}]", faults)
    if fields := parts.get("selectableFields"):
        _check_selectable(fields, schema, f"{path}.selectableFields", faults, is_version=parts is not whole)


def _check_version_list(versions: list[dict[str, Any]], faults: Faults, *, given: bool) -> None:
    called = [version.get("name") for version in versions]
    shown = internal("[]apiextensions.v1.CustomResourceDefinitionVersion", versions if versions or given else None)
    if len(set(called)) != len(called):
        faults.invalid("spec.versions", shown, "must contain unique version names")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        faults.invalid("spec.versions", shown, "must have exactly one version marked as storage version")
    if called and called[0] and (found := names.dns_1035_label(called[0])):
        faults.invalid("spec.version", called[0], ",".join(found))


def _check_shared(shared: dict[str, Any], versions: list[dict[str, Any]], faults: Faults) -> None:
    status = any((version.get("subresources") or {}).get("status") is not None for version in versions)
    if shared:
        _check_parts(shared, shared, "spec.validation", "spec", faults, status=status)


def _check_names(held: dict[str, Any], faults: Faults) -> None:
    for field in ("plural", "singular", "kind", "listKind"):
        if not held.get(field):
            faults.required(f"spec.names.{field}")
    check_names(held, "spec.names", faults)


def check_names(held: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the forms of the names of a kind."""
    for field in ("plural", "singular"):
        if (text := held.get(field)) and (found := names.dns_1035_label(text)):
            faults.invalid(f"{path}.{field}", text, ",".join(found))
    for field in ("kind", "listKind"):
        if (text := held.get(field)) and (found := names.dns_1035_label(text.lower())):
            told = f"may have mixed case, but should otherwise match: {','.join(found)}"
            faults.invalid(f"{path}.{field}", text, told)
    _check_words(held, "shortNames", path, faults)
    if held.get("kind") and held.get("kind") == held.get("listKind"):
        faults.invalid(f"{path}.listKind", held["listKind"], "kind and listKind may not be the same")
    _check_words(held, "categories", path, faults)


def _check_words(held: dict[str, Any], field: str, path: str, faults: Faults) -> None:
    for index, text in enumerate(held.get(field) or ()):
        if found := names.dns_1035_label(text):
            faults.invalid(f"{path}.{field}[{index}]", text, ",".join(found))


def _check_column(column: dict[str, Any], path: str, faults: Faults) -> None:
    kinds = f"must be one of {','.join(COLUMN_TYPES)}"
    kind, form, where = (column.get(field) or "" for field in ("type", "format", "jsonPath"))
    if not column.get("name"):
        faults.required(f"{path}.name")
    if not kind:
        faults.required(f"{path}.type", kinds)
    elif kind not in COLUMN_TYPES:
        faults.invalid(f"{path}.type", kind, kinds)
    if form and form not in COLUMN_FORMATS:
        faults.invalid(f"{path}.format", form, f"must be one of {','.join(COLUMN_FORMATS)}")
    if not where:
        faults.required(f"{path}.JSONPath")
    else:
        _is_path(where, f"{path}.JSONPath", faults)


def _is_path(text: str, path: str, faults: Faults) -> bool:
    if text.startswith("."):
        return True
    faults.invalid(path, text, "must be a simple json path starting with .")
    return False


def _check_subresources(offered: dict[str, Any], path: str, faults: Faults) -> None:
    scale = offered.get("scale")
    if scale is None:
        return
    for field, below in (("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")):
        here, text = f"{path}.scale.{field}", scale.get(field) or ""
        if not text:
            faults.required(here)
        elif _is_path(text, here, faults) and not text.startswith(f"{below}."):
            faults.invalid(here, text, f"should be a json path under {below}")
    here, text = f"{path}.scale.labelSelectorPath", scale.get("labelSelectorPath") or ""
    if text and _is_path(text, here, faults) and not text.startswith((".spec.", ".status.")):
        faults.invalid(here, text, "should be a json path under either .spec or .status")


def _check_selectable(
    fields: list[dict[str, Any]], schema: Schema | None, path: str, faults: Faults, *, is_version: bool
) -> None:
    if schema is None:
        text = "`version.schema.openAPIV3Schema` is not included" if is_version else "validations.schema is included"
        faults.invalid(path, "", f"may only be set when {text}")
        return
    seen: set[str] = set()
    for index, field in enumerate(fields):
        here, text = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not text:
            faults.required(here)
            continue
        found = _field_at(text, schema)
        if isinstance(found, str):
            faults.invalid(here, text, f"is an invalid path: {found}")
            continue
        if text.startswith((".metadata.", ".metadata")) and text[9:10] in ("", "."):
            faults.invalid(here, text, "must not point to fields in metadata")
        if found.get("type") not in ("string", "boolean", "integer"):
            faults.invalid(here, text, _NO_LEAF)
        if text in seen:
            faults.duplicate(here, text)
        seen.add(text)
    if len(seen) > SELECTABLE_MAX:
        faults.too_many(path, len(seen), SELECTABLE_MAX)


def _field_at(text: str, schema: Schema) -> Schema | str:
    """Return the schema of the field that a path leads to, or why it leads nowhere."""
    parts = iter(_PATH_PART.findall(text))
    for part in parts:
        if part == "[":
            return "array notation is not allowed"
        if part != ".":
            return f"expected [ or . but got: {part}"
        if (name := next(parts, None)) is None:
            return "unexpected end of JSON path"
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        inner = properties.get(name) if properties else others
        if not isinstance(inner, dict):
            return "does not refer to a valid field"
        schema = inner
    return schema


def _check_conversion(conversion: dict[str, Any], faults: Faults) -> None:
    path, strategy, webhook = "spec.conversion", conversion.get("strategy") or "", conversion.get("webhook") or {}
    faults.one_of(f"{path}.strategy", strategy, ("None", "Webhook"))
    config, known = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    here = f"{path}.conversionReviewVersions"
    if strategy != "Webhook":
        text = "should not be set when strategy is not set to Webhook"
        if config is not None:
            faults.forbidden(f"{path}.webhookClientConfig", text)
        if known:
            faults.forbidden(here, text)
        return
    if config is None:
        faults.required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
    else:
        check_webhook_client(config, f"{path}.webhookClientConfig", faults)
    if not known:
        faults.required(here)
        return
    for index, version in enumerate(known):
        if version in known[:index]:
            faults.invalid(f"{here}[{index}]", version, "duplicate version")
        else:
            faults.invalid_all(f"{here}[{index}]", version, names.dns_1035_label(version))
    if not any(version in REVIEW_VERSIONS for version in known):
        faults.invalid(here, known, "must include at least one of v1, v1beta1")


def _check_stored(obj: Object, versions: list[dict[str, Any]], faults: Faults) -> None:
    status = obj.get("status") or {}
    check_names(status.get("acceptedNames") or {}, "status.acceptedNames", faults)
    path, stored = "status.storedVersions", list(status.get("storedVersions") or ())
    storing = [version.get("name") or "" for version in versions if version.get("storage")]
    if storing and storing[0] not in stored:
        stored.append(storing[0])  # so the server itself writes it down
    if not stored:
        faults.invalid(path, None, "must have at least one stored version")
        return
    left = set(stored)
    for name in storing:
        if name not in left:
            faults.invalid(path, stored, f"must have the storage version {name}")
        left.discard(name)  # a version that stands twice is missed the second time
    listed = {version.get("name") for version in versions}
    for index, name in enumerate(stored):
        if name not in listed:
            faults.invalid(
                f"{path}[{index}]", name,
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} and removes "
                f"{name} from status.storedVersions",
            )  # fmt: skip
