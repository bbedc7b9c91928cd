"""The values of an explanation: steps, the branches that a choice opens, and the sentence at the end: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from net.explain.objects import Objects
from net.explain.parties import Source, Target
from net.explain.things import Place, Standing, Thing
from net.proxy.config import ProxyConfig
from net.routes.config import RoutesConfig


@dataclass(frozen=True, slots=True)
class Wording:
    """Say where in a rule set something happens, and what must stand there."""

    where: str
    """The chains and elements on the way, as people know them."""
    things: tuple[Thing, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one thing that happens to the packet."""

    place: Place
    hook: str
    """The kernel's hook, or "route", "link", "socket"."""
    words: str
    where: str = ""
    owner: str = ""
    """The Kubernetes object that wants this: "Service default/web"."""
    things: tuple[Thing, ...] = ()
    stops: str = ""
    """The sentence that says why the packet goes no further; empty where it does."""
    findings: tuple[str, ...] = ()
    """How the kernel differs from what is wanted here."""
    is_checked: bool = False
    """Whether the kernel was asked."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Hold one of the ways that a choice opens."""

    label: str
    chance: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Hold the whole way of one packet."""

    source: str
    target: str
    packet: str
    """What the packet looks like as it is sent: protocol, source, destination."""
    steps: tuple[Step, ...] = ()
    branches: tuple[Branch, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""
    """The sentence where no packet can be sent at all."""
    protocol: str = ""
    destination: tuple[str, int] = ("", 0)
    """Where the packet is sent to: address and port."""

    def every_step(self) -> Iterator[Step]:
        """Yield the steps of all branches."""
        yield from self.steps
        for branch in self.branches:
            yield from branch.steps

    @property
    def findings(self) -> tuple[str, ...]:
        """All differences between kernel and wish, each with its place."""
        told = (f"{step.place}: {finding}" for step in self.every_step() for finding in step.findings)
        return tuple(dict.fromkeys(told))

    @property
    def reachable(self) -> bool:
        """Whether the packet arrives whatever the choices, by the rules and by the kernel."""
        return not self.why

    @property
    def why(self) -> str:
        """Say why the packet does not arrive, or not always; empty where it does."""
        if self.refusal:
            return self.refusal
        stopped = next((step.stops for step in self.steps if step.stops), "")
        if stopped:
            return stopped
        stops = [next((step.stops for step in branch.steps if step.stops), "") for branch in self.branches]
        failing = [stop for stop in stops if stop]
        if failing and len(failing) == len(stops):
            return failing[0]
        if failing:
            return f"{len(failing)} of {len(stops)} endpoints cannot be reached: {failing[0]}"
        if self.findings:
            return f"The kernel is not as it should be. On {self.findings[0]}."
        return ""


@dataclass(frozen=True)
class NodeSettings:
    """Hold the settings of a node's agent that shape the way of a packet."""

    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    routes: RoutesConfig = field(default_factory=RoutesConfig)
    cni_mode: str = "ptp"
    cluster_domain: str = "cluster.local"
    conntrack_be_liberal: bool = False
    """Whether the node lets packets pass that connection tracking calls invalid."""

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """Where pods' addresses come from."""
        return _listed(self.proxy.cluster_cidr)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """Where Services' addresses come from."""
        return _listed(self.routes.service_cluster_ip_range)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Scene:
    """Hold all that a walk looks at: the hub's objects, the agents' flags, what nodes say of their links."""

    hub: Objects
    settings: NodeSettings = field(default_factory=NodeSettings)
    node_settings: Mapping[str, NodeSettings] = field(default_factory=dict)
    """The flags of nodes where they are known."""
    standings: Mapping[Place, Standing] = field(default_factory=dict)
    """What was read of the kernels; the walk takes links and addresses from it, never rules."""

    def settings_of(self, node: str) -> NodeSettings:
        """Return the flags of a node's agent."""
        return self.node_settings.get(node, self.settings)


@dataclass(frozen=True)
class Question:
    """Hold what was asked."""

    source: Source
    target: Target
    ip_version: int = 4


def check(explanation: Explanation, standings: Mapping[Place, Standing]) -> Explanation:
    """Look every named thing up in the kernels that were read; each difference stands at its step."""

    def checked(step: Step) -> Step:
        standing = standings.get(step.place)
        if standing is None or not step.things:
            return step
        findings = tuple(dict.fromkeys(told for thing in step.things if (told := thing.missing(standing))))
        return replace(step, findings=(*step.findings, *findings), is_checked=True)

    return replace(
        explanation,
        steps=tuple(map(checked, explanation.steps)),
        branches=tuple(replace(branch, steps=tuple(map(checked, branch.steps))) for branch in explanation.branches),
    )
