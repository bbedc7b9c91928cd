"""A whole server on loopback: a feeder on a fake API, and its resolver, a process; asked by the library."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from control.api.resources import ENDPOINT_SLICES, SERVICES
from net.dns import channel, upstream
from tests.net.dnspeer import Peer, refusing, saying
from tests.net.dnsworld import Running, endpoint, endpoints, running, service, texts

WEB = "web.default.svc.cluster.local."
TIMEOUT_S = 20.0


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def eventually(what: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def port_of(made: Running) -> int:
    eventually(lambda: made.server and made.server.resolver and made.server.bound)
    assert made.server is not None
    return made.server.bound[0][1]


def ask(port: int, name: str, kind: str = "A", *, by_stream: bool = False, **options: int) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    how = dns.query.tcp if by_stream else dns.query.udp
    return how(query, "127.0.0.1", TIMEOUT_S, port)


def ready(made: Running) -> int:
    port = port_of(made)
    eventually(lambda: ask(port, WEB).rcode() == dns.rcode.NOERROR)
    return port


@contextmanager
def asking(port: int, name: str = WEB) -> Iterator[list[str]]:
    """Ask without pause by datagram and now and then by stream; yields the list of what went wrong."""
    wrong: list[str] = []
    count = 0
    ending = threading.Event()

    def work() -> None:
        nonlocal count
        while not ending.is_set():
            try:
                answer = ask(port, name, by_stream=count % 10 == 9)
                if answer.rcode() != dns.rcode.NOERROR or not answer.answer:
                    wrong.append(answer.to_text())
            except (OSError, EOFError, dns.exception.DNSException) as error:
                wrong.append(repr(error))
            count += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: count > 30)
        yield wrong
        after = count
        eventually(lambda: count > after + 30)
    finally:
        ending.set()
        for thread in threads:
            thread.join(TIMEOUT_S)


def test_answers_follow_the_objects(short: Path) -> None:
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        assert texts(ask(port, WEB)) == [f"{WEB} A 10.96.0.5"]
        assert texts(ask(port, WEB, by_stream=True)) == [f"{WEB} A 10.96.0.5"]
        assert ask(port, "new.default.svc.cluster.local.").rcode() == dns.rcode.NXDOMAIN
        made.put(SERVICES, service("new", clusterIP="None", clusterIPs=["None"]))
        made.put(ENDPOINT_SLICES, endpoints("new", [endpoint("10.244.5.5")]))
        eventually(lambda: ask(port, "new.default.svc.cluster.local.").answer)
        made.remove(SERVICES, "web", "default")
        eventually(lambda: ask(port, WEB).rcode() == dns.rcode.NXDOMAIN)


def test_nothing_is_missing_before_the_lists_are_complete(short: Path) -> None:
    """Other names are answered meanwhile."""
    peer = Peer(saying("www.example. A 192.0.2.1"))
    try:
        with running(short, upstream=(peer.place,)) as made:
            made.put_world()
            gate, whole = threading.Event(), made.client.list

            async def gated(resource: object, *args: object, **options: object) -> object:
                while resource == ENDPOINT_SLICES and not gate.is_set():
                    await asyncio.sleep(0.01)
                return await whole(resource, *args, **options)

            made.client.list = gated
            made.start()
            port = port_of(made)
            assert ask(port, WEB).rcode() == dns.rcode.SERVFAIL
            assert ask(port, "nobody.default.svc.cluster.local.").rcode() == dns.rcode.SERVFAIL
            assert texts(ask(port, "www.example.")) == ["www.example. A 192.0.2.1"]
            gate.set()
            eventually(lambda: ask(port, WEB).rcode() == dns.rcode.NOERROR)
    finally:
        peer.close()


def test_no_question_fails_while_the_feeder_is_started_again(short: Path) -> None:
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        first = made.server.resolver.pid  # type: ignore[union-attr]
        with asking(port) as wrong:
            made.stop()
            made.put(SERVICES, service("late", clusterIPs=["10.96.0.77"]))
            made.start(port=port)
            eventually(lambda: ask(port, "late.default.svc.cluster.local.").answer)
        assert not wrong
        assert made.server.resolver.pid == first  # type: ignore[union-attr]


def test_no_question_fails_while_the_resolver_is_replaced(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        first = made.server.resolver.pid  # type: ignore[union-attr]
        with asking(port) as wrong:
            made.stop()
            monkeypatch.setattr(channel, "version", lambda: "another")
            made.start(port=port)
            eventually(
                lambda: not Path(f"/proc/{first}").exists() or "zombie" in Path(f"/proc/{first}/status").read_text()
            )
        assert not wrong


def test_no_question_fails_when_the_resolver_is_killed(short: Path) -> None:
    """What comes meanwhile waits in the sockets, which the feeder holds too."""
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        first = made.server.resolver.pid  # type: ignore[union-attr]
        wrong: list[str] = []
        for _ in range(20):
            wrong += [repr(ask(port, WEB).rcode())] if not ask(port, WEB).answer else []
        os.kill(first, signal.SIGKILL)
        for _ in range(20):
            # A datagram that the dead process had read is lost, and asked again by every resolver.
            wrong += ["no answer"] if not ask(port, WEB).answer else []
        assert not wrong
        assert made.server.resolver.pid != first  # type: ignore[union-attr]


def test_answers_go_on_without_anybody_who_feeds(short: Path) -> None:
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        made.stop()
        assert ask(port, WEB).answer
        assert ask(port, "nobody.default.svc.cluster.local.").rcode() == dns.rcode.NXDOMAIN


def test_metrics_and_health(short: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        metrics_port = taken.getsockname()[1]
    with running(short, metrics_bind_address=f"127.0.0.1:{metrics_port}") as made:
        made.put_world()
        made.start()
        port = ready(made)
        ask(port, WEB, by_stream=True)
        ask(port, "nobody.default.svc.cluster.local.", "AAAA")

        def read(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}{path}", timeout=TIMEOUT_S) as answer:
                return str(answer.read().decode())

        assert (read("/health"), read("/ready")) == ("OK", "OK")
        text = read("/metrics")
        assert 'coredns_dns_requests_total{proto="tcp",type="A",zone="cluster.local."} 1.0' in text
        assert 'coredns_dns_responses_total{rcode="NXDOMAIN",zone="cluster.local."} 1.0' in text
        assert 'coredns_dns_request_duration_seconds_bucket{le="+Inf",zone="cluster.local."}' in text


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\0\7\1\0\0\2" + b"\0" * 6, 1), (b"\0\7\x29\0\0\1" + b"\0" * 6, 4), (b"\0\7\1\0\0\1\0\0\0\0\0\0\x40", 1)],
    ids=["two-questions", "update", "label"],
)
def test_bad_messages_are_answered_by_their_header(short: Path, data: bytes, code: int) -> None:
    with running(short) as made, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        made.start()
        client.settimeout(TIMEOUT_S)
        client.connect(("127.0.0.1", port_of(made)))
        client.send(b"\0\1\x80\0" + data)  # an answer: nothing may be said to it
        client.send(b"short")
        client.send(data)
        found = client.recv(512)
        assert (found[:2], found[3] & 0xF) == (b"\0\7", code)


def test_streams_take_several_questions(short: Path) -> None:
    with running(short) as made:
        made.put_world()
        made.start()
        port = ready(made)
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as client:
            queries = [dns.message.make_query(WEB, kind) for kind in ("A", "AAAA", "SRV")]
            for query in queries:
                dns.query.send_tcp(client, query)
            for query in queries:
                answer, _ = dns.query.receive_tcp(client, time.time() + TIMEOUT_S)
                assert query.is_response(answer)


def test_other_names_are_asked_of_others_once(short: Path) -> None:
    peer = Peer(saying("www.example. CNAME a.example.", "a.example. A 192.0.2.1"))
    try:
        with running(short, upstream=(peer.place,)) as made:
            made.start()
            port = port_of(made)
            for name in ("www.example.", "wWw.Example."):
                found = ask(port, name)
                assert found.question[0].name.to_text() == name
                assert [line.lower() for line in texts(found)] == [
                    "a.example. a 192.0.2.1",
                    "www.example. cname a.example.",
                ]
            assert ask(port, "gone.example.").rcode() == dns.rcode.NXDOMAIN
            assert ask(port, "gone.example.").rcode() == dns.rcode.NXDOMAIN
            assert [name.lower() for name, _ in peer.asked] == ["www.example.", "gone.example."]
            for number in range(20):
                ask(port, f"n{number}.example.")
            assert len(set(peer.ids)) > 15
            assert len({sender[1] for sender in peer.senders}) > 15
    finally:
        peer.close()


def test_an_alias_is_followed_to_other_servers(short: Path) -> None:
    peer = Peer(saying("www.example.com. A 192.0.2.80"))
    try:
        with running(short, upstream=(peer.place,)) as made:
            made.put_world()
            made.start()
            port = ready(made)
            outside = "outside.default.svc.cluster.local."
            for _ in range(2):
                found = ask(port, outside)
                assert texts(found) == [f"{outside} CNAME www.example.com.", "www.example.com. A 192.0.2.80"]
            assert len(peer.asked) == 1
    finally:
        peer.close()


def test_a_long_answer_is_fetched_by_stream(short: Path) -> None:
    def say(query: dns.message.Message, by_stream: bool) -> bytes:
        answer = dns.message.make_response(query)
        if not by_stream:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        for number in range(90):
            answer.answer.append(
                dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", f'"{number:03} {"x" * 20}"')
            )
        return answer.to_wire(max_size=65535)

    peer = Peer(say)
    try:
        with running(short, upstream=(peer.place,)) as made:
            made.start()
            port = port_of(made)
            assert ask(port, "long.example.", "TXT").flags & dns.flags.TC
            assert len(texts(ask(port, "long.example.", "TXT", by_stream=True))) == 90
            assert [by_stream for _, by_stream in peer.asked] == [False, True]
    finally:
        peer.close()


def forged_id(query: dns.message.Message, _by_stream: bool) -> bytes:
    """Return what somebody would send who guesses."""
    answer = saying("www.example. A 203.0.113.66")(query, False)
    assert answer is not None
    return bytes((answer[0] ^ 1,)) + answer[1:]


def forged_name(query: dns.message.Message, _by_stream: bool) -> bytes | None:
    """Return the answer to another question."""
    other = dns.message.make_query("www.example.org.", "A")
    other.id = query.id
    return saying("www.example.org. A 203.0.113.66")(other, False)


@pytest.mark.parametrize(
    "first",
    [lambda _query, _by_stream: None, refusing(dns.rcode.SERVFAIL), refusing(dns.rcode.REFUSED), lambda *_: b"\0\0nonsense", forged_id, forged_name],
    ids=["silent", "servfail", "refused", "nonsense", "other-id", "other-name"],
)  # fmt: skip
def test_the_next_server_is_asked_where_one_fails(short: Path, first: object) -> None:
    ill, well = Peer(first), Peer(saying("www.example. A 192.0.2.1"))  # type: ignore[arg-type]
    try:
        with running(short, upstream=(ill.place, well.place)) as made:
            made.start()
            assert texts(ask(port_of(made), "www.example.")) == ["www.example. A 192.0.2.1"]
            assert ill.asked
    finally:
        ill.close()
        well.close()


def test_without_servers_other_names_fail_at_once(short: Path) -> None:
    (short / "resolv.conf").write_text("search example\n")
    with running(short, upstream=(), resolv_conf=short / "resolv.conf") as made:
        made.start()
        assert ask(port_of(made), "www.example.").rcode() == dns.rcode.SERVFAIL


def test_nobody_is_asked_who_would_ask_himself() -> None:
    own = frozenset({("169.254.20.10", 53), ("fd00:90::a", 53)})
    texts = ["169.254.20.10", "192.0.2.1", "fd00:90::a", "169.254.20.10:5353", "192.0.2.1:53", "[fd00:90::b]:54"]
    assert [str(server) for server in upstream.servers_of(texts, own)] == [
        "192.0.2.1:53", "169.254.20.10:5353", "[fd00:90::b]:54",
    ]  # fmt: skip


def test_a_server_that_asks_us_in_turn_is_left_out(short: Path) -> None:
    """As a forwarder on the node does whose own resolver file names the node's DNS."""
    ring: list[int] = []

    def say(query: dns.message.Message, _by_stream: bool) -> bytes | None:
        try:
            forwarded = dns.message.make_query(query.question[0].name, query.question[0].rdtype)
            answer = dns.query.udp(forwarded, "127.0.0.1", 0.5, ring[0])
        except (OSError, dns.exception.DNSException):
            return None
        answer.id = query.id
        return answer.to_wire()

    round_trip, straight = Peer(say), Peer(saying("www.example. A 192.0.2.1"))
    try:
        with running(short, upstream=(round_trip.place, straight.place)) as made:
            made.start()
            port = port_of(made)
            ring.append(port)

            def servers() -> object:
                return made.call(made.server.resolver.say({"do": "counts"}))["servers"]  # type: ignore[union-attr]

            eventually(lambda: servers() == [straight.place])
            assert texts(ask(port, "www.example.")) == ["www.example. A 192.0.2.1"]
    finally:
        round_trip.close()
        straight.close()


def test_the_nodes_servers_are_read_anew(short: Path) -> None:
    """resolv.conf names no port, so the file's reading is seen by what the resolver says of itself."""
    path = short / "resolv.conf"
    path.write_text("search x\nnameserver 192.0.2.1\nnameserver nonsense\n")
    with running(short, upstream=(), resolv_conf=path) as made:
        made.start()
        port_of(made)

        def servers() -> object:
            return made.call(made.server.resolver.say({"do": "counts"}))["servers"]  # type: ignore[union-attr]

        eventually(lambda: servers() == ["192.0.2.1:53"])
        path.write_text("nameserver 192.0.2.77\nnameserver fe80::1%eth0\n")
        eventually(lambda: servers() == ["192.0.2.77:53", "[fe80::1%eth0]:53"])
