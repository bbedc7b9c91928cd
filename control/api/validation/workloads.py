"""Rules of the kinds that keep pods running: deployments, sets and disruption budgets."""

from __future__ import annotations

from typing import Any

from control.api import selectors
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.claims import check_claim_spec
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.metadata import check_selector
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


def _check_selector_and_template(spec: dict[str, Any], kind: str, faults: Faults) -> None:
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is None:
        faults.required("spec.selector")
    else:
        check_selector(selector, "spec.selector", faults)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            faults.invalid("spec.selector", selector, f"empty selector is invalid for {kind}")
        elif not faults.has("spec.selector") and not selector_matches(selector, labels):
            faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    claims = spec.get("volumeClaimTemplates") or []
    names_of_claims = frozenset((claim.get("metadata") or {}).get("name") or "" for claim in claims)
    check_template(template, "spec.template", faults, names_of_claims)


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
    return value == 0 or _percentage(value) == 0


def check_deployment(obj: Object, faults: Faults) -> None:
    """Check a Deployment."""
    spec = obj.get("spec") or {}
    faults.not_negative("spec.replicas", spec.get("replicas"))
    _check_selector_and_template(spec, "deployment", faults)
    _check_always_restarted(spec, "ReplicaSet", faults)  # a deployment's template is checked as its sets' own
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
        faults.not_supported("spec.strategy", strategy, ["Recreate", "RollingUpdate"])
    for field in ("minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        faults.not_negative(f"spec.{field}", spec.get(field))
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        faults.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


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
    if spec.get("template") is None:
        faults.required("spec.template")
        return
    _check_selector_and_template(spec, "deployment", faults)  # the word that Kubernetes tells of both
    _check_always_restarted(spec, "ReplicaSet", faults)


def check_replication_controller(obj: Object, faults: Faults) -> None:
    """Check a ReplicationController."""
    spec = obj.get("spec") or {}
    faults.not_negative("spec.replicas", spec.get("replicas"))
    faults.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    if not spec.get("selector"):
        faults.required("spec.selector")
    if spec.get("template") is None:
        faults.required("spec.template")
        return
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not selectors.from_map(spec.get("selector")).matches(labels):
        faults.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    check_template(spec["template"], "spec.template", faults)
    _check_always_restarted(spec, "ReplicationController", faults)


def check_daemon_set(obj: Object, faults: Faults) -> None:
    """Check a DaemonSet."""
    spec = obj.get("spec") or {}
    _check_selector_and_template(spec, "daemonset", faults)
    _check_always_restarted(spec, "DaemonSet", faults)
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        faults.not_negative(f"spec.{field}", spec.get(field))
    strategy = spec.get("updateStrategy") or {}
    path = "spec.updateStrategy"
    if strategy.get("type") == "RollingUpdate":
        rolling = strategy.get("rollingUpdate")
        if rolling is None:
            faults.required(f"{path}.rollingUpdate")
            return
        unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
        for field, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
            check_int_or_percent(value, f"{path}.rollingUpdate.{field}", faults)
            _check_at_most_all(value, f"{path}.rollingUpdate.{field}", faults)
        if _is_zero(unavailable) and _is_zero(surge):
            faults.required(f"{path}.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0")
        if not _is_zero(unavailable) and not _is_zero(surge) and surge is not None:
            text = "may not be set when maxUnavailable is non-zero"
            faults.invalid(f"{path}.rollingUpdate.maxSurge", surge, text)
    elif strategy.get("type") != "OnDelete":
        faults.not_supported(path, strategy, ["RollingUpdate", "OnDelete"])


def check_stateful_set(obj: Object, faults: Faults) -> None:
    """Check a StatefulSet."""
    spec = obj.get("spec") or {}
    policy = spec.get("podManagementPolicy")
    if not policy:
        faults.required("spec.podManagementPolicy")
    elif policy not in ("OrderedReady", "Parallel"):
        faults.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    strategy = spec.get("updateStrategy") or {}
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if not kind:
        faults.required("spec.updateStrategy")
    elif kind == "OnDelete" and rolling is not None:
        text = "only allowed for updateStrategy 'RollingUpdate'"
        faults.invalid("spec.updateStrategy.rollingUpdate", rolling, text)
    elif kind == "RollingUpdate" and rolling is not None:
        faults.not_negative("spec.updateStrategy.rollingUpdate.partition", rolling.get("partition"))
        unavailable = rolling.get("maxUnavailable")
        check_int_or_percent(unavailable, "spec.updateStrategy.rollingUpdate.maxUnavailable", faults)
        if unavailable is not None and _is_zero(unavailable):
            faults.invalid("spec.updateStrategy.rollingUpdate.maxUnavailable", unavailable, "cannot be 0")
        _check_at_most_all(unavailable, "spec.updateStrategy.rollingUpdate.maxUnavailable", faults)
    elif kind not in ("OnDelete", "RollingUpdate"):
        faults.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'")
    for field in ("whenDeleted", "whenScaled"):
        retention = (spec.get("persistentVolumeClaimRetentionPolicy") or {}).get(field, "Retain")
        if retention not in ("Retain", "Delete"):
            here = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
            faults.not_supported(here, retention, ["Retain", "Delete"])
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        faults.not_negative(f"spec.{field}", spec.get(field))
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        check_claim_spec(claim.get("spec") or {}, f"spec.volumeClaimTemplates[{index}].spec", faults)
    if (ordinals := spec.get("ordinals")) is not None:
        faults.not_negative("spec.ordinals.start", ordinals.get("start"))
    _check_selector_and_template(spec, "statefulset", faults)
    _check_always_restarted(spec, "StatefulSet", faults)


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
        faults.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
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
    if obj.get("data") is None:
        faults.required("data", "data is mandatory")


def check_controller_revision_update(new: Object, old: Object, faults: Faults) -> None:
    """Check that a revision's data stays."""
    faults.unchanged("data", new.get("data"), old.get("data"))


def check_new_stateful_set(obj: Object, faults: Faults) -> None:
    """Check that pods can be named after a new StatefulSet."""
    name = metadata_of(obj).get("name") or ""
    if not names.dns_subdomain(name):
        faults.invalid_all("metadata.name", name, names.dns_label(name))
