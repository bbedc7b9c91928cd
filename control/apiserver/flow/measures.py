"""What the gate tells Prometheus, under kube-apiserver's names: counted anyway, and read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from control.apiserver.flow.fairness import State
from control.apiserver.flow.gate import FlowGate, Passage
from control.apiserver.flow.level import EXECUTION_BOUNDS, WAIT_BOUNDS, FlowCounts, Level
from control.apiserver.metrics import Labels, Metrics

PREFIX = "apiserver_flowcontrol_"
_FLOW = ("priority_level", "flow_schema")
_LEVEL = ("priority_level",)


def measure(metrics: Metrics, gate: FlowGate) -> None:
    """Have a gate's numbers read whenever somebody asks for the metrics."""
    _count_flows(metrics, gate)
    _count_levels(metrics, gate)
    metrics.reading(
        f"{PREFIX}seat_fair_frac",
        "Share of what all levels would like that they get.",
        (),
        lambda: {(): gate.fair_share},
    )


def _flows(gate: FlowGate) -> Iterator[tuple[Labels, FlowCounts]]:
    for level in gate.levels.values():
        for schema, counts in level.counts.items():
            yield (level.name, schema), counts


def _present(gate: FlowGate, state: State, value: Callable[[Passage], int]) -> Mapping[Labels, float]:
    """Return a number of the requests that are here, by level and schema."""
    found: dict[Labels, float] = {labels: 0.0 for labels, _ in _flows(gate)}
    for level in gate.levels.values():
        for ticket in level.tickets:
            if isinstance(ticket, Passage) and ticket.state is state:
                labels = (level.name, ticket.route.schema.name)
                found[labels] = found.get(labels, 0.0) + value(ticket)
    return found


def _count_flows(metrics: Metrics, gate: FlowGate) -> None:
    def rejected() -> Mapping[Labels, float]:
        return {
            (*labels, reason): number for labels, counts in _flows(gate) for reason, number in counts.rejected.items()
        }

    metrics.reading(
        f"{PREFIX}rejected_requests_total",
        "Requests that were told to come back later.",
        (*_FLOW, "reason"),
        rejected,
        "counter",
    )
    metrics.reading(
        f"{PREFIX}dispatched_requests_total",
        "Requests that were served.",
        _FLOW,
        lambda: {labels: counts.dispatched for labels, counts in _flows(gate)},
        "counter",
    )
    present: tuple[tuple[str, str, State, Callable[[Passage], int]], ...] = (
        ("current_inqueue_requests", "Requests that wait.", State.WAITING, lambda _: 1),
        ("current_executing_requests", "Requests that are served now.", State.EXECUTING, lambda _: 1),
        ("current_executing_seats", "Seats that are taken now.", State.EXECUTING, lambda ticket: ticket.held),
    )
    for name, text, state, value in present:
        metrics.reading(PREFIX + name, text, _FLOW, partial(_present, gate, state, value))
    waited = metrics.histogram(
        f"{PREFIX}request_wait_duration_seconds", "Time that requests waited.", (*_FLOW, "execute"), WAIT_BOUNDS
    )
    lasted = metrics.histogram(
        f"{PREFIX}request_execution_seconds", "Time that requests were served.", (*_FLOW, "type"), EXECUTION_BOUNDS
    )

    async def refresh() -> None:
        for labels, counts in _flows(gate):
            waited.of(*labels, "true")[:] = counts.wait_executed
            waited.of(*labels, "false")[:] = counts.wait_rejected
            lasted.of(*labels, "regular")[:] = counts.execution

    metrics.before(refresh)


def _count_levels(metrics: Metrics, gate: FlowGate) -> None:
    numbers: tuple[tuple[str, str, Callable[[Level], float]], ...] = (
        ("nominal_limit_seats", "Seats that a level has by its shares.", lambda level: level.limits.nominal),
        ("lower_limit_seats", "Seats that a level never lends.", lambda level: level.limits.lower),
        ("upper_limit_seats", "Seats that a level may have with what it borrows.", lambda level: level.limits.upper),
        ("current_limit_seats", "Seats that a level has now.", lambda level: level.current),
        ("demand_seats_average", "Mean of the seats wanted in the last period.", lambda level: level.demand.mean),
        ("demand_seats_stdev", "Deviation of the seats wanted in it.", lambda level: level.demand.deviation),
        ("demand_seats_high_watermark", "The most seats wanted in it.", lambda level: level.demand.peak),
        ("demand_seats_smoothed", "Smoothed envelope of the seats wanted.", lambda level: level.demand.smoothed),
        (
            "target_seats",
            "Seats that a level should have.",
            lambda level: max(level.demand.smoothed, level.limits.lower),
        ),
    )
    for name, text, read in numbers:
        metrics.reading(PREFIX + name, text, _LEVEL, partial(_of_levels, gate, read))


def _of_levels(gate: FlowGate, read: Callable[[Level], float]) -> Mapping[Labels, float]:
    return {(level.name,): read(level) for level in gate.levels.values()}
