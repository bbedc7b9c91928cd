"""Rules of a job's status: what ended stays so, and what is counted fits what is told."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.times import parse_time
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.indexes import IndexesError, count_indexes, first_shared
from control.api.validation.internal import internal
from control.api.validation.statuses import check_terminal_conditions, true_conditions

_CONDITIONS = "status.conditions"


def check_job_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a Job."""
    spec, status = new.get("spec") or {}, new.get("status") or {}
    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        faults.not_negative(f"status.{field}", status.get(field))
    _check_uncounted(status.get("uncountedTerminatedPods") or {}, faults)
    conditions = true_conditions(new)
    _check_ends(spec, status, conditions, faults)
    _check_indexes(spec, status, faults)
    if conditions & {"Complete", "Failed"} and (terminating := status.get("terminating")):
        faults.invalid("status.terminating", terminating, "terminating>0 is invalid for finished job")
    if (ready := status.get("ready") or 0) > (status.get("active") or 0):
        faults.invalid("status.ready", ready, "cannot set more ready pods than active")
    _check_success(spec, conditions, faults)
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


def _check_ends(spec: dict[str, Any], status: dict[str, Any], held: set[str], faults: Faults) -> None:
    """Check that a job ended in one way, and at a time."""
    for other, shown_as in (("Failed", "Failed=true"), ("FailureTarget", "FailureTarget=true")):
        if "Complete" in held and other in held:
            faults.wrong(_CONDITIONS, f"cannot set Complete=True and {shown_as} conditions")
    started, completed, path = status.get("startTime"), status.get("completionTime"), "status.completionTime"
    if completed and "Complete" not in held:
        faults.invalid(path, completed, "cannot set completionTime when there is no Complete=True condition")
    if not completed and "Complete" in held:
        faults.required(path, "completionTime is required for Complete jobs")
    if started and completed and parse_time(completed) < parse_time(started):
        faults.invalid(path, completed, "must be equal to or after `startTime`")
    if "Failed" in held and "FailureTarget" not in held:
        faults.wrong(_CONDITIONS, "cannot set Failed=True condition without the FailureTarget=true condition")
    if "Complete" in held and "SuccessCriteriaMet" not in held:
        faults.wrong(_CONDITIONS, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
    if held & {"Complete", "Failed"}:
        _check_finished(spec, status, faults)


def _check_finished(spec: dict[str, Any], status: dict[str, Any], faults: Faults) -> None:
    if active := status.get("active"):
        faults.invalid("status.active", active, "active>0 is invalid for finished job")
    if not status.get("startTime") and not (spec.get("suspend") and spec.get("completions") == 0):
        faults.required("status.startTime", "startTime is required for finished job")
    uncounted = status.get("uncountedTerminatedPods") or {}
    if uncounted.get("failed") or uncounted.get("succeeded"):
        shown = internal("batch.v1.UncountedTerminatedPods", uncounted)
        faults.invalid("status.uncountedTerminatedPods", shown, "must be empty for finished job")


def _check_success(spec: dict[str, Any], held: set[str], faults: Faults) -> None:
    for other in ("Failed", "FailureTarget"):
        if "SuccessCriteriaMet" in held and other in held:
            faults.wrong(_CONDITIONS, f"cannot set SuccessCriteriaMet=True and {other}=true conditions")
    if spec.get("successPolicy") is not None and "Complete" in held and "SuccessCriteriaMet" not in held:
        text = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"
        faults.wrong(_CONDITIONS, text)


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
    spec = new.get("spec") or {}
    if (now.get("failed") or 0) < (was.get("failed") or 0):
        faults.invalid("status.failed", now.get("failed") or 0, "cannot decrease the failed counter")
    # An indexed job whose completions go with its parallelism may be made smaller.
    elastic = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    if (now.get("succeeded") or 0) < (was.get("succeeded") or 0) and not elastic:
        faults.invalid("status.succeeded", now.get("succeeded") or 0, "cannot decrease the succeeded counter")
    ends = [status.get("completionTime") for status in (now, was)]
    if all(ends) and ends[0] != ends[1]:
        faults.invalid("status.completionTime", ends[0], IMMUTABLE)
    if was.get("startTime") and now.get("startTime") != was["startTime"] and not spec.get("suspend"):
        faults.invalid("status.startTime", now.get("startTime"), "field is immutable for unsuspended job once set")
    held, before = true_conditions(new), true_conditions(old)
    if "SuccessCriteriaMet" in before - held:
        faults.wrong(_CONDITIONS, "cannot disable the SuccessCriteriaMet=True condition")
    if "Complete" in before and "SuccessCriteriaMet" in held - before:
        text = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"
        faults.wrong(_CONDITIONS, text)
