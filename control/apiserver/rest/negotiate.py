"""Which representation a client wants: plain objects, Table, metadata alone, or one of discovery's forms.

The order among what a client accepts, and what may be had in which form, is kube-apiserver's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from control.api import status
from control.api.protobuf_encoding import CONTENT_TYPE

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = CONTENT_TYPE
SERVED = (JSON, YAML, PROTOBUF)
STREAMED = (JSON, PROTOBUF)
ENTRIES_MAX = 64
"""Accept headers with more are cut: nobody means them."""
_META_VERSIONS = ("v1", "v1beta1")


@dataclass(frozen=True, slots=True)
class MediaType:
    """One entry of an Accept header."""

    type: str
    group: str = ""
    version: str = ""
    transform: str = ""
    """The ``as`` parameter: Table, PartialObjectMetadata, APIGroupDiscoveryList …"""
    pretty: bool = False
    stream: str = ""
    server_version: str = ""
    converts: bool = False
    """Whether it asks for another form at all, even one without a name."""
    quality: float = 1.0


PLAIN = MediaType(JSON)


@lru_cache(maxsize=512)
def parse_accept(header: str) -> tuple[MediaType, ...]:
    """Return the entries of an Accept header, best first."""
    found = [entry for part in header.split(",")[:ENTRIES_MAX] if (entry := _entry(part)) is not None]
    return _sorted(found)


def _entry(part: str) -> MediaType | None:
    media_type, *parameters = (piece.strip(" ") for piece in part.split(";"))
    main, slash, sub = media_type.partition("/")
    if not slash or not sub:
        sub = "*" if main == "*" else ""
    if not sub or "/" in sub:
        return None
    pairs = dict(piece.split("=", 1) for piece in parameters if piece.count("=") == 1)
    try:
        quality = float(pairs.get("q", "1"))
    except ValueError:
        quality = 0.0
    return MediaType(
        f"{main.strip()}/{sub.strip()}",
        pairs.get("g", ""),
        pairs.get("v", ""),
        pairs.get("as", ""),
        pairs.get("pretty") == "1",
        pairs.get("stream", ""),
        pairs.get("sv", ""),
        not pairs.keys().isdisjoint(("as", "g", "v")),
        quality,
    )


def _sorted(found: list[MediaType]) -> tuple[MediaType, ...]:
    """Sort by insertion, as kube-apiserver does: its comparison is no order, so that the way of sorting counts."""
    for index in range(1, len(found)):
        place = index
        while place and _is_before(found[place], found[place - 1]):
            found[place - 1], found[place] = found[place], found[place - 1]
            place -= 1
    return tuple(found)


def _is_before(one: MediaType, other: MediaType) -> bool:
    return (
        one.quality > other.quality
        or (not one.type.startswith("*") and other.type.startswith("*"))
        or (not one.type.endswith("*") and other.type.endswith("*"))
    )


def choose(header: str, custom: bool = False) -> MediaType:
    """Return the representation to answer an object with; raises NotAcceptable."""
    return PLAIN if not header else _chosen(header, custom)


@lru_cache(maxsize=512)
def _chosen(header: str, custom: bool) -> MediaType:
    found = _negotiate(header, custom)
    if found is None:
        raise not_acceptable(SERVED)
    return found


def choose_stream(header: str, custom: bool = False) -> MediaType:
    """Return the representation of a watch's events; raises NotAcceptable."""
    found = choose(header, custom)
    if found.type not in STREAMED:
        raise not_acceptable([f"{each};stream=watch" for each in STREAMED])
    return found


def choose_error(header: str) -> MediaType:
    """Return the representation of a failure, which has no other form: laid out JSON where a client accepts none."""
    return _of_error(header) if header else PLAIN


@lru_cache(maxsize=512)
def _of_error(header: str) -> MediaType:
    return _negotiate(header, custom=False, converts=False) or MediaType(JSON, pretty=True)


def not_acceptable(served: Sequence[str]) -> status.ApiError:
    """406, with what could have been asked for."""
    text = f"only the following media types are accepted: {', '.join(served)}"
    return status.failure(406, "NotAcceptable", text)


def refuse_transform(wanted: str, what: str, go_type: str) -> status.ApiError:
    """406 for a list that is to be one object's metadata, or the other way round."""
    text = f"you requested {wanted}, but the requested object is {what} ({go_type})"
    return status.failure(406, "NotAcceptable", text)


def _negotiate(header: str, custom: bool, converts: bool = True) -> MediaType | None:
    for entry in parse_accept(header):
        if entry.converts and not converts:
            continue
        for media_type in SERVED:
            if _means(entry.type, media_type) and _allowed(entry, media_type, custom):
                if not entry.converts:
                    return MediaType(media_type, pretty=entry.pretty) if media_type != JSON or entry.pretty else PLAIN
                return MediaType(media_type, entry.group, entry.version, entry.transform, entry.pretty)
    return None


def _means(wanted: str, media_type: str) -> bool:
    return wanted in (media_type, "*/*") or (wanted.endswith("/*") and media_type.startswith(wanted[:-1]))


def _allowed(entry: MediaType, media_type: str, custom: bool) -> bool:
    if entry.stream and (media_type == YAML or entry.stream != "watch"):
        return False
    if entry.server_version not in ("", "v1"):
        return False
    if not entry.converts:
        # Objects of kinds that users define have no protobuf of their own.
        return not (custom and media_type == PROTOBUF)
    if entry.group != "meta.k8s.io" or entry.version not in _META_VERSIONS:
        return False
    if entry.transform == "Table":
        return media_type in (JSON, YAML)
    known = entry.transform in ("PartialObjectMetadata", "PartialObjectMetadataList")
    # The old version's messages have other numbers, and no program asks for them.
    return known and not (media_type == PROTOBUF and entry.version != "v1")


_JSON_TYPES = frozenset({JSON, "*/*", "application/*"})


def choose_discovery(header: str) -> MediaType:
    """Return the form of discovery to answer with: aggregated v2 or v2beta1, or plain."""
    for entry in parse_accept(header):
        if entry.type not in _JSON_TYPES:
            continue
        if not entry.transform:
            return PLAIN
        aggregated = entry.transform == "APIGroupDiscoveryList" and entry.group == "apidiscovery.k8s.io"
        if aggregated and entry.version in ("v2", "v2beta1"):
            return entry
    return PLAIN
