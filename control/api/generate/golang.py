"""Read the struct, alias and constant declarations of one Go package, as far as the API's types use the language."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_STRUCT = re.compile(r"^type (\w+) struct ?\{(\})?")
_ALIAS = re.compile(r"^type (\w+) (\[\]|map\[[\w.]+\])?([\w.*]+)$")
_FIELD = re.compile(r"^\t(?:(\w+) )?\s*([\w.*\[\]]+)\s+`(.*)`")
_CONSTANT = re.compile(r'^(?:const )?\s*\w+\s+(\w+)\s*=\s*"([^"]*)"')
_MARKER = re.compile(r"^\s*//\s*\+(.+?)\s*$")
_TAG = re.compile(r'(\w+):"([^"]*)"')


@dataclass(frozen=True)
class GoField:
    """One struct field: its Go type, its tags and the `+markers` above it."""

    go_name: str
    go_type: str
    tags: dict[str, str]
    markers: tuple[str, ...]

    @property
    def json_name(self) -> str:
        """The name on the JSON wire, empty for an inlined struct."""
        return self.tags.get("json", "").split(",")[0]

    @property
    def json_options(self) -> list[str]:
        """What follows the name in the json tag: omitempty, omitzero, inline."""
        return self.tags.get("json", "").split(",")[1:]

    @property
    def number(self) -> int:
        """The protobuf field number, 0 where the field is not on that wire."""
        parts = self.tags.get("protobuf", "").split(",")
        return int(parts[1]) if len(parts) > 1 else 0


@dataclass
class GoStruct:
    """A struct declaration with the markers of its comment."""

    name: str
    markers: tuple[str, ...]
    fields: list[GoField] = field(default_factory=list)


@dataclass
class GoPackage:
    """All declarations of a package that describe wire types."""

    structs: dict[str, GoStruct] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    enum_types: set[str] = field(default_factory=set)
    constants: dict[str, list[str]] = field(default_factory=dict)


def parse_package(folder: Path) -> GoPackage:
    """Parse the hand-written sources of one package folder."""
    package = GoPackage()
    for path in sorted(folder.glob("*.go")):
        if path.name.endswith(("_test.go", ".pb.go")) or path.name.startswith("zz_"):
            continue
        _parse_file(path.read_text(), package)
    return package


def _parse_file(text: str, package: GoPackage) -> None:
    markers: list[str] = []
    current: GoStruct | None = None
    for line in text.splitlines():
        if match := _MARKER.match(line):
            markers.append(match[1])
            continue
        if line.lstrip().startswith("//"):
            continue
        if current is not None:
            if line.startswith("}"):
                current = None
            elif match := _FIELD.match(line):
                name = match[1] or match[2].lstrip("*").rsplit(".", 1)[-1]
                current.fields.append(GoField(name, match[2], dict(_TAG.findall(match[3])), tuple(markers)))
            markers = [] if line.strip() else markers
            continue
        if match := _STRUCT.match(line):
            struct = package.structs[match[1]] = GoStruct(match[1], tuple(markers))
            current = None if match[2] else struct
        elif match := _ALIAS.match(line):
            package.aliases[match[1]] = (match[2] or "") + match[3]
            if any(marker == "enum" for marker in markers):
                package.enum_types.add(match[1])
        elif match := _CONSTANT.match(line):
            values = package.constants.setdefault(match[1], [])
            if match[2] not in values:
                values.append(match[2])
        if line.strip():
            markers = []
