"""Another DNS server for tests: it says what it is told to say, by datagram and by stream."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Say = Callable[[dns.message.Message, bool], bytes | None]
"""Gets a question and whether it came by stream; None is silence."""


def saying(*lines: str, ttl: int = 60) -> Say:
    """Return an answer made of "OWNER TYPE DATA" lines, each for its owner's question and as part of a chain."""

    def say(query: dns.message.Message, _by_stream: bool) -> bytes:
        answer = dns.message.make_response(query, recursion_available=True)
        name = query.question[0].name.to_text().lower()
        for line in lines:
            owner, kind, data = line.split(" ", 2)
            if owner == name:
                asked = query.question[0].name
                shown = asked if owner == asked.to_text().lower() else dns.name.from_text(owner)
                answer.answer.append(dns.rrset.from_text(shown, ttl, "IN", kind, data))
                name = data if kind == "CNAME" else name
        if not answer.answer:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            answer.authority.append(
                dns.rrset.from_text("example.", ttl, "IN", "SOA", "ns.example. h.example. 1 2 3 4 5")
            )
        return answer.to_wire()

    return say


def refusing(code: dns.rcode.Rcode) -> Say:
    """Return an answer that is an error."""

    def say(query: dns.message.Message, _by_stream: bool) -> bytes:
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return answer.to_wire()

    return say


class Peer:
    """Answers at one address until closed."""

    def __init__(
        self,
        say: Say,
        address: str = "127.0.0.1",
        make: Callable[[int], socket.socket] | None = None,
        port: int = 0,
    ) -> None:
        self.say = say
        self.asked: list[tuple[str, bool]] = []
        """Names that were asked, and whether by stream."""
        self.senders: list[tuple[str, int]] = []
        self.ids: list[int] = []
        self._make = make or (lambda kind: socket.socket(socket.AF_INET, kind))
        self._datagrams, self._streams = self._bind(address, port)
        self.port: int = self._datagrams.getsockname()[1]
        self._streams.listen(16)
        self._closing = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._by_datagram, self._by_stream)]
        for each in (self._datagrams, self._streams):
            each.settimeout(0.1)
        for thread in self._threads:
            thread.start()
        self.place = f"{address}:{self.port}"

    def _bind(self, address: str, port: int) -> tuple[socket.socket, socket.socket]:
        """Bind both kinds to one port; another is tried where somebody has the second of a pair."""
        for last in (False,) * 20 + (True,):
            datagrams, streams = self._make(socket.SOCK_DGRAM), self._make(socket.SOCK_STREAM)
            try:
                datagrams.bind((address, port))
                streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                streams.bind((address, datagrams.getsockname()[1]))
            except OSError:
                datagrams.close()
                streams.close()
                if port or last:
                    raise
            else:
                return datagrams, streams
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._closing = True
        for thread in self._threads:
            thread.join(10)
        self._datagrams.close()
        self._streams.close()

    def _answer(self, data: bytes, sender: tuple[str, int], by_stream: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        if query.question[0].rdtype != dns.rdatatype.HINFO:  # a probe for loops
            self.asked.append((query.question[0].name.to_text(), by_stream))
            self.senders.append(sender[:2])
            self.ids.append(query.id)
        return self.say(query, by_stream)

    def _by_datagram(self) -> None:
        while not self._closing:
            try:
                data, sender = self._datagrams.recvfrom(4096)
            except OSError:
                continue
            if answer := self._answer(data, sender, False):
                self._datagrams.sendto(answer, sender)

    def _by_stream(self) -> None:
        while not self._closing:
            try:
                connection, sender = self._streams.accept()
            except OSError:
                continue
            with connection:
                connection.settimeout(5)
                size = int.from_bytes(connection.recv(2), "big")
                if answer := self._answer(connection.recv(size), sender, True):
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)
