"""Rows of the kinds that run pods."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from control.api import times
from control.api.meta import Object, controller_of
from control.api.printers.column import (
    NONE,
    SELECTOR,
    TEMPLATE,
    UNKNOWN,
    UNSET,
    Column,
    Printer,
    age,
    columns,
    container_cells,
    field,
    has_condition,
    labels_text,
    name,
    number,
    selector_text,
)


def _template(obj: Object) -> list[str]:
    return container_cells(field(obj, "spec", "template", "spec"))


def _with_selector(obj: Object) -> list[str]:
    return [*_template(obj), selector_text(field(obj, "spec", "selector"))]


def _deployment(obj: Object, now: datetime) -> list[Any]:
    ready = f"{number(obj, 'status', 'readyReplicas')}/{number(obj, 'spec', 'replicas')}"
    counts = [number(obj, "status", "updatedReplicas"), number(obj, "status", "availableReplicas")]
    return [name(obj), ready, *counts, age(obj, now), *_with_selector(obj)]


def _replica_counts(obj: Object) -> list[int]:
    return [
        number(obj, "spec", "replicas"),
        number(obj, "status", "replicas"),
        number(obj, "status", "readyReplicas"),
    ]


def _replica_set(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), *_replica_counts(obj), age(obj, now), *_with_selector(obj)]


def _replication_controller(obj: Object, now: datetime) -> list[Any]:
    cells = [*_template(obj), labels_text(field(obj, "spec", "selector"))]
    return [name(obj), *_replica_counts(obj), age(obj, now), *cells]


def _daemon_set(obj: Object, now: datetime) -> list[Any]:
    fields = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    counts = [number(obj, "status", counted) for counted in fields]
    nodes = labels_text(field(obj, "spec", "template", "spec", "nodeSelector"))
    return [name(obj), *counts, nodes, age(obj, now), *_with_selector(obj)]


def _stateful_set(obj: Object, now: datetime) -> list[Any]:
    ready = f"{number(obj, 'status', 'readyReplicas')}/{number(obj, 'spec', 'replicas')}"
    return [name(obj), ready, age(obj, now), *_template(obj)]


_JOB_STATES = (
    ("Complete", "Complete"),
    ("Failed", "Failed"),
    ("", "Terminating"),
    ("Suspended", "Suspended"),
    ("FailureTarget", "FailureTarget"),
    ("SuccessCriteriaMet", "SuccessCriteriaMet"),
)


def _job_status(obj: Object) -> str:
    for condition, text in _JOB_STATES:
        found = has_condition(obj, condition) if condition else field(obj, "metadata", "deletionTimestamp")
        if found:
            return text
    return "Running"


def _job_completions(obj: Object) -> str:
    succeeded, completions = number(obj, "status", "succeeded"), field(obj, "spec", "completions")
    if completions is not None:
        return f"{succeeded}/{completions}"
    parallelism = number(obj, "spec", "parallelism")
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(obj: Object, now: datetime) -> str:
    started, completed = field(obj, "status", "startTime"), field(obj, "status", "completionTime")
    if not started:
        return ""
    failed = [c for c in field(obj, "status", "conditions") or [] if c.get("type") == "Failed"]
    if not completed and failed and failed[0].get("status") == "True":
        completed = failed[0].get("lastTransitionTime")
    end = times.parse_time(completed) if completed else now
    return times.human_duration((end - times.parse_time(started)).total_seconds())


def _job(obj: Object, now: datetime) -> list[Any]:
    duration = _job_duration(obj, now)
    return [name(obj), _job_status(obj), _job_completions(obj), duration, age(obj, now), *_with_selector(obj)]


def _cron_job(obj: Object, now: datetime) -> list[Any]:
    last = field(obj, "status", "lastScheduleTime")
    suspend = field(obj, "spec", "suspend")
    job = field(obj, "spec", "jobTemplate")
    return [
        name(obj),
        field(obj, "spec", "schedule") or "",
        field(obj, "spec", "timeZone") or NONE,
        UNSET if suspend is None else str(suspend),
        len(field(obj, "status", "active") or []),
        times.age(last, now) if last else NONE,
        age(obj, now),
        *_template(job or {}),
        selector_text(field(job, "spec", "selector")),
    ]


def _controller_revision(obj: Object, now: datetime) -> list[Any]:
    owner = controller_of(obj)
    group = str(owner.get("apiVersion", "")).rpartition("/")[0] if owner else ""
    kind = f"{str(owner['kind']).lower()}.{group}" if owner and group else str((owner or {}).get("kind", "")).lower()
    controller = f"{kind}/{owner['name']}" if owner else NONE
    return [name(obj), controller, obj.get("revision") or 0, age(obj, now)]


def _pod_template(obj: Object, now: datetime) -> list[Any]:
    template = obj.get("template") or {}
    return [name(obj), *container_cells(template.get("spec")), labels_text(field(template, "metadata", "labels"))]


def _disruption_budget(obj: Object, now: datetime) -> list[Any]:
    limits = [field(obj, "spec", limit) for limit in ("minAvailable", "maxUnavailable")]
    texts = ["N/A" if limit is None else str(limit) for limit in limits]
    return [name(obj), *texts, number(obj, "status", "disruptionsAllowed"), age(obj, now)]


def _current(status: dict[str, Any] | None, target: dict[str, Any]) -> str:
    current = (status or {}).get("current") or {}
    if target.get("averageUtilization") is not None:
        found = current.get("averageUtilization")
        return f"{UNKNOWN if found is None else f'{found}%'}/{target['averageUtilization']}%"
    key = "averageValue" if target.get("averageValue") is not None else "value"
    suffix = " (avg)" if key == "averageValue" else ""
    return f"{current.get(key) or UNKNOWN}/{target.get(key, '<auto>')}{suffix}"


def _metrics(obj: Object) -> str:
    specs, statuses = field(obj, "spec", "metrics") or [], field(obj, "status", "currentMetrics") or []
    texts = []
    for index, spec in enumerate(specs):
        kind = str(spec.get("type", ""))
        source = kind[:1].lower() + kind[1:]
        status = statuses[index].get(source) if index < len(statuses) else None
        target = field(spec, source, "target") or {}
        text = _current(status, target)
        if kind in ("Resource", "ContainerResource"):
            text = f"{spec[source].get('name')}: {text.removesuffix(' (avg)')}"
        elif kind == "Pods":
            text = text.removesuffix(" (avg)")
        texts.append(text)
    if not texts:
        return NONE
    shown = ", ".join(texts[:2])
    return f"{shown} + {len(texts) - 2} more..." if len(texts) > 2 else shown


def _autoscaler(obj: Object, now: datetime) -> list[Any]:
    target = field(obj, "spec", "scaleTargetRef") or {}
    least = field(obj, "spec", "minReplicas")
    counts = [number(obj, "spec", "maxReplicas"), number(obj, "status", "currentReplicas")]
    least_text = UNSET if least is None else str(least)
    return [name(obj), f"{target.get('kind')}/{target.get('name')}", _metrics(obj), least_text, *counts, age(obj, now)]


def _autoscaler_v1(obj: Object, now: datetime) -> list[Any]:
    wanted = field(obj, "spec", "targetCPUUtilizationPercentage")
    found = field(obj, "status", "currentCPUUtilizationPercentage")
    cells = _autoscaler(obj, now)
    cells[2] = NONE if wanted is None else f"cpu: {UNKNOWN if found is None else f'{found}%'}/{wanted}%"
    return cells


def _scale(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), number(obj, "spec", "replicas"), number(obj, "status", "replicas"), age(obj, now)]


_REPLICAS = columns("integer:Desired", "integer:Current", "integer:Ready", "Age", *TEMPLATE, SELECTOR)
_HPA = columns("Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age")
SCALE = Printer((Column("Name"), *columns("integer:Desired", "integer:Available", "Age")[1:]), _scale)
PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "replicationcontrollers"): Printer(_REPLICAS, _replication_controller),
    ("", "podtemplates"): Printer(columns("Containers", "Images", "Pod Labels"), _pod_template),
    ("apps", "deployments"): Printer(
        columns("Ready", "Up-to-date", "Available", "Age", *TEMPLATE, SELECTOR), _deployment
    ),
    ("apps", "replicasets"): Printer(_REPLICAS, _replica_set),
    ("apps", "statefulsets"): Printer(columns("Ready", "Age", *TEMPLATE), _stateful_set),
    ("apps", "daemonsets"): Printer(
        columns(
            "integer:Desired",
            "integer:Current",
            "integer:Ready",
            "integer:Up-to-date",
            "integer:Available",
            "Node Selector",
            "Age",
            *TEMPLATE,
            SELECTOR,
        ),
        _daemon_set,
    ),
    ("apps", "controllerrevisions"): Printer(columns("Controller", "Revision", "Age"), _controller_revision),
    ("batch", "jobs"): Printer(columns("Status", "Completions", "Duration", "Age", *TEMPLATE, SELECTOR), _job),
    ("batch", "cronjobs"): Printer(
        columns("Schedule", "Timezone", "Suspend", "integer:Active", "Last Schedule", "Age", *TEMPLATE, SELECTOR),
        _cron_job,
    ),
    ("policy", "poddisruptionbudgets"): Printer(
        columns("Min Available", "Max Unavailable", "integer:Allowed Disruptions", "Age"), _disruption_budget
    ),
    ("autoscaling", "horizontalpodautoscalers"): Printer(_HPA, _autoscaler),
}
AUTOSCALER_V1 = Printer(_HPA, _autoscaler_v1)
