"""Runs the admission plugins in upstream's order: all mutations first, then all validations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from control.api.resources import Resource
from control.apiserver.admission.plugin import Plugin
from control.apiserver.measures import ADMISSION_BOUNDS, AdmissionMetrics
from control.apiserver.metrics import Metrics
from control.apiserver.request import AdmissionRequest

PREPARED_MAX = 4096
Half = Callable[[AdmissionRequest], Awaitable[None]]
_NAMES = {
    "ServiceAccountAdmission": "ServiceAccount",
    "MutatingWebhooks": "MutatingAdmissionWebhook",
    "ValidatingWebhooks": "ValidatingAdmissionWebhook",
    "ValidatingPolicies": "ValidatingAdmissionPolicy",
    "MutatingPolicies": "MutatingAdmissionPolicy",
}
"""What Kubernetes calls plugins whose classes have other names."""


_Step = tuple[list[tuple[str, Half, list[float]]], list[list[float]], list[float]]
"""Who is asked; where those are counted who are not; where the whole step is."""


def _count(series: list[float], spent_s: float) -> None:
    # Most take less than the first bound: then there is nothing to search.
    series[0 if spent_s <= ADMISSION_BOUNDS[0] else bisect_left(ADMISSION_BOUNDS, spent_s)] += 1
    series[-1] += spent_s


def _same(one: Resource, other: Resource) -> bool:
    return one.plural == other.plural and one.group == other.group


class AdmissionChain:
    """The plugins of one API server, asked in turn; the first refusal ends it."""

    def __init__(self, plugins: Sequence[Plugin], metrics: AdmissionMetrics | None = None) -> None:
        self._metrics = metrics or AdmissionMetrics(Metrics())
        # Halves that a plugin leaves as they are need not be called.
        self._halves: dict[str, list[tuple[Plugin, Half]]] = {
            "admit": [(each, each.mutate) for each in plugins if type(each).mutate is not Plugin.mutate],
            "validate": [(each, each.validate) for each in plugins if type(each).validate is not Plugin.validate],
        }
        self._prepared: dict[tuple[str, str, str, str], _Step] = {}

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

    def _prepare(self, step: str, operation: str, resource: Resource) -> _Step:
        """Return the halves of one step that look at a resource, with where the time of each is counted."""
        asked: list[tuple[str, Half, list[float]]] = []
        passed: list[list[float]] = []
        for plugin, ask in self._halves[step]:
            name = name_of(plugin)
            series = self._metrics.plugin.of(name, step, operation, "false")
            if not plugin.about or any(_same(each, resource) for each in plugin.about):
                asked.append((name, ask, series))
            else:
                passed.append(series)
        made = asked, passed, self._metrics.step.of(step, operation, "false")
        if len(self._prepared) >= PREPARED_MAX:
            self._prepared.clear()
        self._prepared[step, operation, resource.group, resource.plural] = made
        return made

    async def _run(self, step: str, request: AdmissionRequest) -> None:
        operation, resource = request.operation, request.resource
        prepared = self._prepared.get((step, operation, resource.group, resource.plural))
        asked, passed, whole = prepared or self._prepare(step, operation, resource)
        name, rejected = "", "true"
        began = since = perf_counter()
        try:
            for name, ask, series in asked:  # noqa: B007 (who refused is told below)
                await ask(request)
                now = perf_counter()
                _count(series, now - since)
                since = now
            rejected = "false"
        finally:
            if rejected == "true":
                now = perf_counter()
                self._metrics.plugin.observe(now - since, name, step, operation, rejected)
                self._metrics.step.observe(now - began, step, operation, rejected)
        for series in passed:
            # They have nothing to say of this resource, which is told as no time.
            series[0] += 1
        _count(whole, since - began)


def name_of(plugin: Plugin) -> str:
    """Return what Kubernetes calls a plugin."""
    found = type(plugin).__name__
    return _NAMES.get(found, found)
