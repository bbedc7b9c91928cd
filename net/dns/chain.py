"""PURE: put an alias of our own and another server's answer to where it leads into one answer.

This is the one place where names have to be written anew, which a library does better; it is loaded when it is first
needed.
"""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from net.dns import wire
from net.dns.wire import Query


def joined(query: Query, aliases: tuple[bytes, ...], answer: bytes, ttl_s: int, size_max: int) -> bytes:
    """Return one answer: our aliases, then what the other server said."""
    theirs = dns.message.from_wire(answer, ignore_trailing=True)
    owner = dns.name.from_wire(query.name, 0)[0]
    whole = dns.message.Message(id=query.id)
    whole.flags = dns.flags.Flag(wire.QR | wire.RA | (query.flags & (wire.RD | wire.CD)))
    whole.set_rcode(dns.rcode.Rcode(theirs.rcode()))
    if query.has_edns:
        whole.use_edns(0, payload=wire.UDP_PAYLOAD_MAX, ednsflags=wire.DO if query.wants_dnssec else 0)
    kind = dns.rdatatype.RdataType(query.kind)
    whole.question.append(dns.rrset.RRset(owner, dns.rdataclass.IN, kind))
    for alias in aliases:
        target = dns.name.from_wire(alias, 0)[0]
        whole.answer.append(dns.rrset.from_text(owner, ttl_s, "IN", "CNAME", target.to_text()))
        owner = target
    whole.answer.extend(theirs.answer)
    whole.authority.extend(theirs.authority)
    written: bytes = whole.to_wire(max_size=size_max, prefer_truncation=True)
    return written
