"""Which representation a client wants: plain objects, Table, metadata alone, or one of discovery's forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from control.api import status

JSON = "application/json"
YAML = "application/yaml"


@dataclass(frozen=True, slots=True)
class MediaType:
    """One entry of an Accept header."""

    type: str
    group: str = ""
    version: str = ""
    transform: str = ""
    """The ``as`` parameter: Table, PartialObjectMetadata, APIGroupDiscoveryList …"""
    pretty: bool = False


@lru_cache(maxsize=512)
def parse_accept(header: str) -> tuple[MediaType, ...]:
    """Return the entries of an Accept header, best first."""
    found: list[tuple[float, int, MediaType]] = []
    for index, part in enumerate(header.split(",")):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        if not media_type:
            continue
        pairs = dict(piece.split("=", 1) for piece in parameters if "=" in piece)
        try:
            quality = float(pairs.get("q", "1"))
        except ValueError:
            quality = 1.0
        entry = MediaType(
            media_type.lower(), pairs.get("g", ""), pairs.get("v", ""), pairs.get("as", ""), pairs.get("pretty") == "1"
        )
        found.append((-quality, index, entry))
    return tuple(entry for _, _, entry in sorted(found, key=lambda each: each[:2]))


_JSON_TYPES = frozenset({JSON, "*/*", "application/*"})
_TRANSFORMS = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})
PLAIN = MediaType(JSON)


def choose(header: str) -> MediaType:
    """Return the representation to answer an object with; raises NotAcceptable."""
    if not header:
        return PLAIN
    for entry in parse_accept(header):
        if entry.transform:
            served = (
                entry.transform in _TRANSFORMS and entry.group == "meta.k8s.io" and entry.version in ("v1", "v1beta1")
            )
            if served and entry.type in _JSON_TYPES:
                return entry
        elif entry.type in _JSON_TYPES:
            return PLAIN
        elif entry.type == YAML:
            return MediaType(YAML)
    text = "only the following media types are accepted: application/json, application/yaml"
    raise status.failure(406, "NotAcceptable", text)


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
