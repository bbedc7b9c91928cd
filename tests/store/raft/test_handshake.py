"""Who may connect as which member, and who a new member finds out to be."""

from __future__ import annotations

from typing import Any

import pytest

from proto.raft import message_pb2 as pb
from store.raft.contract import ChangeKind, MemberChange, MemberRecord
from store.raft.handshake import GUESTS_MAX, AddressBook, HandshakeError, RemovedPeerError
from store.raft.joining import assigned
from store.raft.members import MembershipError
from store.raft.membership import Membership

NAMED = MemberRecord(2, "b", ("https://b:1",))
UNNAMED = MemberRecord(3, "", ("https://c:1",), is_joining=True)


def book(*, has_certificates: bool = True) -> AddressBook:
    found = AddressBook(0xC1, 1, has_certificates)
    found.replace({2: NAMED, 3: UNNAMED}, frozenset({8}))
    return found


def hello(member_id: int, name: str = "", *urls: str, cluster_id: int = 0xC1, version: int = 1) -> pb.Hello:
    return pb.Hello(version=version, cluster_id=cluster_id, member_id=member_id, name=name, peer_urls=urls)


def certificate(*names: str) -> dict[str, Any]:
    return {"subjectAltName": tuple(("URI", f"raftsman://member/{name}") for name in names)}


WELCOME = {
    "a member": (hello(2, "b"), certificate("b")),
    "a member that does not say its name": (hello(2), certificate("b")),
    "one that starts for the first time": (hello(3, "c"), certificate("c")),
    "one that joined while we were away": (hello(9, "z", "https://z:1"), certificate("z")),
}
REFUSED = {
    "other cluster": (hello(2, "b", cluster_id=7), certificate("b")),
    "other version": (hello(2, "b", version=9), certificate("b")),
    "this very member": (hello(1, "a"), certificate("a")),
    "another's certificate": (hello(2, "b"), certificate("c")),
    "no certificate": (hello(2, "b"), None),
    "the first start under another's name": (hello(3, "b"), certificate("b")),
    "the first start without a name": (hello(3), certificate("")),
    "the first start under a name that the certificate does not give": (hello(3, "c"), certificate("d")),
    "a guest under a member's name": (hello(9, "b", "https://z:1"), certificate("b")),
    "a guest that cannot be dialled": (hello(9, "z"), certificate("z")),
    "a guest whose certificate says otherwise": (hello(9, "z", "https://z:1"), certificate("y")),
}


@pytest.mark.parametrize(("greeting", "shown"), WELCOME.values(), ids=WELCOME.keys())
def test_who_proves_it_is_let_in(greeting: pb.Hello, shown: dict[str, Any]) -> None:
    assert book().identify(greeting, shown).member_id == greeting.member_id


@pytest.mark.parametrize(("greeting", "shown"), REFUSED.values(), ids=REFUSED.keys())
def test_who_does_not_is_refused(greeting: pb.Hello, shown: dict[str, Any] | None) -> None:
    with pytest.raises(HandshakeError):
        book().identify(greeting, shown)


@pytest.mark.parametrize("has_certificates", [True, False])
def test_a_removed_member_is_told_so(has_certificates: bool) -> None:
    with pytest.raises(RemovedPeerError):
        book(has_certificates=has_certificates).identify(hello(8, "h", "https://h:1"), certificate("h"))


def test_a_name_is_bound_by_whoever_comes_first() -> None:
    known = book()
    known.identify(hello(3, "c"), certificate("c"))
    with pytest.raises(HandshakeError, match="claims the name 'd'"):
        known.identify(hello(3, "d"), certificate("d"))
    assert known.may_publish(3, "c")
    assert not known.may_publish(3, "d")
    assert not known.may_publish(2, "c")
    assert not known.may_publish(9, "z")


def test_without_certificates_a_peer_is_whom_it_says_it_is() -> None:
    known = book(has_certificates=False)
    assert known.identify(hello(2, "b"), None) == NAMED
    assert known.identify(hello(3, "c"), None) == UNNAMED
    assert known.may_publish(3, "anything")


def test_guests_are_few_and_become_members() -> None:
    known = book(has_certificates=False)
    for number in range(GUESTS_MAX):
        known.identify(hello(100 + number, f"g{number}", "http://g:1"), None)
    with pytest.raises(HandshakeError, match="too many"):
        known.identify(hello(200, "late", "http://g:1"), None)
    known.replace({2: NAMED, 100: MemberRecord(100, "g0", ("http://g:1",))}, frozenset({101}))
    assert 100 not in known.guests
    assert 101 not in known.guests


# Joining.

TWO = Membership.of([MemberRecord(1, "a", ("http://a:1",))]).changed(
    MemberChange(ChangeKind.ADD, 5, peer_urls=("http://b:1", "http://b:2")), 7
)
FLAGS = [("a", ("http://a:1",)), ("b", ("http://b:2", "http://b:1"))]


def test_a_new_member_takes_its_id_from_the_cluster() -> None:
    assert assigned("b", FLAGS, TWO) == 5


@pytest.mark.parametrize(
    ("name", "flags", "complaint"),
    [
        ("b", FLAGS[:1], "member count is unequal"),
        ("b", [FLAGS[0], ("b", ("http://b:9",))], "no match found for existing member"),
        ("c", FLAGS, "does not name this member"),
        ("x", [("x", ("http://a:1",)), FLAGS[1]], "are those of member a"),
    ],
    ids=["too few", "other URLs", "not named", "another's place"],
)
def test_flags_that_do_not_fit_the_cluster_are_refused(
    name: str, flags: list[tuple[str, tuple[str, ...]]], complaint: str
) -> None:
    with pytest.raises(MembershipError, match=complaint):
        assigned(name, flags, TWO)
