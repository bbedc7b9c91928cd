"""Kubernetes quantities: "100m", "64Mi", "1e3"."""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil


class QuantityError(ValueError):
    """The text is not a quantity."""


_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(m|n|u|k|Ki|Mi|Gi|Ti|Pi|Ei|M|G|T|P|E|[eE][+-]?\d+)?$")
_SCALES: dict[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_WRONG = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def parse(text: str | float) -> Decimal:
    """Return the value in base units (cores, bytes); raises QuantityError with Kubernetes' text."""
    found = _FORM.match(str(text))
    if found is None:
        raise QuantityError(_WRONG)
    suffix = found[2] or ""
    scale = Decimal(10) ** int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else _SCALES[suffix]
    return Decimal(found[1]) * scale


def milli(text: str | float) -> int:
    """Return the value in thousandths, rounded up as Kubernetes rounds."""
    return ceil(parse(text) * 1000)


def whole(text: str | float) -> int:
    """Return the value in whole units, rounded up as Kubernetes rounds."""
    return ceil(parse(text))
