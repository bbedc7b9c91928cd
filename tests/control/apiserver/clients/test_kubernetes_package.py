"""The official Python client, unmodified: typed, dynamic, watches, streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

from tests.control.apiserver.clients.space import Space

pytestmark = pytest.mark.root


@pytest.fixture
def api(space: Space) -> Iterator[client.ApiClient]:
    made = config.new_client_from_config(str(space.kubeconfig))
    with made:
        yield made


def test_typed_verbs(api: client.ApiClient, space: Space) -> None:
    core = client.CoreV1Api(api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "v"})
    made = core.create_namespaced_config_map(space.name, body)
    assert (made.metadata.name, made.data, made.metadata.uid is not None) == ("a", {"k": "v"}, True)
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_config_map(space.name, body)
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    patched = core.patch_namespaced_config_map("a", space.name, {"data": {"l": "w", "k": None}})
    assert patched.data == {"l": "w"}
    made.data = {"stale": "1"}
    with pytest.raises(ApiException, match="the object has been modified"):
        core.replace_namespaced_config_map("a", space.name, made)
    for number in range(5):
        core.create_namespaced_config_map(space.name, client.V1ConfigMap(metadata={"name": f"page-{number}"}))
    first = core.list_namespaced_config_map(space.name, limit=4)
    rest = core.list_namespaced_config_map(space.name, limit=4, _continue=first.metadata._continue)
    assert len(first.items) + len(rest.items) == 6
    assert first.metadata.remaining_item_count == 2
    assert [
        found.metadata.name for found in core.list_namespaced_config_map(space.name, label_selector="x=y").items
    ] == ["a"]
    # This package leaves what a deletion answers as it comes, since it may be the object or a Status.
    assert core.delete_namespaced_config_map("a", space.name)["status"] == "Success"
    core.delete_collection_namespaced_config_map(space.name)
    assert core.list_namespaced_config_map(space.name).items == []


def test_typed_workloads_scale_tokens_and_reviews(api: client.ApiClient, space: Space) -> None:
    manifest: dict[str, Any] = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "web"}]}}},
    }  # fmt: skip
    utils.create_from_dict(api, manifest, namespace=space.name)
    apps = client.AppsV1Api(api)
    apps.patch_namespaced_deployment_scale("web", space.name, {"spec": {"replicas": 5}})
    assert apps.read_namespaced_deployment_scale("web", space.name).spec.replicas == 5
    status = apps.patch_namespaced_deployment_status("web", space.name, {"status": {"replicas": 1}})
    assert (status.status.replicas, status.spec.replicas, status.spec.strategy.type) == (1, 5, "RollingUpdate")
    core = client.CoreV1Api(api)
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    token = core.create_namespaced_service_account_token("default", space.name, asked).status.token
    reviewed = client.AuthenticationV1Api(api).create_token_review({"spec": {"token": token}})
    assert reviewed.status.user.username == f"system:serviceaccount:{space.name}:default"
    question = {"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}}
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(question).status.allowed
    assert client.VersionApi(api).get_code().minor == "36"
    assert "apps" in {group.name for group in client.ApisApi(api).get_api_versions().groups}


def test_watches_see_what_was_there_and_what_comes(api: client.ApiClient, space: Space) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map(space.name, client.V1ConfigMap(metadata={"name": "before"}))
    seen = []
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_config_map, space.name, timeout_seconds=30):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 1:
            core.create_namespaced_config_map(space.name, client.V1ConfigMap(metadata={"name": "after"}))
        elif len(seen) == 2:
            core.patch_namespaced_config_map("after", space.name, {"data": {"a": "b"}})
            core.delete_namespaced_config_map("after", space.name)
        elif event["type"] == "DELETED":
            watching.stop()
    assert seen == [("ADDED", "before"), ("ADDED", "after"), ("MODIFIED", "after"), ("DELETED", "after")]
    since = core.list_namespaced_config_map(space.name).metadata.resource_version
    again = watch.Watch().stream(core.list_namespaced_config_map, space.name, resource_version=since, timeout_seconds=1)
    assert list(again) == []
    with pytest.raises(ApiException) as caught:
        list(watch.Watch().stream(core.list_namespaced_config_map, space.name, resource_version="1", timeout_seconds=5))
    assert caught.value.status == 410


def test_logs_commands_and_ports(api: client.ApiClient, space: Space) -> None:
    space.run_pod("p")
    core = client.CoreV1Api(api)
    assert core.read_namespaced_pod_log("p", space.name, tail_lines=3) == f"log of {space.name}/p c tailLines=3\n"
    call = core.connect_get_namespaced_pod_exec
    told = stream(call, "p", space.name, command=["echo", "hi"], stdout=True, stderr=True, stdin=False, tty=False)
    assert told == "hi\n"
    # Another client, since `stream` bends the one that it is given.
    session = stream(
        call, "p", space.name, command=["sh", "-c", "read a; echo got $a; exit 4"], stdin=True, stdout=True,
        stderr=True, tty=False, _preload_content=False,
    )  # fmt: skip
    session.write_stdin("this\n")
    session.run_forever(timeout=20)
    assert (session.read_stdout(), session.returncode) == ("got this\n", 4)
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", space.name, ports="80")
    socket = forward.socket(80)
    socket.setblocking(True)
    socket.settimeout(20)
    socket.sendall(b"ping")
    assert socket.recv(4) == b"ping"
    socket.close()


def test_the_dynamic_client_finds_kinds_and_applies(api: client.ApiClient, space: Space) -> None:
    cluster = dynamic.DynamicClient(api)
    config_maps = cluster.resources.get(api_version="v1", kind="ConfigMap")
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    made = config_maps.server_side_apply(wanted, namespace=space.name, field_manager="me")
    assert made.metadata.managedFields[0].operation == "Apply"
    with pytest.raises(dynamic.exceptions.ConflictError):
        config_maps.server_side_apply({**wanted, "data": {"k": "w"}}, namespace=space.name, field_manager="you")
    forced = config_maps.server_side_apply(
        {**wanted, "data": {"k": "w"}}, namespace=space.name, field_manager="you", force_conflicts=True
    )
    assert forced.data.k == "w"
    assert config_maps.get(name="a", namespace=space.name).data.to_dict() == {"k": "w"}
    with pytest.raises(dynamic.exceptions.NotFoundError):
        config_maps.get(name="b", namespace=space.name)
    deployments = cluster.resources.get(short_names=["deploy"], api_version="apps/v1")
    assert (deployments.kind, deployments.namespaced, "scale" in deployments.subresources) == ("Deployment", True, True)
    assert cluster.version["kubernetes"]["minor"] == "36"
    seen = []
    stopper = watch.Watch()
    for event in config_maps.watch(namespace=space.name, timeout=20, watcher=stopper):
        seen.append(event["type"])
        if len(seen) == 1:
            threading.Thread(target=config_maps.delete, kwargs={"name": "a", "namespace": space.name}).start()
        else:
            stopper.stop()
    assert seen == ["ADDED", "DELETED"]


def test_informers_follow(api: client.ApiClient, space: Space) -> None:
    """A gap in a watch is told as 410, which the client's watch turns into a new list by itself."""
    core = client.CoreV1Api(api)
    evicted = {"metadata": {"name": "p", "namespace": space.name}}
    space.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                  "spec": {"containers": [{"name": "c", "image": "busybox"}]}})  # fmt: skip
    core.create_namespaced_pod_eviction("p", space.name, evicted)
    assert core.list_namespaced_pod(space.name).items == []
