"""Write control/api/facts/*.json: ``python -m control.api.generate --sources …/src/k8s.io``.

The sources are those of Debian's golang-k8s-api-dev, golang-k8s-apimachinery-dev and
golang-k8s-apiextensions-apiserver-dev at the version spoken (0.36), unpacked anywhere (dpkg-deb -x).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from control.api.generate import aggregation, definitions, resources

FACTS = Path(__file__).parent.parent / "facts"
SPOKEN = "1.36.0"


def _lines(entries: list[str]) -> str:
    return ",\n".join(entries)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write one definition a line, so that a new Kubernetes version reads as a diff."""
    path.write_text("{\n" + _lines([f"{_compact(name)}:{_compact(table[name])}" for name in sorted(table)]) + "\n}\n")


def _is_spoken(row: dict[str, Any], tables: dict[str, dict[str, Any]]) -> bool:
    """Tell whether the version spoken has this resource; lightkube-models may be newer."""
    package, _, kind = str(row["definition"]).rpartition(".")
    return kind in tables.get(package, {})


@click.command()
@click.option("--sources", type=click.Path(path_type=Path, exists=True), required=True, help="The folder src/k8s.io.")
def main(sources: Path) -> None:
    """Regenerate the tables of facts."""
    tables = definitions.build(sources)
    tables["apiregistration.v1"] = aggregation.build(SPOKEN)
    for name, table in tables.items():
        write_table(FACTS / "types" / f"{name}.json", table)
    rows = [row for row in resources.build() if _is_spoken(row, tables)]
    (FACTS / "resources.json").write_text("[\n" + _lines([_compact(row) for row in rows]) + "\n]\n")


main()
