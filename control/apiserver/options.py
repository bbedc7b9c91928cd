"""What the query of a request may say, checked in Kubernetes' words; both doors ask here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from control.api import status
from control.api.tracking import check_field_manager
from control.api.validation.faults import Faults
from control.apiserver.request import RequestOptions

_KINDS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_VALIDATIONS = ("", "Ignore", "Strict", "Warn")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_INTEGER_MAX = 1 << 63


def number(text: str) -> int:
    """Read a number; raises BadRequest with the text of Go's parser."""
    if not text:
        return 0
    if not _INTEGER.fullmatch(text):
        raise status.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    found = int(text)
    if not -_INTEGER_MAX <= found < _INTEGER_MAX:
        raise status.bad_request(f'strconv.ParseInt: parsing "{text}": value out of range')
    return found


def check_write(verb: str, options: RequestOptions, dry_run: Sequence[str] = (), *, force: bool = False) -> None:
    """Raise Invalid for what no write may ask; ``force`` tells that a patch named it although it is no apply."""
    faults = Faults()
    if force:
        faults.forbidden("force", "may not be specified for non-apply patch")
    faults.causes += check_field_manager(options.field_manager)
    _check_dry_run(dry_run, faults)
    if options.field_validation not in _VALIDATIONS:
        faults.not_supported("fieldValidation", options.field_validation, _VALIDATIONS)
    if faults:
        raise status.invalid(_KINDS.get(verb, "DeleteOptions"), "", faults.causes, "meta.k8s.io")


def _check_dry_run(values: Sequence[str], faults: Faults) -> None:
    if any(value != "All" for value in values):
        faults.not_supported("dryRun", list(values), ["All"])
