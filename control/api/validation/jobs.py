"""Rules of jobs and of what starts them by the clock."""

from __future__ import annotations

import re
from typing import Any
from zoneinfo import available_timezones

from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation import names
from control.api.validation.cron import check_schedule
from control.api.validation.differences import internal_pod_spec
from control.api.validation.faults import IMMUTABLE, Faults, quoted
from control.api.validation.forms import check_domain_prefixed_path, metadata_of
from control.api.validation.indexes import IndexesError, count_indexes
from control.api.validation.internal import internal
from control.api.validation.metadata import check_selector
from control.api.validation.pods import check_template
from control.api.validation.statuses import true_conditions
from control.api.validation.workloads import selector_matches

_POLICIES = ("OnFailure", "Never")
_POLICY_TYPES = {"podFailurePolicy": "batch.v1.PodFailurePolicy", "successPolicy": "batch.v1.SuccessPolicy"}
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_STATUSES = ("False", "True", "Unknown")
_MANAGED_BY_MAX = 63
_INDEXED_MAX = 100_000
_MANY_MAX = 10_000
_RULES_MAX = 20
_EXIT_CODES_MAX = 255
_SUCCEEDED_INDEXES_MAX = 64 * 1024
_ZONE_PART = re.compile(r"[A-Za-z.\-_0-9+]{1,14}")


def check_job(obj: Object, faults: Faults) -> None:
    """Check a Job."""
    spec = obj.get("spec") or {}
    metadata = metadata_of(obj)
    if not spec.get("manualSelector") and spec.get("selector") is not None and metadata.get("uid"):
        _check_generated(spec, metadata, faults)
    check_job_spec(spec, "spec", faults, selector_required=True)
    completions = spec.get("completions") or 0
    if spec.get("completionMode") == "Indexed" and completions > 0:
        host = f"{metadata.get('name') or ''}-{completions - 1}"
        if names.dns_label(host):
            text = f"will not able to create pod with invalid DNS label: {host}"
            faults.invalid("metadata.name", metadata.get("name") or "", text)


def _check_generated(spec: dict[str, Any], metadata: dict[str, Any], faults: Faults) -> None:
    """Check that the labels by which a job finds its pods are those that the server made."""
    labels = metadata_of(spec.get("template") or {}).get("labels") or {}
    wanted = {}
    for prefix in ("", "batch.kubernetes.io/"):
        wanted[f"{prefix}controller-uid"] = metadata["uid"]
        wanted[f"{prefix}job-name"] = metadata.get("name") or ""
    for key, value in wanted.items():
        here = f"spec.template.metadata.labels[{key}]"
        if key not in labels:
            faults.required(here, f"must be '{value}'")
        elif labels[key] != value:
            faults.invalid(here, labels, f"must be '{value}'")
    if not selector_matches(spec["selector"], wanted):
        faults.invalid("spec.selector", spec["selector"], "`selector` not auto-generated")


def check_job_spec(spec: dict[str, Any], path: str, faults: Faults, *, selector_required: bool) -> None:
    """Check a job's spec; inside of a CronJob it has no selector yet."""
    for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
                  "backoffLimitPerIndex", "maxFailedIndexes"):  # fmt: skip
        faults.not_negative(f"{path}.{field}", spec.get(field))
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        faults.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if (manager := spec.get("managedBy")) is not None:
        check_domain_prefixed_path(manager, f"{path}.managedBy", faults)
        if len(manager) > _MANAGED_BY_MAX:
            faults.too_long(f"{path}.managedBy", _MANAGED_BY_MAX)
    _check_indexed(spec, path, faults)
    template = spec.get("template") or {}
    if (policy := spec.get("podFailurePolicy")) is not None:
        _check_failure_policy(spec, policy, f"{path}.podFailurePolicy", faults)
    if (policy := spec.get("successPolicy")) is not None:
        if spec.get("completionMode") != "Indexed":
            shown = internal("batch.v1.SuccessPolicy", policy)
            faults.invalid(f"{path}.successPolicy", shown, "requires indexed completion mode")
        else:
            _check_success_policy(policy, spec.get("completions") or 0, f"{path}.successPolicy.rules", faults)
    if (replacement := spec.get("podReplacementPolicy")) is not None:
        known = ["Failed"] if spec.get("podFailurePolicy") is not None else ["Failed", "TerminatingOrFailed"]
        if replacement not in known:
            faults.not_supported(f"{path}.podReplacementPolicy", replacement, known)
    check_template(template, f"{path}.template", faults)
    policy = (template.get("spec") or {}).get("restartPolicy")
    where = f"{path}.template.spec.restartPolicy"
    if not policy or policy == "Always":
        faults.required(where, "valid values: " + ", ".join(quoted(known) for known in _POLICIES))
    elif policy not in _POLICIES:
        faults.not_supported(where, policy, _POLICIES)
    elif spec.get("podFailurePolicy") is not None and policy != "Never":
        faults.invalid(where, policy, 'only "Never" is supported when podFailurePolicy is specified')
    if selector_required:
        _check_job_selector(spec, path, faults)


def _check_indexed(spec: dict[str, Any], path: str, faults: Faults) -> None:
    mode, completions = spec.get("completionMode"), spec.get("completions")
    parallelism, failures = spec.get("parallelism"), spec.get("maxFailedIndexes")
    per_index = spec.get("backoffLimitPerIndex")
    if mode not in (None, "Indexed", "NonIndexed"):
        faults.not_supported(f"{path}.completionMode", mode, ["NonIndexed", "Indexed"])
        return
    if mode != "Indexed":
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if spec.get(field) is not None:
                faults.invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")
        return
    if completions is None:
        faults.required(f"{path}.completions", "when completion mode is Indexed")
    if parallelism is not None and parallelism > _INDEXED_MAX:
        text = f"must be less than or equal to {_INDEXED_MAX} when completion mode is Indexed"
        faults.invalid(f"{path}.parallelism", parallelism, text)
    if failures is not None:
        if completions is not None and failures > completions:
            faults.invalid(f"{path}.maxFailedIndexes", failures, "must be less than or equal to completions")
        if failures > _INDEXED_MAX:
            faults.invalid(f"{path}.maxFailedIndexes", failures, f"must be less than or equal to {_INDEXED_MAX}")
    if completions is None or completions <= _INDEXED_MAX or per_index is None:
        return
    if failures is None:
        text = f"must be specified when completions is above {_INDEXED_MAX}"
        faults.required(f"{path}.maxFailedIndexes", text)
    text = (
        f"must be less than or equal to {_MANY_MAX} when completions are above {_INDEXED_MAX} and used with backoff "
        "limit per index"
    )
    for field, value in (("parallelism", parallelism), ("maxFailedIndexes", failures)):
        if value is not None and value > _MANY_MAX:
            faults.invalid(f"{path}.{field}", value, text)


def _check_job_selector(spec: dict[str, Any], path: str, faults: Faults) -> None:
    selector, before = spec.get("selector"), len(faults.causes)
    if selector is None:
        faults.required(f"{path}.selector")
    else:
        check_selector(selector, f"{path}.selector", faults)
        if len(faults.causes) > before:
            return
    labels = metadata_of(spec.get("template") or {}).get("labels")
    if selector is None or not selector_matches(selector, labels or {}):
        faults.invalid(f"{path}.template.metadata.labels", labels, "`selector` does not match template `labels`")


def _known(values: tuple[str, ...]) -> str:
    return "valid values: [" + " ".join(quoted(value) for value in values) + "]"


def _check_failure_policy(spec: dict[str, Any], policy: dict[str, Any], path: str, faults: Faults) -> None:
    rules = policy.get("rules") or []
    if len(rules) > _RULES_MAX:
        faults.too_many(f"{path}.rules", len(rules), _RULES_MAX)
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = {
        container.get("name") for kind in ("containers", "initContainers") for container in pod.get(kind) or ()
    }
    for index, rule in enumerate(rules):
        here, action = f"{path}.rules[{index}]", rule.get("action") or ""
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
        if not action:
            faults.required(f"{here}.action", _known(_ACTIONS))
        elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            faults.invalid(f"{here}.action", action, "requires the backoffLimitPerIndex to be set")
        elif action not in _ACTIONS:
            faults.not_supported(f"{here}.action", action, _ACTIONS)
        if codes is not None:
            _check_exit_codes(codes, containers, f"{here}.onExitCodes", faults)
        _check_patterns(conditions, f"{here}.onPodConditions", faults)
        if codes is not None and conditions:
            faults.wrong(here, "specifying both OnExitCodes and OnPodConditions is not supported")
        elif codes is None and not conditions:
            faults.wrong(here, "specifying one of OnExitCodes and OnPodConditions is required")


def _check_patterns(conditions: list[dict[str, Any]], path: str, faults: Faults) -> None:
    if len(conditions) > _RULES_MAX:
        faults.too_many(path, len(conditions), _RULES_MAX)
    for index, pattern in enumerate(conditions):
        kind, status = pattern.get("type") or "", pattern.get("status") or ""
        faults.invalid_all(f"{path}[{index}].type", kind, names.qualified_name(kind))
        if not status:
            faults.required(f"{path}[{index}].status", _known(_STATUSES))
        elif status not in _STATUSES:
            faults.not_supported(f"{path}[{index}].status", status, _STATUSES)


def _check_exit_codes(codes: dict[str, Any], containers: set[Any], path: str, faults: Faults) -> None:
    operator, values = codes.get("operator") or "", codes.get("values") or []
    if not operator:
        faults.required(f"{path}.operator", _known(("In", "NotIn")))
    elif operator not in ("In", "NotIn"):
        faults.not_supported(f"{path}.operator", operator, ["In", "NotIn"])
    name = codes.get("containerName")
    if name is not None and name not in containers:
        text = "must be one of the container or initContainer names in the pod template"
        faults.invalid(f"{path}.containerName", name, text)
    if not values:
        faults.invalid(f"{path}.values", codes.get("values"), "at least one value is required")
    elif len(values) > _EXIT_CODES_MAX:
        faults.too_many(f"{path}.values", len(values), _EXIT_CODES_MAX)
    seen: set[int] = set()
    for index, code in enumerate(values):
        if operator == "In" and code == 0:
            faults.invalid(f"{path}.values[{index}]", code, "must not be 0 for the In operator")
        if code in seen:
            faults.duplicate(f"{path}.values[{index}]", code)
        seen.add(code)
    if values != sorted(values):
        faults.invalid(f"{path}.values", values, "must be ordered")


def _check_success_policy(policy: dict[str, Any], completions: int, path: str, faults: Faults) -> None:
    rules = policy.get("rules") or []
    if not rules:
        faults.required(path, "at least one rules must be specified when the successPolicy is specified")
    if len(rules) > _RULES_MAX:
        faults.too_many(path, len(rules), _RULES_MAX)
    for index, rule in enumerate(rules):
        here, count, indexes = f"{path}[{index}]", rule.get("succeededCount"), rule.get("succeededIndexes")
        if count is None and indexes is None:
            faults.required(here, "at least one of succeededCount or succeededIndexes must be specified")
        total = 0
        if indexes is not None:
            if len(indexes) > _SUCCEEDED_INDEXES_MAX:
                faults.too_long(f"{here}.succeededIndexes", _SUCCEEDED_INDEXES_MAX)
            try:
                total = count_indexes(indexes, completions)
            except IndexesError as error:
                text = f"error parsing succeededIndexes: {error}"
                faults.invalid(f"{here}.succeededIndexes", indexes, text)
        if count is None:
            continue
        faults.not_negative(f"{here}.succeededCount", count)
        if count > completions:
            text = f"must be less than or equal to {completions} (the number of specified completions)"
            faults.invalid(f"{here}.succeededCount", count, text)
        if indexes is not None and count > total:
            text = (
                f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            )
            faults.invalid(f"{here}.succeededCount", count, text)


def check_job_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that what a job has begun with stays."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    if now.get("completionMode") != "Indexed":
        faults.unchanged("spec.completions", now.get("completions"), was.get("completions"))
    elif now.get("completions") not in (None, was.get("completions"), now.get("parallelism")):
        # An indexed job may be made larger or smaller together with its parallelism.
        text = "can only be modified in tandem with spec.parallelism"
        faults.invalid("spec.completions", now.get("completions"), text)
    faults.unchanged("spec.selector", now.get("selector"), was.get("selector"))
    _check_template_update(new, old, faults)
    for field in ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        if (value := now.get(field)) != was.get(field):
            faults.invalid(f"spec.{field}", internal(_POLICY_TYPES.get(field, "string"), value), IMMUTABLE)


def _check_template_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a template stays, but for where and how large the pods of a suspended job are."""
    now, was = ((obj.get("spec") or {}).get("template") or {} for obj in (new, old))
    if now == was:
        return
    suspended = (old.get("spec") or {}).get("suspend")
    started = (old.get("status") or {}).get("startTime") is not None
    if suspended and (not started or "Suspended" in true_conditions(old)):
        pod, before = now.get("spec") or {}, _as_suspended(now, was)
        for kind in ("containers", "initContainers"):
            held, wanted = before.get(kind) or [], pod.get(kind) or []
            for container, other in zip(held, wanted, strict=False) if len(held) == len(wanted) else ():
                if container.get("name") == other.get("name"):
                    _take(container, other, "resources")
        if pod != before:
            faults.invalid("spec.template.spec", internal_pod_spec(pod), IMMUTABLE)
        return
    shown = {**(now.get("metadata") or {}), "Spec": internal_pod_spec(now.get("spec") or {})}
    faults.invalid("spec.template", shown, IMMUTABLE)


def _as_suspended(now: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """Return the old pod's spec with the new wishes of where it may run, which those who queue jobs fill in."""
    template: dict[str, Any] = now.get("spec") or {}
    held: dict[str, Any] = copy_json(was.get("spec") or {})
    for field in ("nodeSelector", "tolerations", "schedulingGates"):
        _take(held, template, field)
    affinity, wanted = dict(held.get("affinity") or {}), template.get("affinity")
    _take(affinity, wanted or {}, "nodeAffinity")
    if affinity or wanted is not None:
        held["affinity"] = affinity
    else:
        held.pop("affinity", None)
    return held


def _take(target: dict[str, Any], source: dict[str, Any], field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


def check_cron_job(obj: Object, faults: Faults) -> None:
    """Check a CronJob."""
    spec = obj.get("spec") or {}
    if not spec.get("schedule"):
        faults.required("spec.schedule")
    else:
        check_schedule(spec["schedule"], "spec.schedule", faults)
        if "TZ" in spec["schedule"]:
            text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            faults.invalid("spec.schedule", spec["schedule"], text)
    faults.not_negative("spec.startingDeadlineSeconds", spec.get("startingDeadlineSeconds"))
    if (zone := spec.get("timeZone")) is not None:
        _check_time_zone(zone, "spec.timeZone", faults)
    policy = spec.get("concurrencyPolicy")
    faults.one_of("spec.concurrencyPolicy", policy, ["Allow", "Forbid", "Replace"])
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    check_job_spec(job, "spec.jobTemplate.spec", faults, selector_required=False)
    if job.get("selector") is not None:
        faults.invalid("spec.jobTemplate.spec.selector", job["selector"], "`selector` will be auto-generated")
    if job.get("manualSelector"):
        faults.not_supported("spec.jobTemplate.spec.manualSelector", True, ["nil", "false"])
    for field in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        faults.not_negative(f"spec.{field}", spec.get(field))


def check_new_cron_job(obj: Object, faults: Faults) -> None:
    """Check a CronJob's name, which its jobs get with a suffix."""
    name = metadata_of(obj).get("name") or ""
    if len(name) > 52:
        faults.invalid("metadata.name", name, "must be no more than 52 characters")


def _check_time_zone(zone: str, path: str, faults: Faults) -> None:
    if not zone:
        faults.invalid(path, zone, "timeZone must be nil or non-empty string")
        return
    for part in zone.split("/"):
        if part in (".", "..") or part.startswith("-") or not _ZONE_PART.fullmatch(part):
            faults.invalid(path, zone, f"unknown time zone {zone}")
            return
    if zone.lower() == "local":
        text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        faults.invalid(path, zone, text)
    if zone not in ("UTC", "Local") and zone not in available_timezones():
        faults.invalid(path, zone, f"unknown time zone {zone}")
