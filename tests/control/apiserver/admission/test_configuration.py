"""What the AdmissionConfiguration file and the flags make of admission."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from control.api.resources import CONFIG_MAPS, EVENTS, NAMESPACES, PODS, SERVICES, Resource
from control.api.status import ApiError
from control.apiserver.admission import configuration
from control.apiserver.admission.event_rate_limit import EventRateLimit, Limit
from control.apiserver.admission.optional import AlwaysPullImages, DenyServiceExternalIPs
from control.apiserver.admission.plugin import Plugin
from control.apiserver.admission.pod_security import PodSecurity, Policy
from control.apiserver.admission.resource_quota import ResourceQuota
from control.apiserver.config import ConfigurationError
from control.apiserver.request import AdmissionRequest, UserInfo
from tests.control.apiserver.policies.caches import Caches

STANDARDS = {
    "apiVersion": "pod-security.admission.config.k8s.io/v1",
    "kind": "PodSecurityConfiguration",
    "defaults": {"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"},
    "exemptions": {"usernames": ["otto"], "namespaces": ["free"], "runtimeClasses": ["vm"]},
}
LIMITED = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "ResourceQuotaConfiguration",
    "limitedResources": [
        {"resource": "configmaps", "matchContains": ["count/"]},
        {"resource": "pods", "matchScopes": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["dear", "dearer"]}]},
    ],
}  # fmt: skip
EVENTS_LIMITED = {
    "apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
    "kind": "Configuration",
    "limits": [{"type": "Namespace", "qps": 1, "burst": 2}, {"type": "Server", "qps": 100, "burst": 4}],
}


def written(folder: Path, *plugins: dict[str, Any], **more: Any) -> Path:
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration"}
    path = folder / "admission.yaml"
    path.write_text(yaml.safe_dump({**head, "plugins": list(plugins), **more}))
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "quota.yaml").write_text(yaml.safe_dump(LIMITED))
    path = written(
        tmp_path,
        {"name": "PodSecurity", "configuration": STANDARDS},
        {"name": "ResourceQuota", "path": "quota.yaml"},
        {"name": "EventRateLimit", "configuration": EVENTS_LIMITED},
    )
    found = configuration.read(["EventRateLimit", "NodeRestriction"], ["Priority"], path)
    assert (set(found.enabled), set(found.disabled)) == ({"EventRateLimit"}, {"Priority"})
    assert dict(found.standards.defaults)["enforce"] == Policy("baseline", "v1.30")
    assert found.limited[0].kind == ("", "configmaps")
    assert found.limits[0] == Limit("Namespace", 1.0, 2)


@pytest.mark.parametrize(
    ("enable", "disable", "configured", "told"),
    [
        (["Nothing"], [], {}, 'enable-admission-plugins plugin "Nothing" is unknown'),
        ([], ["Nothing"], {}, 'disable-admission-plugins plugin "Nothing" is unknown'),
        (
            ["Priority"],
            ["Priority"],
            {},
            "[Priority] in enable-admission-plugins and disable-admission-plugins overlap",
        ),
        ([], ["CertificateSigning"], {}, "cannot be disabled here"),
        (["EventRateLimit"], [], {}, "EventRateLimit: limits"),
        ([], [], {"PodSecurity": {**STANDARDS, "defaults": {"warn": "safe"}}}, 'defaults.warn: Invalid value: "safe"'),
        ([], [], {"PodSecurity": {**STANDARDS, "kind": "Other"}}, "must be a PodSecurityConfiguration"),
        ([], [], {"ResourceQuota": {**LIMITED, "limitedResources": [{}]}}, "not well formed"),
        ([], [], {"EventRateLimit": {**EVENTS_LIMITED, "limits": [{"type": "Moon"}]}}, 'Unsupported value: "Moon"'),
        ([], [], {"EventRateLimit": {**EVENTS_LIMITED, "limits": [{"type": "User", "qps": 1}]}}, "burst"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, enable: list[str], disable: list[str], configured: dict[str, Any], told: str
) -> None:
    path = written(tmp_path, *({"name": name, "configuration": found} for name, found in configured.items()))
    with pytest.raises(ConfigurationError) as refused:
        configuration.read(enable, disable, path)
    assert told in str(refused.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no AdmissionConfiguration"):
        configuration.read([], [], written(tmp_path, kind="Other"))
    with pytest.raises(ConfigurationError, match="unable to read"):
        configuration.read([], [], tmp_path / "none.yaml")


async def refusal(plugin: Plugin, request: AdmissionRequest) -> str:
    try:
        await plugin.validate(request)
    except ApiError as error:
        return f"{error.code} {error.message}"
    return ""


def made(resource: Resource, space: str = "a", user: str = "anna", **fields: Any) -> AdmissionRequest:
    obj = {"metadata": {"name": "x", "namespace": space}, **fields}
    return AdmissionRequest("CREATE", resource, UserInfo(user), space, "x", object=obj)


async def test_standards_hold_where_a_namespace_says_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, {"name": "PodSecurity", "configuration": STANDARDS})
    named = NAMESPACES, {"metadata": {"name": "open", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    plugin = PodSecurity(Caches(named), configuration.read([], [], path).standards)
    spec = {"hostNetwork": True, "containers": [{"name": "c", "image": "i"}]}
    assert 'violates PodSecurity "baseline:v1.30"' in await refusal(plugin, made(PODS, spec=spec))
    asked = made(PODS, "open", spec=spec)
    assert not await refusal(plugin, asked)
    assert 'would violate PodSecurity "restricted:latest"' in asked.warnings[0]
    for exempt in (
        made(PODS, "free", spec=spec),
        made(PODS, user="otto", spec=spec),
        made(PODS, spec={**spec, "runtimeClassName": "vm"}),
    ):
        assert not await refusal(plugin, exempt)
        assert exempt.warnings == []


async def test_what_is_limited_needs_a_quota(tmp_path: Path) -> None:
    path = written(tmp_path, {"name": "ResourceQuota", "configuration": LIMITED})
    limited = configuration.read([], [], path).limited
    plugin = ResourceQuota(Caches(), None, Random(1), limited=limited)  # type: ignore[arg-type]
    await plugin.follow()
    assert "insufficient quota to consume: count/configmaps" in await refusal(plugin, made(CONFIG_MAPS))
    spec = {"containers": [{"name": "c"}], "priorityClassName": "dear"}
    text = "insufficient quota to match these scopes: [{PriorityClass In [dear dearer]}]"
    assert text in await refusal(plugin, made(PODS, spec=spec))
    assert not await refusal(plugin, made(PODS, spec={**spec, "priorityClassName": "cheap"}))
    assert not await refusal(plugin, made(SERVICES, spec={}))


async def test_events_above_the_limits_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"name": "EventRateLimit", "configuration": EVENTS_LIMITED})
    now = 0.0
    plugin = EventRateLimit(configuration.read(["EventRateLimit"], [], path).limits, lambda: now)
    first = [await refusal(plugin, made(EVENTS)) for _ in range(3)]
    assert [bool(text) for text in first] == [False, False, True]
    assert "limit reached on type Namespace for key a" in first[2]
    assert not await refusal(plugin, made(EVENTS, "b"))
    told = await refusal(plugin, made(EVENTS, "a"))
    assert "[limit reached on type Namespace for key a, limit reached on type Server for key ]" in told
    now = 1.0
    assert not await refusal(plugin, made(EVENTS))
    assert not await refusal(plugin, made(CONFIG_MAPS))


async def test_optional_plugins() -> None:
    pod = made(PODS, spec={"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Never"}]})
    pulls = AlwaysPullImages()
    assert 'Unsupported value: "Never"' in await refusal(pulls, pod)
    await pulls.mutate(pod)
    assert not await refusal(pulls, pod)
    service = made(SERVICES, spec={"externalIPs": ["192.0.2.1"]})
    assert "Use of external IPs is denied by admission control" in await refusal(DenyServiceExternalIPs(), service)
    service.old_object = service.object
    service.operation = "UPDATE"
    assert not await refusal(DenyServiceExternalIPs(), service)
