"""What a rule set calls the parts of a Service's rules: one `Vocabulary` a mode of the proxy.

The walk decides by the rule model alone; a vocabulary says in which chains and elements that stands, so that people
find it with their own tools, and the checker in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from net.explain.steps import Wording
from net.explain.things import Standing
from net.proxy.rules import Front, FrontKind, PortRules, Verdict
from net.proxy.services import Endpoint


@dataclass(frozen=True, slots=True)
class Lead:
    """Hold by which front a packet reached a Service's port, and what was decided for it."""

    rules: PortRules
    front: Front
    verdict: Verdict
    is_inside: bool = False
    """Whether it takes the short way that the cluster's own clients have to external addresses."""

    @property
    def pool(self) -> tuple[Endpoint, ...]:
        """The endpoints among which one is chosen."""
        return self.rules.local if self.verdict is Verdict.LOCAL else self.rules.cluster

    @property
    def is_internal(self) -> bool:
        """Whether the front is the cluster IP."""
        return self.front.kind is FrontKind.CLUSTER_IP


class Vocabulary(Protocol):
    """Name the parts of the proxy's rules on one node."""

    mode: str

    def front(self, lead: Lead, hook: str) -> Wording:
        """Name what recognizes a Service's address and port at a hook, up to the pool or the chain in between."""
        ...

    def firewall(self, lead: Lead) -> Wording:
        """Name what lets some sources alone pass to a load balancer's address."""
        ...

    def external(self, lead: Lead) -> Wording:
        """Name what treats traffic from outside: masquerading, and the short way for what comes from the cluster."""
        ...

    def stop(self, lead: Lead) -> Wording:
        """Name what refuses or drops."""
        ...

    def pool(self, lead: Lead) -> Wording:
        """Name what chooses an endpoint."""
        ...

    def endpoint(self, lead: Lead, endpoint: Endpoint) -> Wording:
        """Name what translates the address to an endpoint's."""
        ...

    def masquerade(self, lead: Lead, endpoint: Endpoint, is_hairpin: bool) -> Wording:
        """Name what replaces the source address."""
        ...

    def remembered(self, lead: Lead, client: str, standing: Standing) -> Endpoint | None:
        """Return the endpoint to which the kernel binds a client by session affinity; None where to none."""
        ...
