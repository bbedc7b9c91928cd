"""Rules of a job's status: what ended stays so, and what is counted fits what is told."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.times import parse_time
from control.api.validation.faults import Faults
from control.api.validation.indexes import IndexesError, count_indexes, first_shared
from control.api.validation.statuses import check_terminal_conditions, true_conditions


def check_job_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a Job."""
    spec, status = new.get("spec") or {}, new.get("status") or {}
    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        faults.not_negative(f"status.{field}", status.get(field))
    _check_uncounted(status.get("uncountedTerminatedPods") or {}, faults)
    conditions = true_conditions(new)
    _check_conditions(spec, conditions, faults)
    _check_times(status, "Complete" in conditions, faults)
    if conditions & {"Complete", "Failed"}:
        _check_finished(status, faults)
    if (ready := status.get("ready") or 0) > (status.get("active") or 0):
        faults.invalid("status.ready", ready, "cannot set more ready pods than active")
    _check_indexes(spec, status, faults)
    _check_progress(new, old, faults)


def _check_uncounted(uncounted: dict[str, Any], faults: Faults) -> None:
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(uncounted.get(field) or []):
            here = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                faults.invalid(here, uid, "must not be empty")
            elif uid in seen:
                faults.duplicate(here, uid)
            seen.add(uid)


def _check_conditions(spec: dict[str, Any], held: set[str], faults: Faults) -> None:
    path = "status.conditions"
    for one, other, shown_as in (
        ("Complete", "Failed", "Complete=True and Failed=true"),
        ("Complete", "FailureTarget", "Complete=True and FailureTarget=true"),
        ("SuccessCriteriaMet", "Failed", "SuccessCriteriaMet=True and Failed=true"),
        ("SuccessCriteriaMet", "FailureTarget", "SuccessCriteriaMet=True and FailureTarget=true"),
    ):
        if one in held and other in held:
            faults.wrong(path, f"cannot set {shown_as} conditions")
    if "Failed" in held and "FailureTarget" not in held:
        faults.wrong(path, "cannot set Failed=True condition without the FailureTarget=true condition")
    if "Complete" in held and "SuccessCriteriaMet" not in held:
        faults.wrong(path, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")


def _check_times(status: dict[str, Any], is_complete: bool, faults: Faults) -> None:
    started, completed = status.get("startTime"), status.get("completionTime")
    path = "status.completionTime"
    if completed and not is_complete:
        text = "cannot set completionTime when there is no Complete=True condition"
        faults.invalid(path, completed, text)
    if not completed and is_complete:
        faults.required(path, "completionTime is required for Complete jobs")
    if started and completed and parse_time(completed) < parse_time(started):
        faults.invalid(path, completed, "completionTime cannot be set before startTime")


def _check_finished(status: dict[str, Any], faults: Faults) -> None:
    for field in ("active", "terminating"):
        if status.get(field):
            faults.invalid(f"status.{field}", status[field], f"{field}>0 is invalid for finished job")
    if not status.get("startTime"):
        faults.required("status.startTime", "startTime is required for finished job")
    uncounted = status.get("uncountedTerminatedPods") or {}
    if uncounted.get("failed") or uncounted.get("succeeded"):
        text = "uncountedTerminatedPods needs to be empty for finished job"
        faults.invalid("status.uncountedTerminatedPods", uncounted, text)


def _check_indexes(spec: dict[str, Any], status: dict[str, Any], faults: Faults) -> None:
    completions = spec.get("completions")
    completed, failed = status.get("completedIndexes") or "", status.get("failedIndexes")
    wanted = [("completedIndexes", completed)]
    if failed is not None and spec.get("backoffLimitPerIndex") is not None:
        wanted.append(("failedIndexes", failed))
    for field, text in wanted:
        if completions is not None:
            try:
                count_indexes(text, completions)
            except IndexesError as error:
                faults.invalid(f"status.{field}", text, f"error parsing {field}: {error}")
    if completed and spec.get("completionMode") != "Indexed":
        text = "cannot set non-empty completedIndexes when non-indexed completion mode"
        faults.invalid("status.completedIndexes", completed, text)
    if failed is not None and spec.get("backoffLimitPerIndex") is None:
        text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        faults.invalid("status.failedIndexes", failed, text)
    if completions is not None and failed and (shared := first_shared(completed, failed, completions)) is not None:
        text = f"failedIndexes and completedIndexes overlap at index: {shared}"
        faults.invalid("status.failedIndexes", failed, text)


def _check_progress(new: Object, old: Object, faults: Faults) -> None:
    now, was = new.get("status") or {}, old.get("status") or {}
    check_terminal_conditions(new, old, faults)
    indexed = (new.get("spec") or {}).get("completionMode") == "Indexed"
    if (now.get("failed") or 0) < (was.get("failed") or 0):
        faults.invalid("status.failed", now.get("failed") or 0, "cannot decrease the failed counter")
    if (now.get("succeeded") or 0) < (was.get("succeeded") or 0) and not indexed:
        faults.invalid("status.succeeded", now.get("succeeded") or 0, "cannot decrease the succeeded counter")
    ends = [status.get("completionTime") for status in (now, was)]
    if all(ends) and ends[0] != ends[1]:
        faults.invalid("status.completionTime", ends[0], "completionTime cannot be mutated")
    suspended = (new.get("spec") or {}).get("suspend")
    if was.get("startTime") and now.get("startTime") != was["startTime"] and not suspended:
        faults.required("status.startTime", "startTime cannot be removed for unsuspended job")
    if "SuccessCriteriaMet" in true_conditions(old) - true_conditions(new):
        faults.wrong("status.conditions", "cannot disable the SuccessCriteriaMet=True condition")
