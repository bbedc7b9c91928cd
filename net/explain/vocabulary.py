"""What a rule set calls the parts of a Service's rules: one `Vocabulary` a mode of the proxy.

The walk decides by the rule model alone; a vocabulary says in which chains and elements that stands, so that people
find it with their own tools, and the checker in the kernel.
"""

from __future__ import annotations

from typing import Protocol

from net.explain.steps import Wording
from net.proxy.rules import Front, PortRules, Verdict
from net.proxy.services import Endpoint


class Vocabulary(Protocol):
    """Name the parts of the proxy's rules on one node."""

    mode: str

    def front(self, rules: PortRules, front: Front, hook: str) -> Wording:
        """Name what recognizes a Service's address and port at a hook, up to the pool or the chain in between."""
        ...

    def firewall(self, rules: PortRules, front: Front) -> Wording:
        """Name what lets some sources pass to a load balancer's address."""
        ...

    def external(self, rules: PortRules) -> Wording:
        """Name what treats traffic from outside: masquerading, and the short way for what comes from the cluster."""
        ...

    def stop(self, rules: PortRules, front: Front, verdict: Verdict) -> Wording:
        """Name what refuses or drops."""
        ...

    def pool(self, rules: PortRules, verdict: Verdict) -> Wording:
        """Name what chooses an endpoint."""
        ...

    def endpoint(self, rules: PortRules, endpoint: Endpoint) -> Wording:
        """Name what translates the address to an endpoint's."""
        ...

    def masquerade(self, rules: PortRules, endpoint: Endpoint, is_hairpin: bool) -> Wording:
        """Name what replaces the source address."""
        ...

    def unknown_port(self, address: str) -> Wording:
        """Name what refuses a cluster IP's port that no Service has; no chains where nothing does."""
        ...

    def unknown_port_verdict(self) -> str:
        """Say what becomes of a packet to a cluster IP's port that no Service has."""
        ...
