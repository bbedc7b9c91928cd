"""Where streams go on: containers, paths, addresses, service ports."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.status import ApiError
from control.apiserver.streams import proxies, target

POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "n"},
    "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
}
TWO: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "n"},
    "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
}


@pytest.mark.parametrize(
    ("pod", "wanted", "expected"),
    [
        (POD, "", "c"),
        (POD, "c", "c"),
        (TWO, "i", "i"),
        (POD, "x", ApiError({"message": "container x is not valid for pod p"})),
        (
            TWO,
            "",
            ApiError(
                {
                    "message": "a container name must be specified for pod p, choose one of: [a b]"
                    " or one of the init containers: [i]"
                }
            ),
        ),
    ],
    ids=["only one", "named", "init", "unknown", "unclear"],
)
def test_which_container(pod: dict[str, Any], wanted: str, expected: str | ApiError) -> None:
    if isinstance(expected, str):
        assert target.choose_container(pod, wanted) == expected
        return
    with pytest.raises(ApiError) as refused:
        target.choose_container(pod, wanted)
    assert refused.value.message == expected.message
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (target.log_path(POD, {}), "/containerLogs/n/p/c"),
        (
            target.log_path(POD, {"follow": ("true",), "tailLines": ("5",), "container": ("c",), "x": ("y",)}),
            "/containerLogs/n/p/c?follow=true&tailLines=5",
        ),
        (
            target.exec_path(
                POD, {"command": ("sh", "-c", "a b&c"), "stdin": ("true",), "stdout": ("true",), "tty": ("1",)}, "exec"
            ),
            "/exec/n/p/c?command=sh&command=-c&command=a+b%26c&input=1&output=1&tty=1",
        ),
        (target.exec_path(POD, {"stdin": ("true",), "stdout": ("false",)}, "attach"), "/attach/n/p/c?input=1"),
        (  # as Python's programs write them
            target.exec_path(POD, {"stdin": ("False",), "stdout": ("True",), "stderr": ("",)}, "attach"),
            "/attach/n/p/c?output=1&error=1",
        ),
        (
            target.log_path(POD, {"follow": ("True",), "previous": ("False",), "timestamps": ("1",)}),
            "/containerLogs/n/p/c?follow=true&timestamps=true",
        ),
        (target.port_forward_path(POD, {"ports": ("80,81",)}), "/portForward/n/p?port=80&port=81"),
        (target.port_forward_path(POD, {}), "/portForward/n/p"),
    ],
    ids=["log", "log options", "exec", "attach", "Python's attach", "Python's log", "ports", "no ports"],
)
def test_paths_of_the_kubelet(made: str, expected: str) -> None:
    assert made == expected


def test_the_most_preferred_address_wins() -> None:
    node = {
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "fd00::1"},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}},
        }
    }
    assert target.node_address(node, ("InternalIP", "Hostname")) == target.Address("10.0.0.1", 10999)
    assert target.node_address({"status": node["status"] | {"daemonEndpoints": {}}}, ("Hostname",)).port == 10250
    with pytest.raises(ApiError, match="no preferred addresses found"):
        target.node_address({}, ("InternalIP",))


def test_nobody_enters_a_completed_pod() -> None:
    with pytest.raises(ApiError, match="cannot exec into a container in a completed pod; current phase is Failed"):
        target.refuse_completed(POD | {"status": {"phase": "Failed"}}, "exec into")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("web", ("", "web", "")), ("web:80", ("", "web", "80")), ("https:web:443", ("https", "web", "443"))],
)
def test_scheme_name_and_port(text: str, expected: tuple[str, str, str]) -> None:
    assert proxies.split_scheme_name_port(text) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("", []), ("http", [("10.1.0.1", 8080)]), ("80", [("10.1.0.1", 8080)]), ("metrics", [("10.1.0.1", 9090)])],
    ids=["two ports, none named", "by name", "by number", "the other"],
)
def test_endpoints_of_a_service(wanted: str, expected: list[tuple[str, int]]) -> None:
    service = {"spec": {"ports": [{"name": "http", "port": 80}, {"name": "metrics", "port": 90}]}}
    entry = {
        "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": True}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": False}},
        ],
    }
    found = proxies.service_endpoints(service, [entry], wanted)
    assert [(address.host, address.port) for address in found] == expected
