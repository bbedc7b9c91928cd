"""The forms of IP addresses and of ranges of them; what is wrong is told in Kubernetes' words.

Old fields take any way to write an address that means one thing; new fields take the shortest alone.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

BAD_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
BAD_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_LEADING_ZEROS = re.compile(r"(?<![0-9A-Fa-f])0+(?=[0-9])")
_OCTETS = re.compile(r"(?:^|:)([0-9]+(?:\.[0-9]+){3})$")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_address(text: str) -> Address | None:
    """Return the address that a text means, also where its octets begin with zeros; None where it means none."""
    if "%" in text or not text.isascii():
        return None
    try:
        return ip_address(_without_zeros(text))
    except ValueError:
        return None


def _without_zeros(text: str) -> str:
    found = _OCTETS.search(text)
    if found is None:
        return text
    return text[: found.start(1)] + _LEADING_ZEROS.sub("", found.group(1))


def parse_cidr(text: str) -> Network | None:
    """Return the range that a text means, None where it means none; bits behind the mask are dropped."""
    host, slash, bits = text.rpartition("/")
    parsed = parse_address(host) if slash else None
    if parsed is None or not (bits.isascii() and bits.isdecimal()):
        return None
    if len(bits.lstrip("0")) > 3 or int(bits) > parsed.max_prefixlen:
        return None
    return ip_network((parsed, int(bits)), strict=False)


def family(text: str) -> int:
    """Return the family of an address or a range, 4 or 6; 0 where it is neither."""
    parsed = parse_cidr(text) if "/" in text else parse_address(text)
    if parsed is None:
        return 0
    address = parsed.network_address if isinstance(parsed, IPv4Network | IPv6Network) else parsed
    return 4 if address.version == 4 or _mapped(address) else 6


def _mapped(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def address(text: str) -> list[str]:
    """Check an address in a field that takes any unambiguous way to write it."""
    parsed = parse_address(text)
    if parsed is None:
        return [BAD_ADDRESS]
    faults = [] if _without_zeros(text) == text else ["must not have leading 0s"]
    if not faults and _mapped(parsed):
        faults.append("must not be an IPv4-mapped IPv6 address")
    return faults


def canonical_address(text: str) -> list[str]:
    """Check an address in a field that takes its shortest form alone."""
    if found := address(text):
        return found
    wanted = str(parse_address(text))
    return [] if text == wanted else [f'must be in canonical form ("{wanted}")']


def cidr(text: str) -> list[str]:
    """Check a range in a field that takes any unambiguous way to write it."""
    network = parse_cidr(text)
    if network is None:
        return [BAD_CIDR]
    host, _, bits = text.rpartition("/")
    if _without_zeros(host) != host or (len(bits) > 1 and bits[0] == "0"):
        return ["must not have leading 0s in IP or prefix length"]
    written = parse_address(host)
    if written is not None and _mapped(written):
        return ["must not have an IPv4-mapped IPv6 address"]
    return [] if written == network.network_address else ["must not have bits set beyond the prefix length"]


def canonical_cidr(text: str) -> list[str]:
    """Check a range in a field that takes its shortest form alone."""
    if found := cidr(text):
        return found
    wanted = str(parse_cidr(text))
    return [] if text == wanted else [f'must be in canonical form ("{wanted}")']


def canonical_interface(text: str) -> list[str]:
    """Check an address with the length of its network, in its shortest form."""
    host, _, bits = text.rpartition("/")
    written = parse_address(host)
    if parse_cidr(text) is None or written is None:
        return ["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"]
    shown, length = str(written), int(bits)
    if isinstance(written, IPv6Address) and written.ipv4_mapped is not None:
        shown, length = str(written.ipv4_mapped), length - 96 if length > 32 else length
    wanted = f"{shown}/{length}"
    return [] if text == wanted else [f'must be in canonical form ("{wanted}")']


def is_strictly_within(inner: Network, outer: Network) -> bool:
    """Tell whether a range is a part of another, and not all of it."""
    if inner.version != outer.version or inner.prefixlen <= outer.prefixlen:
        return False
    return inner.network_address in outer
