"""How an error text shows what a change would change: the lines that differ of both values as Kubernetes holds them."""

from __future__ import annotations

import difflib
import json
from typing import Any

from control.api.validation.internal import internal

_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_ORDER = (
    "Volumes", "InitContainers", "Containers", "EphemeralContainers", "RestartPolicy", "TerminationGracePeriodSeconds",
    "ActiveDeadlineSeconds", "DNSPolicy", "NodeSelector", "ServiceAccountName", "AutomountServiceAccountToken",
    "NodeName", "SecurityContext", "ImagePullSecrets", "Hostname", "Subdomain", "SetHostnameAsFQDN", "Affinity",
    "SchedulerName", "Tolerations", "HostAliases", "PriorityClassName", "Priority", "PreemptionPolicy", "DNSConfig",
    "ReadinessGates", "RuntimeClassName", "Overhead", "EnableServiceLinks", "TopologySpreadConstraints", "OS",
    "SchedulingGates", "ResourceClaims", "Resources", "HostnameOverride", "SchedulingGroup",
)  # fmt: skip
"""The fields of a pod's spec as Kubernetes holds it."""
_OF_HOST = ("HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers")
"""What stands in its security context there."""


def internal_pod_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a pod's spec as Kubernetes holds it."""
    shown = internal("core.v1.PodSpec", spec)
    context = shown["SecurityContext"]
    if context is None:
        context = internal("core.v1.PodSecurityContext", {})
    shown["SecurityContext"] = {**{field: shown[field] for field in _OF_HOST}, **context}
    return {field: shown[field] for field in _ORDER}


def difference(old: Any, new: Any) -> str:
    """Return the lines in which two values differ, with three lines around them; "-" is the old one's."""
    lines = difflib.unified_diff(_lines(old), _lines(new))
    return "".join(list(lines)[2:])


def _lines(value: Any) -> list[str]:
    text = json.dumps(value, indent=1, ensure_ascii=False).translate(_HTML)
    return [f"{line}\n" for line in text.split("\n")]
