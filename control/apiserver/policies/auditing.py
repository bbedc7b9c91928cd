"""What validating policies add to the audit events of a request."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from control.apiserver.policies.policy import Binding, Fault, Policy
from control.apiserver.request import annotate

FAILURE = "validation.policy.admission.k8s.io/validation_failure"
VALUE_BYTES_MAX = 10 * 1024


def tell_failure(policy: Policy, binding: Binding, fault: Fault) -> None:
    """Tell that a request does not hold to a policy; the first that says so is told, as in Kubernetes."""
    told = {
        "message": fault.text,
        "policy": policy.name,
        "binding": binding.name,
        "expressionIndex": fault.index,
        "validationActions": binding.actions,
    }
    annotate(FAILURE, orjson.dumps([told]).decode())


class Notes:
    """The annotations that policies make by their expressions, of all bindings and parameters together."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, policy: Policy, values: Sequence[tuple[str, str]]) -> None:
        """Take what one evaluation of a policy yields."""
        for key, value in values:
            short = value.encode()[:VALUE_BYTES_MAX].decode(errors="ignore")
            self._found.setdefault((policy.name, key), {})[short] = None

    def tell(self) -> None:
        """Put them into the request's audit events."""
        for (policy, key), values in self._found.items():
            annotate(f"{policy}/{key}", ", ".join(values))
