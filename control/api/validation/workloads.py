"""Rules of the kinds that keep pods running: deployments, sets and disruption budgets."""

from __future__ import annotations

from typing import Any

from control.api import selectors
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.claims import check_claim_spec
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.internal import internal
from control.api.validation.metadata import check_annotations, check_labels, check_selector
from control.api.validation.podannotations import check_pod_annotations
from control.api.validation.pods import check_template

_STATEFUL_UPDATE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_EVICTION_POLICIES = ("AlwaysAllow", "IfHealthyBudget")
_STATEFUL_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def _check_selector(spec: dict[str, Any], kind: str, told: str, faults: Faults) -> bool:
    """Check a selector and that it chooses the template's labels; tell whether it can be read.

    ``told`` is said of one that cannot: its template is not looked at.
    """
    selector, path, before = spec.get("selector"), "spec.selector", len(faults.causes)
    if selector is None:
        faults.required(path)
    else:
        check_selector(selector, path, faults)
        if len(faults.causes) > before:
            faults.invalid(path, selector, told)
            return False
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            faults.invalid(path, selector, f"empty selector is invalid for {kind}")
    _check_labels_match(spec, faults)
    return True


def _check_labels_match(spec: dict[str, Any], faults: Faults) -> None:
    """Check that a selector chooses the template's labels; none at all chooses nothing, an empty one all."""
    labels = metadata_of(spec.get("template") or {}).get("labels")
    selector = spec.get("selector")
    if selector is None or not selector_matches(selector, labels or {}):
        faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")


def selector_matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Tell whether a selector chooses what has these labels; one that cannot be read is not asked."""
    try:
        return selectors.from_label_selector(selector).matches(labels)
    except KeyError:
        # An expression without key or operator is told of by the selector's own rules.
        return True


def _check_always_restarted(spec: dict[str, Any], kind: str, faults: Faults) -> None:
    pod = (spec.get("template") or {}).get("spec") or {}
    if pod.get("restartPolicy", "Always") != "Always":
        faults.not_supported("spec.template.spec.restartPolicy", pod["restartPolicy"], ["Always"])
    if pod.get("activeDeadlineSeconds") is not None:
        faults.forbidden(
            "spec.template.spec.activeDeadlineSeconds", f"activeDeadlineSeconds in {kind} is not Supported"
        )


def _percentage(value: Any) -> int | None:
    if isinstance(value, str) and not names.percent(value):
        return int(value[:-1])
    return None


def check_int_or_percent(value: Any, path: str, faults: Faults) -> None:
    """Check a number that may be given as a percentage."""
    if isinstance(value, str):
        faults.invalid_all(path, value, names.percent(value))
    elif value is not None:
        faults.not_negative(path, value)


def _check_at_most_all(value: Any, path: str, faults: Faults) -> None:
    found = _percentage(value)
    if found is not None and found > 100:
        faults.invalid(path, value, "must not be greater than 100%")


def _is_zero(value: Any) -> bool:
    """Tell whether a number or a percentage is nothing; so is one that is not there, or no percentage."""
    return not (_percentage(value) if isinstance(value, str) else value)


def check_deployment(obj: Object, faults: Faults) -> None:
    """Check a Deployment."""
    spec = obj.get("spec") or {}
    faults.not_negative("spec.replicas", spec.get("replicas"))
    _check_pods_of_sets(spec, faults)
    strategy = spec.get("strategy") or {}
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate" and rolling is not None:
        text = "may not be specified when strategy `type` is 'Recreate'"
        faults.forbidden("spec.strategy.rollingUpdate", text)
    elif kind == "RollingUpdate":
        if rolling is None:
            faults.required("spec.strategy.rollingUpdate", "this should be defaulted and never be nil")
        else:
            _check_rolling_deployment(rolling, "spec.strategy.rollingUpdate", faults)
    elif kind not in ("Recreate", "RollingUpdate"):
        faults.not_supported(
            "spec.strategy", internal("apps.v1.DeploymentStrategy", strategy), ["Recreate", "RollingUpdate"]
        )
    for field in ("minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        faults.not_negative(f"spec.{field}", spec.get(field))
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        faults.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _check_pods_of_sets(spec: dict[str, Any], faults: Faults) -> None:
    """Check the selector and the template of a deployment or a replica set, which Kubernetes tells of alike."""
    if _check_selector(spec, "deployment", "invalid label selector", faults):
        check_template(spec.get("template"), "spec.template", faults)
        _check_always_restarted(spec, "ReplicaSet", faults)


def _check_rolling_deployment(rolling: dict[str, Any], path: str, faults: Faults) -> None:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    check_int_or_percent(unavailable, f"{path}.maxUnavailable", faults)
    check_int_or_percent(surge, f"{path}.maxSurge", faults)
    if _is_zero(unavailable) and _is_zero(surge):
        faults.invalid(f"{path}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    _check_at_most_all(unavailable, f"{path}.maxUnavailable", faults)


def check_selector_unchanged(new: Object, old: Object, faults: Faults) -> None:
    """Check that spec.selector is what it was."""
    now, was = (obj.get("spec", {}).get("selector") for obj in (new, old))
    faults.unchanged("spec.selector", now, was)


def check_replica_set(obj: Object, faults: Faults) -> None:
    """Check a ReplicaSet."""
    spec = obj.get("spec") or {}
    faults.not_negative("spec.replicas", spec.get("replicas"))
    faults.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    _check_pods_of_sets(spec, faults)


def check_replication_controller(obj: Object, faults: Faults) -> None:
    """Check a ReplicationController."""
    spec = obj.get("spec") or {}
    faults.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    if not spec.get("selector"):
        faults.required("spec.selector")
    faults.not_negative("spec.replicas", spec.get("replicas"))
    if spec.get("template") is None:
        faults.required("spec.template")
        return
    labels = metadata_of(spec["template"]).get("labels")
    if not selectors.from_map(spec.get("selector")).matches(labels or {}):
        faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    check_template(spec["template"], "spec.template", faults)
    _check_always_restarted(spec, "ReplicationController", faults)


def check_daemon_set(obj: Object, faults: Faults) -> None:
    """Check a DaemonSet."""
    spec = obj.get("spec") or {}
    selector, before = spec.get("selector"), len(faults.causes)
    check_selector(selector, "spec.selector", faults)
    if len(faults.causes) == before:
        _check_labels_match(spec, faults)
    if selector is not None and not selector.get("matchLabels") and not selector.get("matchExpressions"):
        faults.invalid("spec.selector", selector, "empty selector is invalid for daemonset")
    check_template(spec.get("template"), "spec.template", faults)
    _check_always_restarted(spec, "DaemonSet", faults)
    faults.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    _check_daemon_strategy(spec.get("updateStrategy") or {}, faults)
    faults.not_negative("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit"))


def _check_daemon_strategy(strategy: dict[str, Any], faults: Faults) -> None:
    path = "spec.updateStrategy"
    if strategy.get("type") == "RollingUpdate":
        rolling = strategy.get("rollingUpdate")
        if rolling is None:
            faults.required(f"{path}.rollingUpdate")
            return
        unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
        both = (("maxUnavailable", unavailable), ("maxSurge", surge))
        for field, value in both:
            check_int_or_percent(value, f"{path}.rollingUpdate.{field}", faults)
        for field, value in both:
            _check_at_most_all(value, f"{path}.rollingUpdate.{field}", faults)
        if _is_zero(unavailable) and _is_zero(surge):
            faults.required(f"{path}.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0")
        elif not _is_zero(unavailable) and not _is_zero(surge):
            text = "may not be set when maxUnavailable is non-zero"
            faults.invalid(f"{path}.rollingUpdate.maxSurge", surge, text)
    elif strategy.get("type") != "OnDelete":
        shown = internal("apps.v1.DaemonSetUpdateStrategy", strategy)
        faults.not_supported(path, shown, ["RollingUpdate", "OnDelete"])


def check_stateful_set(obj: Object, faults: Faults) -> None:
    """Check a StatefulSet."""
    spec = obj.get("spec") or {}
    policy = spec.get("podManagementPolicy")
    if not policy:
        faults.required("spec.podManagementPolicy")
    elif policy not in ("OrderedReady", "Parallel"):
        faults.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    _check_stateful_strategy(spec.get("updateStrategy") or {}, faults)
    if (retention := spec.get("persistentVolumeClaimRetentionPolicy")) is not None:
        for field in ("whenDeleted", "whenScaled"):
            if (kept := retention.get(field, "Retain")) not in ("Retain", "Delete"):
                here = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
                faults.not_supported(here, kept, ["Retain", "Delete"])
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        check_claim_spec(claim.get("spec") or {}, f"spec.volumeClaimTemplates[{index}].spec", faults)
    for field in ("replicas", "minReadySeconds"):
        faults.not_negative(f"spec.{field}", spec.get(field))
    if (ordinals := spec.get("ordinals")) is not None:
        faults.not_negative("spec.ordinals.start", ordinals.get("start"))
    if name := spec.get("serviceName"):
        faults.invalid_all("spec.serviceName", name, names.dns_label(name))
    if _check_selector(spec, "statefulset", "", faults):
        template, path = _as_pods_get_it(spec), "spec.template"
        check_template(template, path, faults)
        # Kubernetes looks at these twice.
        metadata = metadata_of(template)
        check_labels(metadata.get("labels"), f"{path}.labels", faults)
        if annotations := metadata.get("annotations"):
            check_annotations(annotations, f"{path}.annotations", faults)
            check_pod_annotations(annotations, template.get("spec") or {}, f"{path}.annotations", faults)
    _check_always_restarted(spec, "StatefulSet", faults)


def _as_pods_get_it(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a set's template with the volumes of its claims, without the names that each pod gets anew."""
    template = spec.get("template") or {}
    pod, claims = template.get("spec") or {}, spec.get("volumeClaimTemplates") or ()
    if not claims and not pod.get("subdomain") and not pod.get("hostname"):
        return template
    pod = {field: value for field, value in pod.items() if field not in ("subdomain", "hostname")}
    if claims:
        named = {name: {"claimName": name} for name in (metadata_of(claim).get("name") or "" for claim in claims)}
        made = [{"name": name, "persistentVolumeClaim": claim} for name, claim in named.items()]
        pod["volumes"] = made + [volume for volume in pod.get("volumes") or () if volume.get("name") not in named]
    return {**template, "spec": pod}


def _check_stateful_strategy(strategy: dict[str, Any], faults: Faults) -> None:
    kind, rolling, path = strategy.get("type"), strategy.get("rollingUpdate"), "spec.updateStrategy"
    if not kind:
        faults.required(path)
    elif kind == "OnDelete" and rolling is not None:
        shown = {"Partition": rolling.get("partition") or 0, "MaxUnavailable": rolling.get("maxUnavailable")}
        faults.invalid(f"{path}.rollingUpdate", shown, "only allowed for updateStrategy 'RollingUpdate'")
    elif kind == "RollingUpdate" and rolling is not None:
        path += ".rollingUpdate"
        faults.not_negative(f"{path}.partition", rolling.get("partition"))
        unavailable = rolling.get("maxUnavailable")
        check_int_or_percent(unavailable, f"{path}.maxUnavailable", faults)
        if unavailable is not None and _is_zero(unavailable):
            faults.invalid(f"{path}.maxUnavailable", unavailable, "cannot be 0")
        _check_at_most_all(unavailable, f"{path}.maxUnavailable", faults)
    elif kind not in ("OnDelete", "RollingUpdate"):
        shown = internal("apps.v1.StatefulSetUpdateStrategy", strategy)
        faults.invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'")


def check_stateful_set_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that only what may change of a StatefulSet changes."""
    now, was = new.get("spec") or {}, old.get("spec") or {}
    fixed = {*now, *was} - set(_STATEFUL_MUTABLE)
    if any(now.get(field) != was.get(field) for field in fixed):
        faults.forbidden("spec", _STATEFUL_UPDATE)


def check_disruption_budget(obj: Object, faults: Faults) -> None:
    """Check a PodDisruptionBudget."""
    spec = obj.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        shown = internal("policy.v1.PodDisruptionBudgetSpec", spec)
        faults.invalid("spec", shown, "minAvailable and maxUnavailable cannot be both set")
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        check_int_or_percent(value, f"spec.{field}", faults)
        _check_at_most_all(value, f"spec.{field}", faults)
    check_selector(spec.get("selector"), "spec.selector", faults)
    if (policy := spec.get("unhealthyPodEvictionPolicy")) is not None and policy not in _EVICTION_POLICIES:
        faults.not_supported("spec.unhealthyPodEvictionPolicy", policy, _EVICTION_POLICIES)


def check_pod_template(obj: Object, faults: Faults) -> None:
    """Check a PodTemplate."""
    check_template(obj.get("template"), "template", faults)


def check_controller_revision(obj: Object, faults: Faults) -> None:
    """Check a ControllerRevision."""
    faults.not_negative("revision", obj.get("revision"))


def check_new_controller_revision(obj: Object, faults: Faults) -> None:
    """Check that a new ControllerRevision holds an object."""
    if obj.get("data") is None:
        faults.required("data", "data is mandatory")
    elif not isinstance(obj["data"], dict):
        faults.required("data", "data must be a valid JSON object")


def check_controller_revision_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a revision's data stays."""
    faults.unchanged("data", new.get("data"), old.get("data"))


def check_new_stateful_set(obj: Object, faults: Faults) -> None:
    """Check that pods can be named after a new StatefulSet."""
    name = metadata_of(obj).get("name") or ""
    if not names.dns_subdomain(name):
        faults.invalid_all("metadata.name", name, names.dns_label(name))
