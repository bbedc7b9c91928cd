"""Objects as rows of a Table, as kubectl get shows them, or as their metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

from control.api import status
from control.api.meta import Object
from control.api.printers import table as printers
from control.apiserver.kinds import Kind


def read_include(text: str) -> printers.IncludeObject:
    """Read the includeObject parameter; raises BadRequest."""
    if text not in ("", "None", "Metadata", "Object"):
        raise status.bad_request(f'unrecognized includeObject value: "{text}"')
    return cast(printers.IncludeObject, text or "Metadata")


def table(
    kind: Kind,
    objects: Iterable[Object],
    metadata: Object,
    include: printers.IncludeObject,
    version: str,
    columns: bool = True,
    subresource: str = "",
) -> Object:
    """Return a Table of objects."""
    resource = kind.resource
    if kind.custom is not None and not subresource:
        shown = kind.custom.printer
    else:
        shown = printers.printer(resource.group, resource.version, resource.plural, subresource)
    return printers.table(
        shown,
        objects,
        datetime.now(UTC),
        include=include,
        list_metadata=metadata,
        with_columns=columns,
        version=version,
    )


def partial(obj: Object, version: str) -> Object:
    """Return an object's metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj["metadata"],
    }
