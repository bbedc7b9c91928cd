"""Fill in what a client left out, as Kubernetes does on every write.

Each structure gets its plain defaults (`control.api.facts.defaults`), then those that depend on its other fields, then
its fields are descended into; parents come before children.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from math import ceil
from typing import Any

from control.api import quantity, schema
from control.api.facts.defaults import PLAIN
from control.api.meta import Object
from control.api.pod_resources import HUGE_PAGES, POD_LEVEL, of_containers

Fill = Callable[[dict[str, Any]], None]
_RESOURCE_LIST = "{}Quantity"


def _fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items()}
    return [_fresh(item) for item in value] if isinstance(value, list) else value


def _pod(pod: dict[str, Any]) -> None:
    spec = pod.setdefault("spec", {})
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        resources = container.get("resources")
        if resources and resources.get("limits"):
            requests = resources.setdefault("requests", {})
            for name, limit in resources["limits"].items():
                requests.setdefault(name, limit)
    if spec.get("resources"):
        _pod_level(spec)
    spec.setdefault("enableServiceLinks", True)
    if spec.get("hostNetwork"):
        for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
            for port in container.get("ports") or ():
                if not port.get("hostPort") and port.get("containerPort"):
                    port["hostPort"] = port["containerPort"]


def _pod_level(spec: dict[str, Any]) -> None:
    """Fill in what a pod as a whole asks for, from what its containers do; huge pages cannot be had on credit."""
    resources = spec["resources"]
    limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
    if not limits and not requests:
        return
    for name, amount in of_containers(spec, "limits").items():
        if name.startswith(HUGE_PAGES) and name not in requests:
            limits.setdefault(name, amount)
    if limits:
        resources["limits"] = limits
        for name, amount in of_containers(spec, "requests").items():
            if name in POD_LEVEL:
                requests.setdefault(name, amount)
        for name, amount in limits.items():
            if name in POD_LEVEL or name.startswith(HUGE_PAGES):
                requests.setdefault(name, amount)
    if requests:
        resources["requests"] = requests


def _pod_spec(spec: dict[str, Any]) -> None:
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account


def image_tag(image: str) -> str:
    """Return an image reference's tag: "latest" where neither tag nor digest is given, empty for a bare digest."""
    name, _, digest = image.partition("@")
    tag = name.rsplit("/", 1)[-1].partition(":")[2]
    return tag or ("" if digest else "latest")


def _container(container: dict[str, Any]) -> None:
    if not container.get("imagePullPolicy"):
        latest = image_tag(container.get("image") or "") == "latest"
        container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"


def _image_volume(source: dict[str, Any]) -> None:
    if not source.get("pullPolicy"):
        latest = image_tag(source.get("reference") or "") == "latest"
        source["pullPolicy"] = "Always" if latest else "IfNotPresent"


def _volume(volume: dict[str, Any]) -> None:
    if not set(volume) - {"name"}:
        volume["emptyDir"] = {}


def _service_spec(spec: dict[str, Any]) -> None:
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", 10800)
    for port in spec.get("ports") or ():
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    kind = spec["type"]
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _balancer_entry(entry: dict[str, Any]) -> None:
    if entry.get("ip"):
        entry.setdefault("ipMode", "VIP")


def _secret(secret: dict[str, Any]) -> None:
    strings = secret.pop("stringData", None)
    if strings:
        data = secret.setdefault("data", {})
        data.update({key: base64.b64encode(text.encode()).decode() for key, text in strings.items()})


def _namespace(namespace: dict[str, Any]) -> None:
    metadata = namespace.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    namespace.setdefault("status", {})


def _node_status(status: dict[str, Any]) -> None:
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


def _with_status(obj: dict[str, Any]) -> None:
    obj.setdefault("status", {})


def _persistent_volume(volume: dict[str, Any]) -> None:
    spec = volume.setdefault("spec", {})
    if not spec.get("persistentVolumeReclaimPolicy"):
        spec["persistentVolumeReclaimPolicy"] = "Retain"
    spec.setdefault("volumeMode", "Filesystem")
    volume.setdefault("status", {})


def _limit_range_item(item: dict[str, Any]) -> None:
    if item.get("type") != "Container":
        return
    default = {**(item.get("max") or {}), **(item.get("default") or {})}
    request = {**(item.get("min") or {}), **default, **(item.get("defaultRequest") or {})}
    if default:
        item["default"] = default
    if request:
        item["defaultRequest"] = request


def _replication_controller(controller: dict[str, Any]) -> None:
    template = (controller.get("spec") or {}).get("template") or {}
    labels = template.get("metadata", {}).get("labels")
    if labels:
        if not controller["spec"].get("selector"):
            controller["spec"]["selector"] = dict(labels)
        if not controller.get("metadata", {}).get("labels"):
            controller.setdefault("metadata", {})["labels"] = dict(labels)


def _rolling(field: str = "rollingUpdate") -> Fill:
    def fill(strategy: dict[str, Any]) -> None:
        if strategy["type"] == "RollingUpdate":
            strategy.setdefault(field, {})

    return fill


def _strategy(field: str) -> Fill:
    def fill(spec: dict[str, Any]) -> None:
        spec.setdefault(field, {})

    return fill


def _stateful_set(spec: dict[str, Any]) -> None:
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        strategy.setdefault("rollingUpdate", {})
    if strategy["type"] == "RollingUpdate" and (rolling := strategy.get("rollingUpdate")) is not None:
        rolling.setdefault("partition", 0)
        rolling.setdefault("maxUnavailable", 1)
    for template in spec.get("volumeClaimTemplates") or ():
        template.setdefault("apiVersion", "v1")
        template.setdefault("kind", "PersistentVolumeClaim")


def _job(job: dict[str, Any]) -> None:
    # The template in a CronJob gets none of this: its jobs do, when they are made.
    spec = job.setdefault("spec", {})
    _job_spec(spec)
    labels = spec.get("template", {}).get("metadata", {}).get("labels")
    if labels and not job.get("metadata", {}).get("labels"):
        job.setdefault("metadata", {})["labels"] = dict(labels)


def _job_spec(spec: dict[str, Any]) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    spec.setdefault("parallelism", 1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    spec.setdefault("backoffLimit", 2147483647 if per_index else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    policy = spec.get("podFailurePolicy")
    spec.setdefault("podReplacementPolicy", "TerminatingOrFailed" if policy is None else "Failed")
    for rule in (policy or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            if not pattern.get("status"):
                pattern["status"] = "True"


def _autoscaler(spec: dict[str, Any]) -> None:
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is not None:
        _scaling(behavior.setdefault("scaleUp", {}), 0, [("Pods", 4), ("Percent", 100)])
        _scaling(behavior.setdefault("scaleDown", {}), None, [("Percent", 100)])


def _scaling(rules: dict[str, Any], window_s: int | None, policies: list[tuple[str, int]]) -> None:
    rules.setdefault("selectPolicy", "Max")
    if window_s is not None:
        rules.setdefault("stabilizationWindowSeconds", window_s)
    if rules.get("policies") is None:
        rules["policies"] = [{"type": kind, "value": value, "periodSeconds": 15} for kind, value in policies]


def _network_policy_spec(spec: dict[str, Any]) -> None:
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _subject(subject: dict[str, Any]) -> None:
    if subject.get("kind") in ("User", "Group"):
        subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _custom_resource_definition(spec: dict[str, Any]) -> None:
    names = spec.setdefault("names", {})
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")


def _device_request(request: dict[str, Any]) -> None:
    if request["allocationMode"] == "ExactCount":
        request.setdefault("count", 1)


DEPENDENT: dict[str, Fill] = {
    "core.v1.Pod": _pod,
    "core.v1.PodSpec": _pod_spec,
    "core.v1.Container": _container,
    "core.v1.EphemeralContainer": _container,
    "core.v1.ImageVolumeSource": _image_volume,
    "core.v1.Volume": _volume,
    "core.v1.ServiceSpec": _service_spec,
    "core.v1.LoadBalancerIngress": _balancer_entry,
    "core.v1.Secret": _secret,
    "core.v1.Namespace": _namespace,
    "core.v1.NodeStatus": _node_status,
    "core.v1.PersistentVolume": _persistent_volume,
    "core.v1.PersistentVolumeClaim": _with_status,
    "core.v1.LimitRangeItem": _limit_range_item,
    "core.v1.ReplicationController": _replication_controller,
    "apps.v1.DeploymentSpec": _strategy("strategy"),
    "apps.v1.DeploymentStrategy": _rolling(),
    "apps.v1.DaemonSetSpec": _strategy("updateStrategy"),
    "apps.v1.DaemonSetUpdateStrategy": _rolling(),
    "apps.v1.StatefulSetSpec": _stateful_set,
    "batch.v1.Job": _job,
    "autoscaling.v2.HorizontalPodAutoscalerSpec": _autoscaler,
    "networking.v1.NetworkPolicySpec": _network_policy_spec,
    "rbac.v1.Subject": _subject,
    "apiextensions.v1.CustomResourceDefinitionSpec": _custom_resource_definition,
    "resource.v1.ExactDeviceRequest": _device_request,
    "resource.v1.DeviceSubRequest": _device_request,
}


@cache
def _reaches_defaults(name: str) -> bool:
    """Tell whether a structure, or one below it, has defaults."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in PLAIN or current in DEPENDENT or _amounts(current):
            return True
        waiting.extend(_structures(current).values())
    return False


def _structures(name: str) -> dict[str, str]:
    """Return the fields that hold structures, lists of them or maps of them."""
    found = {}
    for field in schema.definition(name).fields.values():
        kind = field.type
        inner = schema.element(kind) if kind[0] in "[{" else kind
        if schema.resolve(inner) is not None:
            found[field.name] = kind
    return {field: schema.element(kind) if kind[0] in "[{" else kind for field, kind in found.items()}


@cache
def _filler(name: str) -> Fill:
    fields = schema.definition(name).fields
    plain = tuple(
        (field, value, isinstance(value, dict | list), fields[field].pointer)
        for field, value in PLAIN.get(name, {}).items()
    )
    amounts = _amounts(name)
    dependent = DEPENDENT.get(name)
    deeper = tuple((field, kind) for field, kind in _structures(name).items() if _reaches_defaults(kind))

    def fill(value: dict[str, Any]) -> None:
        for field, default, shared, pointer in plain:
            held = value.get(field)
            if held is None or not (held or pointer):
                value[field] = _fresh(default) if shared else default
        for field in amounts:
            if held := value.get(field):
                _round_up(held)
        if dependent is not None:
            dependent(value)
        for field, kind in deeper:
            _descend(value.get(field), _filler(kind))

    return fill


def _amounts(name: str) -> tuple[str, ...]:
    """Return the fields that hold amounts of resources."""
    return tuple(field.name for field in schema.definition(name).fields.values() if field.type == _RESOURCE_LIST)


def _round_up(amounts: Any) -> None:
    """Round amounts up to thousandths: nothing finer is kept."""
    for name, text in amounts.items():
        if isinstance(text, str) and (text[-1:] in ("u", "n") or "e-" in text.lower()):
            thousandths = ceil(quantity.parse(text) * 1000)
            amounts[name] = quantity.canonical(f"{thousandths}m")


def _descend(item: Any, fill: Fill) -> None:
    if isinstance(item, dict):
        # A map of structures does not occur below defaults, so a mapping is one structure.
        fill(item)
    elif isinstance(item, list):
        for entry in item:
            if isinstance(entry, dict):
                fill(entry)


def apply_defaults(obj: Object, definition_name: str) -> None:
    """Fill in the defaults of an object, in place."""
    if _reaches_defaults(definition_name):
        _filler(definition_name)(obj)
