"""PodSecurity: a namespace's labels say which of the Pod Security Standards its pods are held to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from control.api import pod_security
from control.api.meta import Object
from control.api.resources import (
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    Resource,
)
from control.apiserver.admission.plugin import Plugin, denied, spec_of
from control.apiserver.request import AdmissionRequest, Lookup, annotate

PREFIX = "pod-security.kubernetes.io/"
MODES = ("enforce", "audit", "warn")
VERSION = re.compile(r"latest|v1\.\d+")
_TEMPLATES: dict[Resource, tuple[str, ...]] = {
    **dict.fromkeys((DEPLOYMENTS, DAEMON_SETS, JOBS, REPLICA_SETS, STATEFUL_SETS), ("template",)),
    CRON_JOBS: ("jobTemplate", "spec", "template"),
}
_NOT_JUDGED_AGAIN = ("metadata", "status")


@dataclass(frozen=True, slots=True)
class Policy:
    """One mode of a namespace: enforce, audit or warn."""

    level: str = "privileged"
    version: str = "latest"

    def __str__(self) -> str:
        """Return level:version."""
        return f"{self.level}:{self.version}"


@dataclass(frozen=True, slots=True)
class Standards:
    """What holds where a namespace says nothing, and who is held to nothing."""

    defaults: tuple[tuple[str, Policy], ...] = tuple((mode, Policy()) for mode in MODES)
    usernames: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    runtime_classes: frozenset[str] = frozenset()

    @property
    def are_open(self) -> bool:
        """Whether namespaces that say nothing are held to nothing."""
        return all(policy.level == "privileged" for _, policy in self.defaults)

    def exempts(self, request: AdmissionRequest) -> str:
        """Return why a request is held to nothing, empty where it is not."""
        if request.namespace in self.namespaces:
            return "namespace"
        return "user" if request.user.name in self.usernames else ""

    def policy_of(self, labels: dict[str, str], mode: str) -> Policy:
        """Read a namespace's labels; a level that there is not counts as restricted, as Kubernetes does it."""
        default = dict(self.defaults)[mode]
        level = labels.get(PREFIX + mode)
        wanted = default.level if level is None else level
        known = wanted if wanted in pod_security.LEVELS else "restricted"
        version = labels.get(f"{PREFIX}{mode}-version", default.version if level is None else "latest")
        return Policy(known, version if VERSION.fullmatch(version) else "latest")


def label_faults(labels: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (label, value, what is wrong) for each label of a namespace that means nothing."""
    found = []
    for mode in MODES:
        if (level := labels.get(PREFIX + mode)) is not None and level not in pod_security.LEVELS:
            found.append((PREFIX + mode, level, f"must be one of {', '.join(pod_security.LEVELS)}"))
        name = f"{PREFIX}{mode}-version"
        if (version := labels.get(name)) is not None and not VERSION.fullmatch(version):
            found.append((name, version, 'must be "latest" or "v1.x"'))
    return found


class PodSecurity(Plugin):
    """Refuses pods that break the enforced level; warns of those, and of templates, that break the warned one."""

    about = (NAMESPACES, PODS, *_TEMPLATES)

    def __init__(self, lookup: Lookup, standards: Standards | None = None) -> None:
        self._lookup = lookup
        self._standards = standards or Standards()

    async def validate(self, request: AdmissionRequest) -> None:
        """Judge a pod, a template or a namespace's labels."""
        if request.resource == NAMESPACES and request.operation in ("CREATE", "UPDATE") and not request.subresource:
            await self._namespace(request)
            return
        if request.object is None or not request.namespace or request.operation not in ("CREATE", "UPDATE"):
            return
        template = self._template(request)
        if template is None:
            return
        standards = self._standards
        metadata, spec = template
        exempt = standards.exempts(request)
        if not exempt and spec.get("runtimeClassName") in standards.runtime_classes:
            exempt = "runtimeClass"
        if exempt:
            annotate(f"{PREFIX}exempt", exempt)
            return
        space = self._lookup.get(NAMESPACES, request.namespace) or {}
        labels: dict[str, str] = (space.get("metadata") or {}).get("labels") or {}
        enforced = standards.policy_of(labels, "enforce")
        if request.resource == PODS:
            annotate(f"{PREFIX}enforce-policy", str(enforced))
        if standards.are_open and not any(name.startswith(PREFIX) for name in labels):
            return
        audited = standards.policy_of(labels, "audit")
        if found := pod_security.faults(metadata, spec, audited.level):
            annotate(f"{PREFIX}audit-violations", f'would violate PodSecurity "{audited}": {pod_security.text(found)}')
        if request.resource == PODS and (found := pod_security.faults(metadata, spec, enforced.level)):
            raise denied(request, f'violates PodSecurity "{enforced}": {pod_security.text(found)}')
        warned = standards.policy_of(labels, "warn")
        if found := pod_security.faults(metadata, spec, warned.level):
            request.warnings.append(f'would violate PodSecurity "{warned}": {pod_security.text(found)}')

    @staticmethod
    def _template(request: AdmissionRequest) -> tuple[Object, Object] | None:
        """Return metadata and spec of the pod that a request means; None where there is nothing new to judge."""
        assert request.object is not None
        if request.resource == PODS:
            if request.subresource not in ("", "ephemeralcontainers"):
                return None
            if request.old_object is not None and not _judged_anew(request.old_object, request.object):
                return None
            return request.object["metadata"], spec_of(request.object)
        path = _TEMPLATES.get(request.resource)
        if path is None or request.subresource:
            return None
        found: Any = spec_of(request.object)
        for step in path:
            found = (found or {}).get(step)
        return ((found or {}).get("metadata") or {}), ((found or {}).get("spec") or {})

    async def _namespace(self, request: AdmissionRequest) -> None:
        labels: dict[str, str] = ((request.object or {}).get("metadata") or {}).get("labels") or {}
        before: dict[str, str] = ((request.old_object or {}).get("metadata") or {}).get("labels") or {}
        if faults := [fault for fault in label_faults(labels) if before.get(fault[0]) != fault[1]]:
            told = "; ".join(
                f'metadata.labels[{name}]: Invalid value: "{value}": {text}' for name, value, text in faults
            )
            raise denied(request, told)
        enforced = self._standards.policy_of(labels, "enforce")
        if request.name in self._standards.namespaces:
            return
        if request.operation == "UPDATE" and enforced != self._standards.policy_of(before, "enforce"):
            await self._lookup.warm(PODS)
            self._warn_of_standing_pods(request, enforced)

    def _warn_of_standing_pods(self, request: AdmissionRequest, enforced: Policy) -> None:
        """Tell which running pods would not be let in any more; they stay."""
        broken: dict[str, list[str]] = {}
        for pod in self._lookup.list(PODS, request.name):
            found = pod_security.faults(pod["metadata"], spec_of(pod), enforced.level)
            if found:
                reasons = ", ".join(fault.reason for fault in found)
                broken.setdefault(reasons, []).append(pod["metadata"]["name"])
        if not broken:
            return
        request.warnings.append(
            f'existing pods in namespace "{request.name}" violate the new PodSecurity enforce level "{enforced}"'
        )
        for reasons, names in sorted(broken.items(), key=lambda item: item[1][0]):
            others = f" (and {len(names) - 1} other pod{'s' if len(names) > 2 else ''})" if len(names) > 1 else ""
            request.warnings.append(f"{names[0]}{others}: {reasons}")


def _judged_anew(old: Object, new: Object) -> bool:
    """Tell whether an update of a pod changes anything that the standards look at."""
    kept = [{key: value for key, value in obj.items() if key not in _NOT_JUDGED_AGAIN} for obj in (old, new)]
    annotations = [
        {k: v for k, v in ((obj.get("metadata") or {}).get("annotations") or {}).items() if "apparmor" in k}
        for obj in (old, new)
    ]
    return kept[0] != kept[1] or annotations[0] != annotations[1]
