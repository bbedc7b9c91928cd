"""CNI requests, results and errors as the specification has them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.cni import spec
from net.cni.spec import CniError, Wired

WIRED = Wired("10.244.1.2", "169.254.1.1", "rafthost", "ee:ee:ee:ee:ee:ee", "eth0", "02:00:00:00:00:01", 1450, "/ns")


def sent(configuration: Any = None, **environment: str) -> bytes:
    base = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1",
    }
    words = b"".join(f"{name}={value}".encode() + b"\0" for name, value in (base | environment).items())
    configuration = {"cniVersion": "1.0.0", "type": "raftsman-cni"} if configuration is None else configuration
    return words + b"\0" + json.dumps(configuration).encode()


def test_a_request_is_read() -> None:
    request = spec.parse_request(sent())
    assert (request.command, request.container_id, request.interface) == ("ADD", "abc", "eth0")
    assert (request.pod, request.pod_uid, request.plugin) == ("default/web", "u-1", "raftsman-cni")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", spec.DECODING_FAILURE, id="nothing"),
        pytest.param(sent()[:-5], spec.DECODING_FAILURE, id="cut JSON"),
        pytest.param(sent([]), spec.DECODING_FAILURE, id="JSON, but no object"),
        pytest.param(sent(CNI_COMMAND="add"), spec.INVALID_ENVIRONMENT, id="command"),
        pytest.param(sent(CNI_CONTAINERID=""), spec.INVALID_ENVIRONMENT, id="no container"),
        pytest.param(sent(CNI_CONTAINERID="../x"), spec.INVALID_ENVIRONMENT, id="container with a path"),
        pytest.param(sent(CNI_IFNAME="a/b"), spec.INVALID_ENVIRONMENT, id="interface with a slash"),
        pytest.param(sent(CNI_IFNAME="sixteen-letters-"), spec.INVALID_ENVIRONMENT, id="long interface"),
        pytest.param(sent(CNI_NETNS=""), spec.INVALID_ENVIRONMENT, id="no namespace"),
        pytest.param(sent({"cniVersion": "0.1.0"}), spec.INCOMPATIBLE_VERSION, id="old version"),
        pytest.param(sent({}), spec.INCOMPATIBLE_VERSION, id="no version"),
    ],
)
def test_faults_have_codes(data: bytes, code: int) -> None:
    with pytest.raises(CniError) as caught:
        spec.parse_request(data)
    assert caught.value.code == code


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    try:
        spec.parse_request(data)
    except CniError:
        return


def test_delete_needs_no_namespace() -> None:
    assert spec.parse_request(sent(CNI_COMMAND="DEL", CNI_NETNS="")).namespace_path == ""


def test_results_by_version() -> None:
    new, old = spec.result("1.0.0", WIRED), spec.result("0.4.0", WIRED)
    assert new["ips"] == [{"interface": 1, "address": "10.244.1.2/32", "gateway": "169.254.1.1"}]
    assert old["ips"][0]["version"] == "4"
    assert new["interfaces"][1] == {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/ns"}
    assert spec.result("1.1.0", WIRED)["interfaces"][1]["mtu"] == 1450
    assert new["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]


def test_a_previous_result_is_kept() -> None:
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "other"}],
        "ips": [{"address": "10.0.0.1/24", "interface": 0}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    told = spec.result("1.0.0", WIRED, previous)
    assert [entry["name"] for entry in told["interfaces"]] == ["other", "rafthost", "eth0"]
    assert [entry["interface"] for entry in told["ips"]] == [0, 2]
    assert told["dns"] == {"nameservers": ["10.96.0.10"]}


def test_errors_and_answers() -> None:
    told = CniError(11, "not yet", "because").to_object("1.0.0")
    assert told == {"cniVersion": "1.0.0", "code": 11, "msg": "not yet", "details": "because"}
    assert spec.answer(told, 1).startswith(b'1{"cniVersion":"1.0.0"')
    assert spec.answer(None, 0) == b"0"
