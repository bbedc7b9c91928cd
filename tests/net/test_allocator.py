"""Addresses: never twice, never too soon, always the same for the same attachment, safe on disk."""

from __future__ import annotations

import json
from pathlib import Path

import netaddr
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from net.ipam import files
from net.ipam.allocator import Allocator, Attachment, Claim, RangeExhaustedError

DELAY_S = 30.0


def claim(container: str) -> Claim:
    return Claim(Attachment(container, "eth0"), (), f"/run/netns/{container}", f"raft{container}")


def allocator_of(*cidrs: str, reuse_delay_s: float = DELAY_S) -> Allocator:
    allocator = Allocator(reuse_delay_s=reuse_delay_s)
    allocator.set_cidrs(cidrs)
    return allocator


def test_addresses_go_up_and_reserved_ones_are_kept_back() -> None:
    allocator = allocator_of("10.244.1.0/29")
    given = [*(address for number in range(5) for address in allocator.allocate(claim(str(number)), 0.0).addresses)]
    assert given == ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]
    with pytest.raises(RangeExhaustedError, match=r"^no free address in 10\.244\.1\.0/29: 5 are in use$"):
        allocator.allocate(claim("more"), 0.0)


def test_a_pod_gets_an_address_of_each_family_or_none() -> None:
    allocator = allocator_of("10.244.1.0/30", "fd00:1::/64")
    assert allocator.allocate(claim("a"), 0.0).addresses == ("10.244.1.2", "fd00:1::2")
    with pytest.raises(RangeExhaustedError, match=r"10\.244\.1\.0/30"):
        allocator.allocate(claim("b"), 0.0)
    assert [entry.cursor for entry in allocator.ranges] == [3, 3], "a failed call moves no cursor"


def test_a_second_range_leaves_what_pods_hold() -> None:
    allocator = allocator_of("10.244.1.0/24")
    first = allocator.allocate(claim("a"), 0.0)
    assert allocator.set_cidrs(["10.244.1.0/24", "fd00:1::/64"])
    assert allocator.allocate(claim("a"), 0.0) == first
    assert allocator.allocate(claim("b"), 0.0).addresses == ("10.244.1.3", "fd00:1::2")


def test_an_address_that_was_never_used_needs_no_rest() -> None:
    allocator = allocator_of("10.244.1.0/30")
    allocator.allocate(claim("a"), 0.0)
    allocator.release(Attachment("a", "eth0"), 0.0, was_used=False)
    assert allocator.allocate(claim("b"), 0.0).addresses == ("10.244.1.2",)


def test_without_a_cidr_nothing_is_given() -> None:
    with pytest.raises(RangeExhaustedError, match="no pod CIDR"):
        Allocator().allocate(claim("a"), 0.0)


def test_a_released_address_rests() -> None:
    allocator = allocator_of("10.244.1.0/29")
    for name in "abcde":
        allocator.allocate(claim(name), 0.0)
    allocator.release(Attachment("c", "eth0"), 100.0)
    with pytest.raises(RangeExhaustedError, match="4 are in use, 1 rest up to 30 s after their pods' end"):
        allocator.allocate(claim("f"), 100.0 + DELAY_S - 1)
    assert allocator.allocate(claim("f"), 100.0 + DELAY_S).addresses == ("10.244.1.4",)


def test_a_freed_address_is_not_the_next_one() -> None:
    allocator = allocator_of("10.244.1.0/24", reuse_delay_s=0.0)
    first = allocator.allocate(claim("a"), 0.0).addresses
    allocator.release(Attachment("a", "eth0"), 0.0)
    assert allocator.allocate(claim("b"), 1.0).addresses != first


def test_a_new_cidr_leaves_old_claims() -> None:
    allocator = allocator_of("10.244.1.0/24")
    old = allocator.allocate(claim("a"), 0.0)
    assert allocator.set_cidrs(["10.244.7.0/24"])
    assert not allocator.set_cidrs(["10.244.7.5/24"])
    assert allocator.allocate(claim("b"), 0.0).addresses == ("10.244.7.2",)
    assert allocator.find(old.attachment) == old


def test_tiny_ranges_are_used_whole() -> None:
    assert allocator_of("10.0.0.0/31").allocate(claim("a"), 0.0).addresses == ("10.0.0.0",)
    assert allocator_of("fd00::7/128").allocate(claim("a"), 0.0).addresses == ("fd00::7",)


RANGES = ("10.244.1.0/28", "fd00:1::/124")


class Addresses(RuleBasedStateMachine):
    """Any order of calls, with restarts between them, against a plain dictionary."""

    containers = Bundle("containers")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = allocator_of(*RANGES)
        self.model: dict[str, tuple[str, ...]] = {}
        self.released: dict[str, float] = {}
        self.now_s = 0.0

    @rule(target=containers, number=st.integers(0, 30))
    def name(self, number: int) -> str:
        return f"c{number}"

    @rule(container=containers)
    def allocate(self, container: str) -> None:
        try:
            given = self.allocator.allocate(claim(container), self.now_s).addresses
        except RangeExhaustedError:
            resting = [a for a, at in self.released.items() if ":" not in a and self.now_s - at < DELAY_S]
            assert len(self.model) + len(resting) == 13
            return
        if container in self.model:
            assert given == self.model[container]
            return
        for address, cidr in zip(given, RANGES, strict=True):
            assert all(address not in held for held in self.model.values())
            assert self.now_s - self.released.pop(address, -DELAY_S) >= DELAY_S
            assert netaddr.IPAddress(address) in netaddr.IPNetwork(cidr)
        self.model[container] = given

    @rule(container=containers)
    def release(self, container: str) -> None:
        gone = self.allocator.release(Attachment(container, "eth0"), self.now_s)
        assert (gone.addresses if gone else None) == self.model.get(container)
        self.released |= dict.fromkeys(self.model.pop(container, ()), self.now_s)

    @rule(container=containers)
    def give_back_unused(self, container: str) -> None:
        self.allocator.release(Attachment(container, "eth0"), self.now_s, was_used=False)
        self.model.pop(container, None)

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.model)
    @rule()
    def restart(self) -> None:
        state = json.loads(json.dumps(self.allocator.to_state()))
        self.allocator = Allocator.from_state(state, self.now_s, DELAY_S)
        self.released = dict.fromkeys(self.allocator.resting, self.now_s)

    @invariant()
    def claims_are_the_models(self) -> None:
        held = {a.container_id: c.addresses for a, c in self.allocator.claims.items()}
        assert held == self.model


TestAddresses = Addresses.TestCase
TestAddresses.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_state_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "addresses.state"
    assert files.load(path) is None
    allocator = allocator_of("10.244.1.0/24", "fd00:1::/64")
    allocator.allocate(claim("a"), 0.0)
    files.save(path, allocator.to_state())
    assert files.load(path) == allocator.to_state()
    assert [entry.name for entry in tmp_path.iterdir()] == ["addresses.state"]
    assert path.stat().st_mode & 0o777 == 0o600


FIXTURES = Path(__file__).parent / "fixtures"
FIXTURE = FIXTURES / "addresses-2.state"


@pytest.mark.parametrize(
    ("name", "addresses", "cidrs"),
    [
        pytest.param("addresses-1.state", ("10.244.1.2",), ("10.244.1.0/24",), id="1"),
        pytest.param("addresses-2.state", ("10.244.1.2", "fd00:1::2"), ("10.244.1.0/24", "fd00:1::/64"), id="2"),
    ],
)
def test_a_file_of_each_version_opens(name: str, addresses: tuple[str, ...], cidrs: tuple[str, ...]) -> None:
    state = files.load(FIXTURES / name)
    assert state is not None
    allocator = Allocator.from_state(state, 0.0)
    assert allocator.cidrs == cidrs
    assert list(allocator.resting) == ["10.244.1.3"]
    held = allocator.claims[Attachment("abc", "eth0")]
    assert (held.addresses, held.port_mappings[0].host_port) == (addresses, 8080)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda data: data[:-1], "damaged", id="cut"),
        pytest.param(lambda data: data.replace(b"10.244.1.2", b"10.244.1.3"), "damaged", id="changed"),
        pytest.param(lambda data: data.replace(b"ipam 2 ", b"ipam 3 "), "version 3", id="newer"),
        pytest.param(lambda data: b"[]" + data, "not an address state file", id="foreign"),
        pytest.param(lambda data: b"", "not an address state file", id="empty"),
    ],
)
def test_untrustworthy_files_are_refused_by_name(tmp_path: Path, change: object, told: str) -> None:
    path = tmp_path / "addresses.state"
    assert callable(change)
    path.write_bytes(change(FIXTURE.read_bytes()))
    with pytest.raises(files.StateFileError, match=rf"{path}.*{told}"):
        files.load(path)
