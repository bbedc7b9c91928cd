"""CNI requests, results and errors as the specification has them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.cni import results, spec
from net.cni.plan import GATEWAYS, HOST_MAC, Plan, bridge_of, link_local
from net.cni.spec import CniError, Request
from net.ipam.allocator import Attachment

PLAN = Plan(Attachment("abc", "eth0"), "/ns", ("10.244.1.2", "fd00:1::2"), 1450)


def sent(configuration: Any = None, **environment: str) -> bytes:
    base = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1",
    }
    words = b"".join(f"{name}={value}".encode() + b"\0" for name, value in (base | environment).items())
    configuration = (
        {"cniVersion": "1.0.0", "name": "raftsman", "type": "raftsman-cni"} if configuration is None else configuration
    )
    return words + b"\0" + json.dumps(configuration).encode()


def changed(command: str = "ADD", **change: Any) -> bytes:
    configuration = {"cniVersion": "1.0.0", "name": "raftsman", "type": "raftsman-cni", **change}
    return sent({key: value for key, value in configuration.items() if value is not None}, CNI_COMMAND=command)


def test_a_request_is_read() -> None:
    request = spec.parse_request(sent())
    assert (request.command, request.container_id, request.interface) == ("ADD", "abc", "eth0")
    assert (request.pod, request.pod_uid, request.plugin) == ("default/web", "u-1", "raftsman-cni")


KNOWN = 'plugin supports ["0.3.1" "0.4.0" "1.0.0" "1.1.0"]'


@pytest.mark.parametrize(
    ("data", "code", "message", "details"),
    [
        pytest.param(b"", 6, "the request is cut short", "", id="nothing"),
        pytest.param(sent()[:-5], 6, "error unmarshall network config", None, id="cut JSON"),
        pytest.param(
            sent([]), 6, "error unmarshall network config", "it is not a JSON object", id="JSON, but no object"
        ),
        pytest.param(
            changed(name=7), 6, "error unmarshall network config", "name must be a JSON string", id="name is 7"
        ),
        pytest.param(
            changed(runtimeConfig=[1]),
            6,
            "error unmarshall network config",
            "runtimeConfig must be a JSON object",
            id="runtimeConfig is a list",
        ),
        pytest.param(sent(CNI_COMMAND="add"), 4, "unknown CNI_COMMAND: add", "", id="command"),
        pytest.param(
            sent(CNI_CONTAINERID="", CNI_IFNAME=""),
            4,
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing",
            "",
            id="no container",
        ),
        pytest.param(sent(CNI_NETNS=""), 4, "required env variables [CNI_NETNS] missing", "", id="no namespace"),
        pytest.param(
            sent(CNI_CONTAINERID="../x"), 4, "invalid characters in containerID", "../x", id="path as container"
        ),
        pytest.param(
            sent(CNI_IFNAME="a/b"), 4, "interface name contains / or : or whitespace characters", "", id="interface a/b"
        ),
        pytest.param(sent(CNI_IFNAME=".."), 4, "interface name is . or ..", "", id="interface .."),
        pytest.param(
            sent(CNI_IFNAME="sixteen-letters-"),
            4,
            "interface name is too long",
            "interface name should be less than 16 characters",
            id="long interface",
        ),
        pytest.param(sent(CNI_ARGS="IgnoreUnknown"), 4, "ARGS: invalid pair 'IgnoreUnknown'", "", id="arguments"),
        pytest.param(
            changed(cniVersion="0.1.0"), 1, "incompatible CNI versions", f'config is "0.1.0", {KNOWN}', id="old version"
        ),
        pytest.param(
            changed(cniVersion="9.9.9"), 1, "incompatible CNI versions", f'config is "9.9.9", {KNOWN}', id="new version"
        ),
        pytest.param(
            changed(cniVersion=None), 1, "incompatible CNI versions", f'config is "0.1.0", {KNOWN}', id="no version"
        ),
        pytest.param(
            changed("CHECK", cniVersion="0.3.1"), 1, "config version does not allow CHECK", "", id="CHECK too early"
        ),
        pytest.param(changed("GC", cniVersion="1.0.0"), 1, "config version does not allow GC", "", id="GC too early"),
        pytest.param(
            changed("STATUS", cniVersion="1.0.0"), 1, "config version does not allow STATUS", "", id="STATUS too early"
        ),
        pytest.param(changed(name=""), 7, "missing network name:", "", id="no network name"),
        pytest.param(changed(name="a/b"), 7, "invalid characters found in network name", "a/b", id="network a/b"),
    ],
)
def test_faults_have_the_specifications_codes_and_texts(
    data: bytes, code: int, message: str, details: str | None
) -> None:
    with pytest.raises(CniError) as caught:
        spec.parse_request(data)
    assert (caught.value.code, caught.value.message) == (code, message)
    assert details is None or caught.value.details == details


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    try:
        spec.parse_request(data)
    except CniError:
        return


def test_delete_needs_no_namespace() -> None:
    assert spec.parse_request(sent(CNI_COMMAND="DEL", CNI_NETNS="")).namespace_path == ""


def request_of(**change: Any) -> Request:
    return spec.parse_request(changed("GC", cniVersion="1.1.0", **change))


@pytest.mark.parametrize("key", spec.VALID_ATTACHMENTS)
def test_what_gc_keeps_has_either_name(key: str) -> None:
    listed = [{"containerID": "abc", "ifname": "eth0"}]
    assert spec.valid_attachments(request_of(**{key: listed})) == {("abc", "eth0")}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="none"),
        pytest.param({"cni.dev/valid-attachments": [{}]}, id="no container"),
        pytest.param({"cni.dev/valid-attachments": [1]}, id="a number"),
        pytest.param({"cni.dev/valid-attachments": 1}, id="no list"),
    ],
)
def test_gc_without_a_list_drops_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        spec.valid_attachments(request_of(**change))
    assert caught.value.code == 7


def test_results_by_version() -> None:
    new, old = results.result("1.0.0", PLAN), results.result("0.4.0", PLAN)
    assert new["ips"] == [
        {"interface": 1, "address": "10.244.1.2/32", "gateway": "169.254.1.1"},
        {"interface": 1, "address": "fd00:1::2/128", "gateway": "fe80::ecee:eeff:feee:eeee"},
    ]
    assert [entry["version"] for entry in old["ips"]] == ["4", "6"]
    assert new["interfaces"][1] == {"name": "eth0", "mac": PLAN.mac, "sandbox": "/ns"}
    assert results.result("1.1.0", PLAN)["interfaces"][1]["mtu"] == 1450
    assert new["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
    ]


def test_on_a_bridge_an_address_has_its_ranges_length() -> None:
    bridged = replace(PLAN, bridge=bridge_of(["10.244.1.0/24", "fd00:1::/64"]))
    assert results.result("1.0.0", bridged)["ips"] == [
        {"interface": 1, "address": "10.244.1.2/24", "gateway": "10.244.1.1"},
        {"interface": 1, "address": "fd00:1::2/64", "gateway": "fd00:1::1"},
    ]


def test_a_previous_result_is_kept() -> None:
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "other"}],
        "ips": [{"address": "10.0.0.1/24", "interface": 0}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    told = results.result("1.0.0", PLAN, previous)
    assert [entry["name"] for entry in told["interfaces"]] == ["other", PLAN.host_interface, "eth0"]
    assert [entry["interface"] for entry in told["ips"]] == [0, 2, 2]
    assert told["dns"] == {"nameservers": ["10.96.0.10"]}
    assert results.missing_addresses(PLAN, told) == []
    assert results.missing_addresses(PLAN, None) == []
    assert results.missing_addresses(PLAN, previous)[0] == "the previous result lacks 10.244.1.2/32"


def test_errors_and_answers() -> None:
    told = CniError(11, "not yet", "because").to_object("1.0.0")
    assert told == {"cniVersion": "1.0.0", "code": 11, "msg": "not yet", "details": "because"}
    assert results.answer(told, 1).startswith(b'1{"cniVersion":"1.0.0"')
    assert results.answer(None, 0) == b"0"


@pytest.mark.parametrize(("asked", "told"), [("0.4.0", "0.4.0"), ("1.1.0", "1.1.0"), ("7.0.0", "1.1.0")])
def test_version_answers_in_the_version_asked_for(asked: str, told: str) -> None:
    assert results.version_result(asked)["cniVersion"] == told


def test_a_link_local_address_follows_from_the_mac_address() -> None:
    assert link_local(HOST_MAC) == GATEWAYS[6]


@pytest.mark.parametrize("key", ["hostPort", "HostPort"])
def test_what_a_runtime_asks_for_is_read_in_any_case(key: str) -> None:
    request = spec.parse_request(changed(runtimeConfig={"portMappings": [{key: 80}], "bandwidth": {"IngressRate": 5}}))
    assert spec.asked(request, "portMappings") == [{"hostport": 80}]
    assert spec.asked(request, "bandwidth") == {"ingressrate": 5}
    assert spec.asked(request, "ips") is None
