"""What the AdmissionConfiguration file and its flags say: which plugins are in force, and how some of them judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control.api.meta import Object
from control.api.pod_security import LEVELS
from control.apiserver.admission.event_rate_limit import LIMIT_TYPES, Limit
from control.apiserver.admission.limited_resources import Limited
from control.apiserver.admission.pod_security import MODES, VERSION, Policy, Standards
from control.apiserver.config import ConfigurationError

DEFAULT = (
    "NodeRestriction", "NamespaceLifecycle", "ServiceAccount", "LimitRanger", "TaintNodesByCondition", "PodSecurity",
    "Priority", "DefaultTolerationSeconds", "DefaultStorageClass", "StorageObjectInUseProtection",
    "PersistentVolumeClaimResize", "RuntimeClass", "ClusterTrustBundleAttest", "DefaultIngressClass",
    "PodTopologyLabels", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook", "ResourceQuota",
)  # fmt: skip
"""Plugins that are in force unless they are disabled."""
ALWAYS = ("CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction")
"""Plugins that are in force, and are one here: none of them is disabled for itself."""
OPTIONAL = ("AlwaysPullImages", "DenyServiceExternalIPs", "EventRateLimit")
"""Plugins that are in force where they are enabled."""
_FILE_VERSIONS = ("apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1")


@dataclass(frozen=True, slots=True)
class Settings:
    """Which plugins judge, and by what."""

    disabled: frozenset[str] = frozenset()
    enabled: frozenset[str] = frozenset()
    """Of those that are not in force by themselves."""
    standards: Standards = field(default_factory=Standards)
    limited: tuple[Limited, ...] = ()
    limits: tuple[Limit, ...] = ()


def read(enable: Sequence[str], disable: Sequence[str], path: Path | None) -> Settings:
    """Return what flags and file say; raises ConfigurationError."""
    for flag, names, known in (
        ("enable", enable, (*DEFAULT, *ALWAYS, *OPTIONAL)),
        ("disable", disable, (*DEFAULT, *OPTIONAL)),
    ):
        for name in names:
            if name in ALWAYS and name not in known:
                raise ConfigurationError(f"{flag}-admission-plugins plugin {name!r} cannot be disabled here")
            if name not in known:
                raise ConfigurationError(f'{flag}-admission-plugins plugin "{name}" is unknown')
    if both := sorted(set(enable) & set(disable)):
        text = f"[{' '.join(both)}] in enable-admission-plugins and disable-admission-plugins overlapped"
        raise ConfigurationError(text)
    parts = _plugins(path) if path is not None else {}
    try:
        limits = _limits(parts["EventRateLimit"]) if parts.get("EventRateLimit") else ()
        if "EventRateLimit" in enable and not limits:
            raise ConfigurationError("EventRateLimit: limits: Invalid value: must not be empty")
        return Settings(
            frozenset(disable),
            frozenset(enable) & frozenset(OPTIONAL),
            _standards(parts["PodSecurity"]) if parts.get("PodSecurity") else Standards(),
            _limited(parts["ResourceQuota"]) if parts.get("ResourceQuota") else (),
            limits,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"admission control configuration {path} is not well formed: {error!r}") from None


def _load(path: Path) -> Any:
    import yaml  # here, since most servers read no such file

    try:
        return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f'unable to read admission control configuration from "{path}": {error}') from None


def _plugins(path: Path) -> dict[str, Object]:
    """Return the configuration of each plugin that the file has one of, in the file or in one beside it."""
    document = _load(path)
    known = isinstance(document, dict) and document.get("kind") == "AdmissionConfiguration"
    if not known or document.get("apiVersion") not in _FILE_VERSIONS:
        raise ConfigurationError(f"{path} holds no AdmissionConfiguration of {_FILE_VERSIONS[0]}")
    found: dict[str, Object] = {}
    for entry in document.get("plugins") or ():
        if not isinstance(entry, dict) or not entry.get("name"):
            raise ConfigurationError(f"{path}: plugins: each needs a name")
        inner = entry.get("configuration")
        if inner is None and entry.get("path"):
            inner = _load(path.parent / entry["path"])
        if inner is not None and not isinstance(inner, dict):
            raise ConfigurationError(f"{path}: the configuration of {entry['name']} is no object")
        found.setdefault(entry["name"], inner or {})
    return found


def _kind(found: Mapping[str, Any], plugin: str, group: str, kind: str) -> None:
    if found.get("kind") != kind or not str(found.get("apiVersion", "")).startswith(f"{group}/"):
        raise ConfigurationError(f"{plugin}: the configuration must be a {kind} of {group}")


def _standards(found: Mapping[str, Any]) -> Standards:
    _kind(found, "PodSecurity", "pod-security.admission.config.k8s.io", "PodSecurityConfiguration")
    defaults, exempt = found.get("defaults") or {}, found.get("exemptions") or {}
    policies = {}
    for mode in MODES:
        level, version = defaults.get(mode) or "privileged", defaults.get(f"{mode}-version") or "latest"
        if level not in LEVELS:
            text = f'PodSecurity: defaults.{mode}: Invalid value: "{level}": must be one of {", ".join(LEVELS)}'
            raise ConfigurationError(text)
        if not VERSION.fullmatch(version):
            text = f'PodSecurity: defaults.{mode}-version: Invalid value: "{version}": must be "latest" or "v1.x"'
            raise ConfigurationError(text)
        policies[mode] = Policy(level, version)
    return Standards(
        tuple(policies.items()),
        frozenset(exempt.get("usernames") or ()),
        frozenset(exempt.get("namespaces") or ()),
        frozenset(exempt.get("runtimeClasses") or ()),
    )


def _limited(found: Mapping[str, Any]) -> tuple[Limited, ...]:
    group = str(found.get("apiVersion", "")).partition("/")[0]
    if group == "apiserver.config.k8s.io":
        _kind(found, "ResourceQuota", group, "ResourceQuotaConfiguration")
    else:
        _kind(found, "ResourceQuota", "resourcequota.admission.k8s.io", "Configuration")
    return tuple(
        Limited(
            (entry.get("apiGroup") or "", entry["resource"]),
            tuple(entry.get("matchContains") or ()),
            tuple(entry.get("matchScopes") or ()),
        )
        for entry in found.get("limitedResources") or ()
    )


def _limits(found: Mapping[str, Any]) -> tuple[Limit, ...]:
    _kind(found, "EventRateLimit", "eventratelimit.admission.k8s.io", "Configuration")
    made = []
    for index, entry in enumerate(found.get("limits") or ()):
        kind, rate, burst = entry.get("type"), entry.get("qps") or 0, entry.get("burst") or 0
        if kind not in LIMIT_TYPES:
            text = f'EventRateLimit: limits[{index}].type: Unsupported value: "{kind}": supported values: '
            raise ConfigurationError(text + ", ".join(f'"{each}"' for each in LIMIT_TYPES))
        for name, value in (("qps", rate), ("burst", burst)):
            if value <= 0:
                raise ConfigurationError(
                    f"EventRateLimit: limits[{index}].{name}: Invalid value: {value}: must be positive"
                )
        if (size := entry.get("cacheSize") or 0) < 0:
            text = f"EventRateLimit: limits[{index}].cacheSize: Invalid value: {size}: must not be negative"
            raise ConfigurationError(text)
        made.append(Limit(kind, float(rate), int(burst), int(size)))
    return tuple(made)
