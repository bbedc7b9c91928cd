"""What is answered for the cluster's own names: the schema's tables, and what CoreDNS adds to them."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.dns import answers, wire, zone
from net.dns.zone import name_of
from tests.net.dnsworld import SERVICES_THERE, ZONE, asked, endpoint, endpoints, made_book, made_zone, service, texts

D = "default.svc.cluster.local."
SOA = "cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
FOUND = [
    ("service-a", f"web.{D}", "A", [f"web.{D} A 10.96.0.5"]),
    ("service-aaaa", f"web.{D}", "AAAA", [f"web.{D} AAAA fd00:96::5"]),
    ("service-srv", f"_http._tcp.web.{D}", "SRV", [f"_http._tcp.web.{D} SRV 0 100 80 web.{D}"]),
    ("service-srv-udp", f"_dns._udp.two.{D}", "SRV", [f"_dns._udp.two.{D} SRV 0 100 53 two.{D}"]),
    ("service-srv-all-ports", f"two.{D}", "SRV", [f"two.{D} SRV 0 100 53 two.{D}", f"two.{D} SRV 0 100 9000 two.{D}"]),
    ("service-ptr", "5.0.96.10.in-addr.arpa.", "PTR", [f"5.0.96.10.in-addr.arpa. PTR web.{D}"]),
    (
        "service-ptr-six", "5" + ".0" * 23 + ".6.9.0.0.0.0.d.f.ip6.arpa.", "PTR",
        ["5" + ".0" * 23 + f".6.9.0.0.0.0.d.f.ip6.arpa. PTR web.{D}"],
    ),
    ("service-endpoint", f"10-244-1-2.web.{D}", "A", [f"10-244-1-2.web.{D} A 10.244.1.2"]),
    ("service-endpoint-without-conditions", f"10-244-2-3.web.{D}", "A", [f"10-244-2-3.web.{D} A 10.244.2.3"]),
    ("headless", f"db.{D}", "A", [f"db.{D} A 10.244.{n}.7" for n in (1, 2, 3)]),
    ("headless-six", f"six.{D}", "AAAA", [f"six.{D} AAAA fd00:244::7", f"six.{D} AAAA fd00:244::8"]),
    ("headless-hostname", f"db-0.db.{D}", "A", [f"db-0.db.{D} A 10.244.1.7"]),
    ("headless-no-hostname", f"10-244-3-7.db.{D}", "A", [f"10-244-3-7.db.{D} A 10.244.3.7"]),
    ("headless-six-no-hostname", f"fd00-244--8.six.{D}", "AAAA", [f"fd00-244--8.six.{D} AAAA fd00:244::8"]),
    (
        "headless-srv", f"_http._tcp.db.{D}", "SRV",
        [f"_http._tcp.db.{D} SRV 0 33 8080 {n}.db.{D}" for n in ("10-244-3-7", "db-0", "db-1")],
    ),
    ("headless-srv-of-one-slice", f"_admin._tcp.db.{D}", "SRV", [f"_admin._tcp.db.{D} SRV 0 33 99 db-0.db.{D}"]),
    ("headless-ptr", "7.1.244.10.in-addr.arpa.", "PTR", [f"7.1.244.10.in-addr.arpa. PTR db-0.db.{D}"]),
    ("publish-not-ready", f"early-0.early.{D}", "A", [f"early-0.early.{D} A 10.244.1.8"]),
    ("external-inside", f"inside.{D}", "A", [f"inside.{D} CNAME web.{D}", f"web.{D} A 10.96.0.5"]),
    ("external-asked-for-alias", f"outside.{D}", "CNAME", [f"outside.{D} CNAME www.example.com."]),
    ("pod", "172-16-0-9.bare.pod.cluster.local.", "A", ["172-16-0-9.bare.pod.cluster.local. A 172.16.0.9"]),
    ("pod-six", "fd00-244--7.bare.pod.cluster.local.", "AAAA", ["fd00-244--7.bare.pod.cluster.local. AAAA fd00:244::7"]),
    ("schema-version", "dns-version.cluster.local.", "TXT", ['dns-version.cluster.local. TXT "1.1.0"']),
    ("apex-soa", "cluster.local.", "SOA", [SOA]),
    ("apex-ns", "cluster.local.", "NS", ["cluster.local. NS ns.dns.cluster.local."]),
    ("server", "ns.dns.cluster.local.", "A", ["ns.dns.cluster.local. A 169.254.20.10"]),
    ("any-is-one-set", f"two.{D}", "ANY", [f"two.{D} A 10.96.0.6"]),
]  # fmt: skip
NODATA = [
    ("other-type", f"web.{D}", "MX"),
    ("no-six", f"two.{D}", "AAAA"),
    ("pod-other-family", "172-16-0-9.bare.pod.cluster.local.", "AAAA"),
    ("between-svc", "svc.cluster.local.", "A"),
    ("between-pod", "pod.cluster.local.", "A"),
    ("between-namespace", "bare.svc.cluster.local.", "A"),
    ("between-protocol", f"_tcp.web.{D}", "SRV"),
    ("apex", "cluster.local.", "A"),
    ("alias-to-an-address", f"number.{D}", "A"),
]
NXDOMAIN = [
    ("service", f"nobody.{D}", "A"),
    ("namespace", "web.nowhere.svc.cluster.local.", "A"),
    ("pod-namespace", "172-16-0-9.nowhere.pod.cluster.local.", "A"),
    ("pod-no-address", "172-16-0-999.bare.pod.cluster.local.", "A"),
    ("pod-too-deep", "x.172-16-0-9.bare.pod.cluster.local.", "A"),
    ("pod-above-namespaces", "172-16-0-9.pod.cluster.local.", "A"),
    ("not-ready-endpoint", f"10-244-9-9.web.{D}", "A"),
    ("other-endpoint", f"10-244-1-3.web.{D}", "A"),
    ("headless-without-ready-endpoints", f"empty.{D}", "A"),
    ("headless-not-ready-hostname", f"empty-0.empty.{D}", "A"),
    ("port", f"_https._tcp.web.{D}", "SRV"),
    ("protocol", f"_http._udp.web.{D}", "SRV"),
    ("waits-for-its-address", f"waiting.{D}", "A"),
    ("slice-without-service", f"lost.{D}", "A"),
    ("searched-name", f"www.example.com.{D}", "A"),
    ("own-reverse", "9.9.244.10.in-addr.arpa.", "PTR"),
]
FOREIGN = [
    ("name", "www.example.com.", "A"),
    ("looks-alike", "xcluster.local.", "A"),
    ("label-holds-the-zone", "a\\007cluster\\005local.", "A"),
    ("above", "local.", "A"),
    ("reverse", "1.2.0.192.in-addr.arpa.", "PTR"),
    ("half-a-reverse", "244.10.in-addr.arpa.", "PTR"),
]


@pytest.mark.parametrize(("name", "kind", "wanted"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND])
def test_records(name: str, kind: str, wanted: list[str]) -> None:
    answer = asked(made_book(), name, kind)
    assert answer is not None
    assert answer.rcode() == dns.rcode.NOERROR
    assert texts(answer) == sorted(wanted)
    assert answer.flags & dns.flags.AA
    assert all(rrset.ttl == 5 for rrset in answer.answer)


@pytest.mark.parametrize(("name", "kind"), [row[1:] for row in NODATA], ids=[row[0] for row in NODATA])
def test_a_name_without_such_a_record_is_no_error(name: str, kind: str) -> None:
    answer = asked(made_book(), name, kind)
    assert answer is not None
    assert (answer.rcode(), texts(answer), texts(answer, "authority")) == (dns.rcode.NOERROR, [], [SOA])


@pytest.mark.parametrize(("name", "kind"), [row[1:] for row in NXDOMAIN], ids=[row[0] for row in NXDOMAIN])
def test_a_name_that_is_not_there_is_said_so(name: str, kind: str) -> None:
    answer = asked(made_book(), name, kind)
    assert answer is not None
    assert (answer.rcode(), texts(answer)) == (dns.rcode.NXDOMAIN, [])
    assert [line.partition(" SOA ")[2] for line in texts(answer, "authority")] == [SOA.partition(" SOA ")[2]]


@pytest.mark.parametrize(("name", "kind"), [row[1:] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
def test_other_names_are_others(name: str, kind: str) -> None:
    assert asked(made_book(), name, kind) is None


def test_srv_brings_the_addresses_along() -> None:
    answer = asked(made_book(), f"_http._tcp.db.{D}", "SRV")
    assert answer is not None
    wanted = [f"10-244-3-7.db.{D} A 10.244.3.7", f"db-0.db.{D} A 10.244.1.7", f"db-1.db.{D} A 10.244.2.7"]
    assert texts(answer, "additional") == wanted


def test_letters_stay_as_they_were_asked() -> None:
    query = dns.message.make_query("wEb.DeFault.SVC.cluster.LOCAL.", "A")
    found = answers.answer(made_book(), wire.parse_query(query.to_wire()), 512)
    assert isinstance(found, bytes)
    assert wire.parse_query(query.to_wire()).name in found


def test_before_the_first_lists_nothing_is_said_to_be_missing() -> None:
    book = answers.Book(ZONE)
    for name in (f"web.{D}", f"nobody.{D}", "cluster.local."):
        answer = asked(book, name, "A")
        assert answer is not None
        assert answer.rcode() == dns.rcode.SERVFAIL


def test_a_ring_of_aliases_ends() -> None:
    answer = asked(made_book(), f"round.{D}", "A")
    assert answer is not None
    assert answer.rcode() == dns.rcode.SERVFAIL


def test_an_alias_that_leads_outside_is_for_others_to_follow() -> None:
    found = answers.answer(made_book(), wire.parse_query(dns.message.make_query(f"outside.{D}", "A").to_wire()), 512)
    assert isinstance(found, answers.Reply)
    assert found.target == name_of("www.example.com.")


def test_headless_answers_come_in_changing_order() -> None:
    book = made_book()
    orders = {tuple(str(r) for r in asked(book, f"db.{D}", "A").answer[0]) for _ in range(60)}  # type: ignore[union-attr]
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("options", "size_max", "cut"),
    [({}, 512, True), ({"use_edns": 0, "payload": 1232}, 1232, True), ({"use_edns": 0}, 65535, False)],
    ids=["plain", "edns", "stream"],
)
def test_what_does_not_fit_is_cut_and_said(options: dict[str, int], size_max: int, cut: bool) -> None:
    made = made_zone()
    many = [endpoint(f"10.244.{n // 250}.{n % 250}") for n in range(300)]
    made.put_service("default/db", SERVICES_THERE[2], [endpoints("db", many)])
    answer = asked(made_book(made), f"db.{D}", "A", size_max, **options)
    assert answer is not None
    assert bool(answer.flags & dns.flags.TC) == cut
    assert (len(texts(answer)) == 300) != cut
    assert answer.edns == (0 if options else -1)


@pytest.mark.parametrize(
    ("kind", "options", "rcode"),
    [("AXFR", {}, "REFUSED"), ("IXFR", {}, "REFUSED"), ("A", {"rdclass": "CH"}, "REFUSED"), ("A", {"use_edns": 1}, "BADVERS")],
    ids=["axfr", "ixfr", "chaos", "edns-1"],
)  # fmt: skip
def test_what_is_not_served_is_refused(kind: str, options: dict[str, str], rcode: str) -> None:
    query = dns.message.make_query("cluster.local.", kind, **options)  # type: ignore[arg-type]
    found = answers.answer(made_book(), wire.parse_query(query.to_wire()), 512)
    assert isinstance(found, bytes)
    assert dns.rcode.to_text(dns.message.from_wire(found).rcode()) == rcode


NAMES = st.sampled_from(["a", "b", "db"])
ADDRESSES = st.sampled_from(["10.244.0.1", "10.244.0.2", "fd00::1"])
OBJECTS = st.one_of(
    st.none(),
    st.builds(lambda ip: service("x", clusterIPs=[ip], ports=[{"name": "http", "port": 80}]), ADDRESSES),
    st.just(service("x", clusterIP="None", clusterIPs=["None"])),
    st.just(service("x", type="ExternalName", externalName="example.com")),
)
SLICES = st.lists(
    st.builds(
        lambda ip, name: endpoints("x", [endpoint(ip, name)], address_type="IPv6" if ":" in ip else "IPv4"),
        ADDRESSES, st.sampled_from(["", "h"]),
    ),
    max_size=2,
)  # fmt: skip


@given(st.lists(st.tuples(NAMES, OBJECTS, SLICES), max_size=8))
def test_changes_lead_where_everything_anew_leads(
    steps: list[tuple[str, dict[str, object] | None, list[dict[str, object]]]],
) -> None:
    told: dict[bytes, answers.Entry] = {}
    made = zone.Zone(ZONE)
    for key, entry in made.take_changes().items():
        assert entry is not None
        told[key] = entry
    last: dict[str, tuple[dict[str, object] | None, list[dict[str, object]]]] = {}
    for name, obj, slices in steps:
        if obj is not None:
            obj = {**obj, "metadata": {"name": name, "namespace": "default"}}
        made.put_service(f"default/{name}", obj, slices)
        last[name] = (obj, slices)
        for key, entry in made.take_changes().items():
            if entry is None:
                told.pop(key, None)
            else:
                told[key] = entry
    fresh = zone.Zone(ZONE)
    for name, (obj, slices) in last.items():
        fresh.put_service(f"default/{name}", obj, slices)
    assert told == fresh.everything() == made.everything()
