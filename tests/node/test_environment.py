"""Variables, references and names that containers get."""

from __future__ import annotations

import pytest

from control.api.meta import Object
from node import dns, environment, resources
from node.environment import ConfigError
from node.pod_spec import ContainerSpec, pull_policy, qos_class, total
from node.runtime import DnsConfig
from tests.node.machine_world import make_pod

VALUES = {"A": "1", "B": "$(A)"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(A)"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(", "$("),
        ("", ""),
    ],
    ids=["plain", "twice", "only-once", "unknown", "escaped", "escaped-then-plain", "shell", "open", "empty"],
)
def test_expansion(text: str, told: str) -> None:
    assert environment.expand(text, VALUES) == told


def test_service_variables() -> None:
    ports = [{"name": "web-port", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    services: list[Object] = [
        {"metadata": {"name": "my-svc", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.9", "ports": ports}},
        {"metadata": {"name": "headless", "namespace": "ns"}, "spec": {"clusterIP": "None", "ports": ports}},
        {"metadata": {"name": "other", "namespace": "else"}, "spec": {"clusterIP": "10.96.0.8", "ports": ports}},
    ]
    found = environment.service_variables(services, "ns", links=True)
    assert found["MY_SVC_SERVICE_HOST"] == "10.96.0.9"
    assert found["MY_SVC_SERVICE_PORT"] == "80"
    assert found["MY_SVC_SERVICE_PORT_WEB_PORT"] == "80"
    assert found["MY_SVC_PORT"] == "tcp://10.96.0.9:80"
    assert found["MY_SVC_PORT_53_UDP_ADDR"] == "10.96.0.9"
    assert not [name for name in found if "HEADLESS" in name or "OTHER" in name]
    assert environment.service_variables(services, "ns", links=False) == {}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("metadata.name", "web"),
        ("metadata.labels['a']", "1"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'a="1"\nb="x\\"y"'),
        ("spec.nodeName", "n1"),
        ("status.podIP", "10.0.0.1"),
    ],
)
def test_fields(path: str, told: str) -> None:
    pod = make_pod(nodeName="n1")
    pod["metadata"]["labels"] = {"b": 'x"y', "a": "1"}
    assert environment.field_value(pod, path, {"status.podIP": "10.0.0.1"}) == told


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="unsupported fieldPath"):
        environment.field_value(make_pod(), "spec.secrets", {})


@pytest.mark.parametrize(
    ("resource", "divisor", "told"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.memory", "1Mi", "65"),
        ("limits.memory", "1Gi", "4"),
    ],
    ids=["rounded-up", "milli", "rounded-up-memory", "the-node's"],
)
def test_resource_fields(resource: str, divisor: str, told: str) -> None:
    wanted = ContainerSpec(
        "main", "main", {"resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64.5Mi"}}}
    )
    reference = {"resource": resource, "divisor": divisor}
    assert environment.resource_value(make_pod(), wanted, reference, {"memory": "4Gi"}) == told


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("r.example:5000/a", "Always"),
        ("r.example:5000/a:1", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
    ],
)
def test_pull_policies(image: str, told: str) -> None:
    assert pull_policy(ContainerSpec("main", "main", {"image": image})) == told


def sized(**sizes: dict[str, str]) -> Object:
    """A container with these requests and limits."""
    return {"name": "main", "image": "i:1", "resources": sizes}


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (sized(), "BestEffort"),
        (sized(requests={"cpu": "1"}), "Burstable"),
        (sized(limits={"cpu": "1", "memory": "1Gi"}), "Guaranteed"),
        (sized(limits={"cpu": "1", "memory": "1Gi"}, requests={"cpu": "500m"}), "Burstable"),
        (sized(limits={"cpu": "1000m", "memory": "1Gi"}, requests={"cpu": "1", "memory": "1024Mi"}), "Guaranteed"),
    ],
    ids=["nothing", "a-request", "limits-alone", "less-asked", "equal-amounts"],
)
def test_qos(container: Object, told: str) -> None:
    assert qos_class(make_pod(container)) == told


def test_the_sum_of_a_pod_counts_the_larger_of_starting_and_running() -> None:
    pod = make_pod(
        {**sized(requests={"cpu": "100m"}), "name": "a"},
        {**sized(requests={"cpu": "100m"}), "name": "b"},
        initContainers=[
            {**sized(requests={"cpu": "50m"}), "name": "side", "restartPolicy": "Always"},
            {**sized(requests={"cpu": "1"}), "name": "init"},
        ],
    )
    assert total(pod, "cpu", "requests") == 1050
    assert total(pod, "cpu", "limits") is None


@pytest.mark.parametrize(
    ("driver", "qos", "told"),
    [
        ("cgroupfs", "Guaranteed", "/r/kubepods/podu-1"),
        ("cgroupfs", "BestEffort", "/r/kubepods/besteffort/podu-1"),
        ("systemd", "Burstable", "/r/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice"),
        ("systemd", "Guaranteed", "/r/kubepods.slice/kubepods-podu_1.slice"),
    ],
)
def test_cgroup_names(driver: str, qos: str, told: str) -> None:
    assert resources.cgroup_path(qos, "u-1", "/r", driver) == told  # type: ignore[arg-type]


def test_cgroup_values() -> None:
    wanted = ContainerSpec("main", "main", sized(requests={"cpu": "250m", "memory": "64Mi"}, limits={"cpu": "500m"}))
    found = resources.container_resources(make_pod(wanted.spec), wanted, 1024 * 1024 * 1024)
    assert (found.cpu_shares, found.cpu_quota_us, found.memory_limit_bytes) == (256, 50_000, 0)
    assert found.oom_score_adj == 938


NODE_DNS = DnsConfig(("192.0.2.53",), ("example.org",), ("timeout:1",))


@pytest.mark.parametrize(
    ("spec", "servers", "searches"),
    [
        ({}, ("10.96.0.10",), ("default.svc.c.local", "svc.c.local", "c.local", "example.org")),
        ({"dnsPolicy": "Default"}, ("192.0.2.53",), ("example.org",)),
        ({"hostNetwork": True}, ("192.0.2.53",), ("example.org",)),
        (
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
            ("10.96.0.10",),
            ("default.svc.c.local", "svc.c.local", "c.local", "example.org"),
        ),
        (
            {"dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["more.org"]}},
            ("10.96.0.10", "192.0.2.1"),
            ("default.svc.c.local", "svc.c.local", "c.local", "example.org", "more.org"),
        ),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}, ("192.0.2.1",), ()),
    ],
    ids=["cluster-first", "default", "host-network", "cluster-first-with-host-net", "added", "none"],
)
def test_dns_policies(spec: Object, servers: tuple[str, ...], searches: tuple[str, ...]) -> None:
    found = dns.pod_dns(make_pod(**spec), ["10.96.0.10"], "c.local", NODE_DNS)
    assert (found.servers, found.searches) == (servers, searches)


def test_dns_options_are_merged_by_name() -> None:
    wish = {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}], "searches": ["c.local", "more"]}
    found = dns.pod_dns(make_pod(dnsConfig=wish), ["10.96.0.10"], "c.local", DnsConfig())
    assert found.options == ("ndots:2", "edns0")
    assert found.searches == ("default.svc.c.local", "svc.c.local", "c.local", "more")


def test_resolv_conf_is_read() -> None:
    text = "# comment\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.org b.org.\noptions ndots:2 rotate\n"
    assert dns.parse_resolv_conf(text) == DnsConfig(
        ("192.0.2.1", "192.0.2.2"), ("a.org", "b.org"), ("ndots:2", "rotate")
    )


def test_a_long_name_is_cut_for_the_kernel() -> None:
    pod = make_pod()
    pod["metadata"]["name"] = "a" * 62 + "-" + "b" * 10
    assert dns.hostname(pod) == "a" * 62
