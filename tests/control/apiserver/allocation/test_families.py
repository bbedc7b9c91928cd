"""IP families of Services: what their fields come to in clusters of one family and of both, and what is refused."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from control.api.meta import Object
from control.api.resources import IP_ADDRESSES
from control.api.status import ApiError
from control.apiserver.allocation import families, services
from control.apiserver.allocation.ranges import AddressRange
from control.apiserver.allocation.repair import address_repairs
from control.apiserver.bootstrap import first_address
from control.apiserver.command import command
from tests.control.apiserver.allocation.test_allocation import World, service

FOUR, SIX = AddressRange(ip_network("10.96.0.0/24")), AddressRange(ip_network("fd00:96::/108"))
SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
BOTH = ["IPv4", "IPv6"]


def kinds(made: Object) -> tuple[Any, ...]:
    """Return policy, families, and the families of the addresses."""
    spec = made["spec"]
    found = [families.family_of(address) for address in spec["clusterIPs"]]
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    return spec["ipFamilyPolicy"], spec["ipFamilies"], found


@pytest.mark.parametrize(
    ("ranges", "spec", "expected"),
    [
        pytest.param("46", {}, (SINGLE, ["IPv4"]), id="says nothing"),
        pytest.param("64", {}, (SINGLE, ["IPv6"]), id="the first range is the default"),
        pytest.param("46", {"ipFamilies": ["IPv6"]}, (SINGLE, ["IPv6"]), id="one family by name"),
        pytest.param("46", {"ipFamilyPolicy": PREFER}, (PREFER, BOTH), id="prefers both"),
        pytest.param("4", {"ipFamilyPolicy": PREFER}, (PREFER, ["IPv4"]), id="prefers both, has one"),
        pytest.param("6", {"ipFamilyPolicy": PREFER}, (PREFER, ["IPv6"]), id="prefers both, has the other"),
        pytest.param("46", {"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}, (REQUIRE, BOTH[::-1]), id="order"),
        pytest.param("46", {"clusterIP": "fd00:96::5"}, (SINGLE, ["IPv6"]), id="family by address"),
        pytest.param(
            "46",
            {"clusterIP": "fd00:96::5", "clusterIPs": ["fd00:96::5", "10.96.0.5"], "ipFamilyPolicy": REQUIRE},
            (REQUIRE, BOTH[::-1]),
            id="families by addresses",
        ),
        pytest.param("46", {"clusterIP": "10.96.0.5", "ipFamilyPolicy": PREFER}, (PREFER, BOTH), id="second is chosen"),
    ],
)
async def test_behaviour_35_families_are_completed(ranges: str, spec: dict[str, Any], expected: Any) -> None:
    world = World(*({"4": FOUR, "6": SIX}[letter] for letter in ranges))
    made = await world.write(service(**spec))
    assert kinds(made) == (*expected, expected[1])
    assert world.hub.addresses == set(made["spec"]["clusterIPs"])
    for address in made["spec"]["clusterIPs"]:
        labels = world.hub.held[IP_ADDRESSES.plural, address]["metadata"]["labels"]
        assert labels["ipaddress.kubernetes.io/ip-family"] == families.family_of(address)
    await world.allocator.release(made)
    assert world.hub.addresses == set()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        pytest.param(
            {"ipFamilies": BOTH},
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when"
            " multiple IP families are specified",
            id="two families, single stack",
        ),
        pytest.param(
            {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"]},
            "when multiple cluster IPs are specified",
            id="two addresses, single stack",
        ),
        pytest.param(
            {"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"', id="one family twice"
        ),
        pytest.param(
            {"ipFamilies": ["IPv5"]},
            'spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"',
            id="no family",
        ),
        pytest.param(
            {"ipFamilyPolicy": "Both"},
            'supported values: "PreferDualStack", "RequireDualStack", "SingleStack"',
            id="no policy",
        ),
        pytest.param(
            {"clusterIP": "10.96.0.5", "ipFamilies": ["IPv6"]},
            'spec.clusterIPs[0]: Invalid value: "10.96.0.5": expected an IPv6 value as indicated by `ipFamilies[0]`',
            id="address of another family",
        ),
        pytest.param(
            {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "10.96.0.6"], "ipFamilyPolicy": REQUIRE},
            "may specify no more than one IP for each IP family",
            id="two addresses of one family",
        ),
        pytest.param(
            {"clusterIPs": ["10.96.0.5"]}, "must be empty when `clusterIP` is not specified", id="the plural alone"
        ),
        pytest.param({"clusterIP": "10.96"}, "must be a valid IP address", id="no address"),
        pytest.param(
            {"clusterIP": "None", "clusterIPs": ["None", "10.96.0.5"], "selector": {"a": "b"}},
            "'None' must be the first and only value",
            id="headless and not",
        ),
    ],
)
async def test_contradictions_are_refused(spec: dict[str, Any], text: str) -> None:
    world = World(FOUR, SIX)
    with pytest.raises(ApiError) as refused:
        await world.write(service("s", **spec))
    assert refused.value.code == 422
    assert text in refused.value.message
    assert world.hub.addresses == set()


async def test_a_family_that_the_cluster_lacks_is_refused_by_its_address() -> None:
    with pytest.raises(ApiError, match=r"spec.clusterIPs\[0\].*IPv6 is not configured on this cluster"):
        await World(FOUR).write(service("s", clusterIP="fd00:96::5"))


async def test_behaviour_35_a_service_takes_and_gives_back_its_second_address() -> None:
    world = World(FOUR, SIX)
    made = await world.write(service())
    wider = copy.deepcopy(made)
    wider["spec"]["ipFamilyPolicy"] = PREFER
    wider = await world.write(wider, made)
    assert kinds(wider) == (PREFER, BOTH, BOTH)
    assert wider["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    kept = await world.write(service(ipFamilyPolicy=PREFER), wider)
    assert kept["spec"]["clusterIPs"] == wider["spec"]["clusterIPs"], "a replace without addresses keeps them"
    single = copy.deepcopy(wider)
    single["spec"]["ipFamilyPolicy"] = SINGLE
    single = await world.write(single, wider)
    assert kinds(single) == (SINGLE, ["IPv4"], ["IPv4"])
    assert world.hub.addresses == {made["spec"]["clusterIP"]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"clusterIPs": 1}, "must be 'SingleStack' to release the secondary cluster IP", id="address"),
        pytest.param({"ipFamilies": 1}, "must be 'SingleStack' to release the secondary IP family", id="family"),
    ],
)
async def test_a_second_value_goes_only_with_the_policy(changes: dict[str, int], text: str) -> None:
    world = World(FOUR, SIX)
    made = await world.write(service(ipFamilyPolicy=REQUIRE))
    less = copy.deepcopy(made)
    for field, count in changes.items():
        less["spec"][field] = less["spec"][field][:count]
    with pytest.raises(ApiError) as refused:
        await world.write(less, made)
    assert text in refused.value.message


async def test_a_second_address_may_not_change() -> None:
    world = World(FOUR, SIX)
    made = await world.write(service(ipFamilyPolicy=REQUIRE))
    moved = copy.deepcopy(made)
    moved["spec"]["clusterIPs"][1] = "fd00:96::9999"
    with pytest.raises(ApiError, match=r"spec.clusterIPs\[1\].*may not change once set"):
        await world.write(moved, made)


async def test_a_cluster_that_gains_a_family_changes_nobody() -> None:
    world = World(FOUR)
    made = await world.write(service(ipFamilyPolicy=PREFER))
    wider = World(FOUR, SIX)
    wider.hub.held = world.hub.held
    touched = copy.deepcopy(made)
    touched["spec"]["selector"] = {"a": "b"}
    assert kinds(await wider.write(touched, made)) == (PREFER, ["IPv4"], ["IPv4"])


async def test_both_addresses_are_repaired() -> None:
    world = World(FOUR, SIX)
    made = await world.write(service(ipFamilyPolicy=REQUIRE))
    repairs = address_repairs([made], [], datetime.now(UTC))
    assert {found["metadata"]["name"] for found in repairs.missing} == set(made["spec"]["clusterIPs"])


def test_a_network_of_ipv6_has_more_addresses_than_anybody_counts() -> None:
    wide = AddressRange(ip_network("fd00::/48"))
    assert wide.size == 1 << 62
    wide.check("fd00::1")
    assert SIX.size == (1 << 20) - 1


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        pytest.param("10.96.0.0/16,10.97.0.0/16", "one of IPv4 and one of IPv6", id="one family twice"),
        pytest.param("10.96.0.0/16,fd00:96::/108,fd00:97::/108", "one of IPv4 and one of IPv6", id="three"),
        pytest.param("10.96.0.0/16,", "does not appear to be an IPv4 or IPv6 network", id="nothing behind the comma"),
    ],
)
def test_ranges_that_make_no_cluster_are_named(ranges: str, told: str) -> None:
    done = CliRunner().invoke(command, ["--etcd-servers", "http://127.0.0.1:1", "--service-cluster-ip-range", ranges])
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())


def test_the_api_is_at_the_first_address_of_the_first_range() -> None:
    assert first_address("fd00:96::/108,10.96.0.0/16") == "fd00:96::1"


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "ipFamilyPolicy": st.sampled_from([SINGLE, PREFER, REQUIRE]),
        "ipFamilies": st.sampled_from([["IPv4"], ["IPv6"], BOTH, BOTH[::-1]]),
        "clusterIP": st.sampled_from(["None", "10.96.0.5", "fd00:96::5"]),
        "selector": st.just({"a": "b"}),
    },
)


@given(OPTIONS, OPTIONS, st.sampled_from([["IPv4"], ["IPv6"], BOTH, BOTH[::-1]]))
def test_what_is_accepted_is_complete_and_accepted_again(
    first: dict[str, Any], second: dict[str, Any], configured: list[str]
) -> None:
    made = service(**copy.deepcopy(first))
    if services.settle(made, None, configured):
        return
    if not services.is_headless(made):
        free = {"IPv4": "10.96.0.5", "IPv6": "fd00:96::5"}
        made["spec"]["clusterIPs"] = [free[family] for family in made["spec"]["ipFamilies"]]
        made["spec"]["clusterIP"] = made["spec"]["clusterIPs"][0]
    again = copy.deepcopy(made)
    assert services.settle(again, made, configured) == []
    assert again == made
    changed = service(**copy.deepcopy(second))
    if not services.settle(changed, made, configured):
        spec = changed["spec"]
        assert spec["ipFamilies"]
        assert len(spec["ipFamilies"]) == 1 or spec["ipFamilyPolicy"] != SINGLE
