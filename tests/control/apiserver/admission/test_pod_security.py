"""The Pod Security Standards: what each control forbids, and how a namespace's labels choose among them."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import pod_security
from control.api.meta import Object
from control.api.patch import copy_json, merge_patch
from control.api.resources import DEPLOYMENTS, NAMESPACES, PODS
from control.apiserver.admission.pod_security import PodSecurity
from tests.control.apiserver.admission.test_plugins import Cache, pod, refusal, request

SAFE: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(**context: Any) -> dict[str, Any]:
    """A pod's spec whose one container is safe but for this."""
    found: dict[str, Any] = merge_patch(SAFE, context)
    return {"containers": [{"name": "c", "securityContext": found}]}


def spec(**fields: Any) -> dict[str, Any]:
    return {**container(), **fields}


CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("safe", "restricted", container(), ""),
    ("privileged level", "privileged", container(privileged=True), ""),
    ("plain is baseline", "baseline", {"containers": [{"name": "c"}]}, ""),
    ("host namespaces", "baseline", spec(hostNetwork=True, hostPID=True),
     "host namespaces (hostNetwork=true, hostPID=true)"),
    ("privileged", "baseline", container(privileged=True),
     'privileged (container "c" must not set securityContext.privileged=true)'),
    ("capabilities", "baseline", container(capabilities={"add": ["NET_ADMIN", "CHOWN"]}),
     'non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)'),
    ("host path", "baseline", spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), 'hostPath volumes (volume "v")'),
    ("host port", "baseline", {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]},
     'hostPort (container "c" uses hostPort 80)'),
    ("proc", "baseline", container(procMount="Unmasked"),
     'procMount (container "c" must not set securityContext.procMount to "Unmasked")'),
    ("seccomp of the pod", "baseline", spec(securityContext={"seccompProfile": {"type": "Unconfined"}}),
     'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")'),
    ("sysctls", "baseline", spec(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
     "forbidden sysctls (kernel.msgmax)"),
    ("everything missing", "restricted", {"containers": [{"name": "a"}, {"name": "b"}]},
     'allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false), '
     'unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]), '
     'runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true), '
     'seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or '
     '"Localhost")'),
    ("root", "restricted", container(runAsUser=0), 'runAsUser=0 (container "c" must not set runAsUser=0)'),
    ("volume", "restricted", spec(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
     'restricted volume types (volume "v" uses restricted volume type "nfs")'),
    ("one capability may come back", "restricted", container(capabilities={"add": ["NET_BIND_SERVICE"]}), ""),
    ("others may not", "restricted", container(capabilities={"add": ["CHOWN"]}),
     'unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)'),
    ("init containers are judged", "baseline",
     {**container(), "initContainers": [{"name": "i", "securityContext": {"privileged": True}}]},
     'privileged (container "i" must not set securityContext.privileged=true)'),
]  # fmt: skip


@pytest.mark.parametrize(("level", "made", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_controls(level: str, made: dict[str, Any], told: str) -> None:
    assert pod_security.text(pod_security.faults({}, made, level)) == told


def namespace(**labels: str) -> Object:
    made = {f"pod-security.kubernetes.io/{mode.replace('_', '-')}": level for mode, level in labels.items()}
    return {"metadata": {"name": "a", "labels": made}}


BAD = pod(hostNetwork=True)
TOLD = 'violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)'


async def test_an_enforced_level_refuses() -> None:
    plugin = PodSecurity(Cache((NAMESPACES, namespace(enforce="baseline"))))  # type: ignore[arg-type]
    found = await refusal(plugin, request("CREATE", PODS, copy_json(BAD), namespace="a"))
    assert found == f'403 pods "p" is forbidden: {TOLD}'
    assert await refusal(plugin, request("CREATE", PODS, pod(), namespace="a")) is None


async def test_a_namespace_without_labels_forbids_nothing() -> None:
    plugin = PodSecurity(Cache((NAMESPACES, namespace())))  # type: ignore[arg-type]
    assert await refusal(plugin, request("CREATE", PODS, copy_json(BAD), namespace="a")) is None


async def test_templates_are_warned_of() -> None:
    plugin = PodSecurity(Cache((NAMESPACES, namespace(enforce="baseline", warn="baseline", warn_version="v1.30"))))  # type: ignore[arg-type]
    deployment = {"metadata": {"name": "d", "namespace": "a"}, "spec": {"template": copy_json(BAD)}}
    asked = request("CREATE", DEPLOYMENTS, deployment, namespace="a")
    assert await refusal(plugin, asked) is None
    assert asked.warnings == ['would violate PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)']


async def test_what_stands_is_not_judged_again_for_its_status() -> None:
    plugin = PodSecurity(Cache((NAMESPACES, namespace(enforce="baseline"))))  # type: ignore[arg-type]
    labelled = merge_patch(BAD, {"metadata": {"labels": {"x": "y"}}})
    assert await refusal(plugin, request("UPDATE", PODS, labelled, old=copy_json(BAD), namespace="a")) is None
    changed = merge_patch(BAD, {"spec": {"hostPID": True}})
    assert await refusal(plugin, request("UPDATE", PODS, changed, old=copy_json(BAD), namespace="a")) is not None


async def test_a_new_level_warns_of_running_pods() -> None:
    plugin = PodSecurity(Cache((PODS, copy_json(BAD))))  # type: ignore[arg-type]
    asked = request("UPDATE", NAMESPACES, namespace(enforce="restricted"), old=namespace())
    assert await refusal(plugin, asked) is None
    assert asked.warnings[0].startswith('existing pods in namespace "a" violate the new PodSecurity enforce level')
    assert asked.warnings[1].startswith("p: host namespaces")


async def test_labels_that_mean_nothing_are_refused() -> None:
    plugin = PodSecurity(Cache())  # type: ignore[arg-type]
    told = await refusal(plugin, request("CREATE", NAMESPACES, namespace(enforce="secure")))
    assert told is not None
    assert "must be one of privileged, baseline, restricted" in told
