"""Runs the admission plugins in upstream's order: all mutations first, then all validations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from control.apiserver.admission.plugin import Plugin
from control.apiserver.measures import ADMISSION_BOUNDS, AdmissionMetrics
from control.apiserver.metrics import Metrics
from control.apiserver.request import AdmissionRequest

Half = Callable[[AdmissionRequest], Awaitable[None]]
_NAMES = {
    "ServiceAccountAdmission": "ServiceAccount",
    "MutatingWebhooks": "MutatingAdmissionWebhook",
    "ValidatingWebhooks": "ValidatingAdmissionWebhook",
    "ValidatingPolicies": "ValidatingAdmissionPolicy",
    "MutatingPolicies": "MutatingAdmissionPolicy",
}
"""What Kubernetes calls plugins whose classes have other names."""


class AdmissionChain:
    """The plugins of one API server, asked in turn; the first refusal ends it."""

    def __init__(self, plugins: Sequence[Plugin], metrics: AdmissionMetrics | None = None) -> None:
        self._metrics = metrics or AdmissionMetrics(Metrics())
        # Halves that a plugin leaves as they are need not be called.
        self._halves: dict[str, list[tuple[str, Half]]] = {
            "admit": [(name_of(each), each.mutate) for each in plugins if type(each).mutate is not Plugin.mutate],
            "validate": [
                (name_of(each), each.validate) for each in plugins if type(each).validate is not Plugin.validate
            ],
        }
        self._prepared: dict[tuple[str, str], list[tuple[str, Half, list[float]]]] = {}

    async def mutate(self, request: AdmissionRequest) -> None:
        """Let every plugin complete the object, once more where one changed what another had seen."""
        await self._run("admit", request)
        turns = request.reinvocation
        if turns is not None and turns.wanted and not turns.again:
            turns.again = True
            await self._run("admit", request)

    async def validate(self, request: AdmissionRequest) -> None:
        """Let every plugin judge the object as it will be stored."""
        await self._run("validate", request)

    def _prepare(self, step: str, operation: str) -> list[tuple[str, Half, list[float]]]:
        """Return the halves of one step with where the time of each is counted."""
        observed = self._metrics.plugin
        made = [(name, ask, observed.of(name, step, operation, "false")) for name, ask in self._halves[step]]
        self._prepared[step, operation] = made
        return made

    async def _run(self, step: str, request: AdmissionRequest) -> None:
        operation = request.operation
        halves = self._prepared.get((step, operation)) or self._prepare(step, operation)
        name, rejected = "", "true"
        began = since = perf_counter()
        try:
            for name, ask, series in halves:  # noqa: B007 (who refused is told below)
                await ask(request)
                now = perf_counter()
                spent_s = now - since
                series[bisect_left(ADMISSION_BOUNDS, spent_s)] += 1
                series[-1] += spent_s
                since = now
            rejected = "false"
        finally:
            now = perf_counter()
            if rejected == "true":
                self._metrics.plugin.observe(now - since, name, step, operation, rejected)
            self._metrics.step.observe(now - began, step, operation, rejected)


def name_of(plugin: Plugin) -> str:
    """Return what Kubernetes calls a plugin."""
    found = type(plugin).__name__
    return _NAMES.get(found, found)
