"""Real pods: what they see of volumes, variables, names and limits."""

from __future__ import annotations

import base64
from typing import Any

from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, SECRETS, SERVICES
from node import mounts
from node.kubelet import Kubelet
from tests.node.inside.conftest import NodeApi, container, is_ready, phase_is, until

SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"


async def seen(kubelet: Kubelet, *command: str, name: str = "main") -> str:
    """What a command in the only pod's container answers."""
    current = next(iter(kubelet.workers.values())).worker.machine.slots[name].current
    assert current is not None
    done = await kubelet.cri.exec_sync(current.id, list(command), 10)
    assert done.exit_code == 0, done.stderr
    return done.stdout.decode()


def put_config_map(api: NodeApi, name: str, **data: str) -> None:
    """Store a ConfigMap."""
    api.put(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "default"}, "data": data})


def put_secret(api: NodeApi, name: str, **data: str) -> None:
    """Store a Secret."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    api.put(SECRETS, {"metadata": {"name": name, "namespace": "default"}, "data": encoded})


def mount(name: str, path: str, **more: Any) -> Object:
    """A volume mount."""
    return {"name": name, "mountPath": path, **more}


async def test_every_kind_of_volume(kubelet: Kubelet, api: NodeApi) -> None:
    put_config_map(api, "settings", colour="red", shape="round")
    put_secret(api, "keys", password="s3cret")
    volumes: list[Any] = [
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "colour", "path": "a/b"}]}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "self", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {
            "name": "all",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "settings"}},
                    {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                ]
            },
        },
        {"name": "maybe", "configMap": {"name": "nowhere", "optional": True}},
    ]
    mounts_of = [mount(volume["name"], f"/v/{volume['name']}") for volume in volumes]
    mounts_of.append(mount("settings", "/one", subPath="a/b"))
    mounts_of.append(mount("disk", "/sub", subPath="made/here"))
    api.run_pod("web", container(SLEEP, volumeMounts=mounts_of), volumes=volumes)
    await until(is_ready(api, "web"), what="it is ready")
    assert await seen(kubelet, "cat", "/v/settings/a/b") == "red"
    assert await seen(kubelet, "cat", "/one") == "red"
    assert await seen(kubelet, "cat", "/v/keys/password") == "s3cret"
    assert await seen(kubelet, "stat", "-L", "-c", "%a", "/v/keys/password") == "400\n"
    assert await seen(kubelet, "cat", "/v/self/l") == 'app="web"'
    assert await seen(kubelet, "cat", "/v/all/token") == "token-1"
    assert await seen(kubelet, "cat", "/v/all/ns", "/v/all/shape") == "defaultround"
    assert await seen(kubelet, "ls", "/v/maybe") == ""
    assert "tmpfs" in await seen(kubelet, "sh", "-c", "mount | grep /v/memory")
    assert "tmpfs" in await seen(kubelet, "sh", "-c", "mount | grep /v/keys")
    await seen(kubelet, "sh", "-c", "echo x > /v/disk/x; echo y > /v/memory/y; echo z > /sub/z")
    assert await seen(kubelet, "cat", "/v/disk/made/here/z") == "z\n"
    assert any("web" in point or "volume-subpaths" in point for point in mounts.mount_points())


async def test_volumes_follow_their_sources(kubelet: Kubelet, api: NodeApi) -> None:
    put_config_map(api, "settings", colour="red")
    pod = container(SLEEP, volumeMounts=[mount("settings", "/v")])
    api.run_pod("web", pod, volumes=[{"name": "settings", "configMap": {"name": "settings"}}])
    await until(is_ready(api, "web"), what="it is ready")
    put_config_map(api, "settings", colour="blue", more="yes")
    found = ""
    for _ in range(200):
        found = await seen(kubelet, "sh", "-c", "cat /v/colour; ls /v")
        if found.startswith("blue"):
            break
    assert found == "bluecolour\nmore\n"


async def test_a_volume_whose_source_is_missing_is_waited_for(kubelet: Kubelet, api: NodeApi) -> None:
    pod = container("cat /v/password > /dev/termination-log", volumeMounts=[mount("keys", "/v")])
    api.run_pod("web", pod, volumes=[{"name": "keys", "secret": {"secretName": "keys"}}], restartPolicy="Never")
    await until(phase_is(api, "web", "Pending"), what="it waits")
    put_secret(api, "keys", password="late")
    await until(phase_is(api, "web", "Succeeded"), what="it runs")
    assert api.container("web")["state"]["terminated"]["message"] == "late"


async def test_a_sub_path_cannot_lead_out(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod(
        "web",
        container(SLEEP, volumeMounts=[mount("disk", "/v", subPath="out")]),
        initContainers=[container("ln -s /etc /disk/out", "evil", volumeMounts=[mount("disk", "/disk")])],
        volumes=[{"name": "disk", "emptyDir": {}}],
    )
    await until(
        lambda: api.container("web").get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError",
        what="it is refused",
    )
    assert "leads out of its volume" in api.container("web")["state"]["waiting"]["message"]


async def test_variables(kubelet: Kubelet, api: NodeApi) -> None:
    put_config_map(api, "settings", COLOUR="red")
    put_secret(api, "keys", PASSWORD="s3cret")
    service = {"spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}
    api.put(SERVICES, {"metadata": {"name": "kubernetes", "namespace": "default"}, **service})
    env = [
        {"name": "PLAIN", "value": "p"},
        {"name": "USES", "value": "$(PLAIN)-$(COLOUR)-$$(PLAIN)-$(NONE)"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "PASSWORD"}}},
    ]
    sources = [{"configMapRef": {"name": "settings"}}, {"prefix": "S_", "secretRef": {"name": "keys"}}]
    await until(lambda: kubelet.services.objects(), what="the service is known")
    limits = {"limits": {"memory": "64Mi", "cpu": "500m"}}
    api.run_pod("web", container(SLEEP, env=env, envFrom=sources, resources=limits))
    await until(is_ready(api, "web"), what="it is ready")
    values = dict(line.split("=", 1) for line in (await seen(kubelet, "env")).splitlines())
    assert values["USES"] == "p-red-$(PLAIN)-$(NONE)"
    assert (values["NAME"], values["LABEL"], values["LIMIT"]) == ("web", "web", "64")
    assert values["IP"] == api.status("web")["podIP"]
    assert (values["KEY"], values["S_PASSWORD"], values["COLOUR"]) == ("s3cret", "s3cret", "red")
    assert values["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert api.status("web")["qosClass"] == "Guaranteed"


async def test_names_hosts_and_resolver(kubelet: Kubelet, api: NodeApi) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["seven"]}]
    api.run_pod("web", container(SLEEP), hostname="front", subdomain="sub", hostAliases=aliases)
    await until(is_ready(api, "web"), what="it is ready")
    hosts = await seen(kubelet, "cat", "/etc/hosts")
    assert f"{api.status('web')['podIP']}\tfront.sub.default.svc.cluster.local\tfront\n" in hosts
    assert "192.0.2.7\tseven\n" in hosts
    assert await seen(kubelet, "hostname") == "front\n"
    resolver = await seen(kubelet, "cat", "/etc/resolv.conf")
    assert "nameserver 10.96.0.10" in resolver
    assert "search default.svc.cluster.local svc.cluster.local cluster.local" in resolver
    assert "options ndots:5" in resolver


async def test_limits_hold(kubelet: Kubelet, api: NodeApi) -> None:
    eater = container("exec tail /dev/zero", resources={"limits": {"memory": "16Mi"}})
    api.run_pod("greedy", eater, restartPolicy="Never")
    await until(phase_is(api, "greedy", "Failed"), what="it is killed")
    ended = api.container("greedy")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_security_contexts(kubelet: Kubelet, api: NodeApi) -> None:
    security = {
        "runAsUser": 1000,
        "runAsGroup": 2000,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    api.run_pod(
        "web",
        container(SLEEP, securityContext=security, volumeMounts=[mount("disk", "/v")]),
        securityContext={"fsGroup": 3000},
        volumes=[{"name": "disk", "emptyDir": {}}],
    )
    await until(is_ready(api, "web"), what="it is ready")
    assert await seen(kubelet, "id", "-u") == "1000\n"
    assert (await seen(kubelet, "id", "-G")).split() == ["2000", "3000"]
    assert await seen(kubelet, "sh", "-c", "touch /x 2>/dev/null || echo refused") == "refused\n"
    assert await seen(kubelet, "sh", "-c", "touch /v/x; stat -c %g /v/x") == "3000\n"
    assert "CapEff:\t0000000000000000" in await seen(kubelet, "cat", "/proc/self/status")


async def test_root_is_refused_where_it_must_not_be(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container(SLEEP, securityContext={"runAsNonRoot": True}))
    await until(
        lambda: api.container("web").get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError",
        what="it is refused",
    )


async def test_host_network_and_shared_processes(kubelet: Kubelet, api: NodeApi) -> None:
    api.run_pod("web", container(SLEEP), hostNetwork=True, shareProcessNamespace=True)
    await until(is_ready(api, "web"), what="it is ready")
    assert api.status("web")["podIP"] == "127.0.0.1"
    assert "catatonit" in await seen(kubelet, "ps")
