"""Say which node answers for a load balancer's address: pure."""

from __future__ import annotations

from control.api import meta
from net.announce import plan
from net.announce.config import NAMESPACE
from net.explain.objects import Objects


def announcer(hub: Objects, service: str) -> tuple[str, str]:
    """Return the node that holds a Service's Lease, and words about it; no words where none of ours announces it."""
    found = hub.services.get(service) or {}
    announced = plan.service_of(found)
    if announced is None:
        return "", ""
    addresses = ", ".join(announced.addresses)
    lease = hub.leases.get(f"{NAMESPACE}/{plan.lease_name(announced)}") or {}
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    if holder:
        return holder, f"Node {holder} holds Lease {meta.key(lease)}, and so answers for {addresses}."
    nodes = {name: plan.node_of(node) for name, node in hub.nodes.items()}
    if plan.candidates(announced, nodes, plan.nodes_with_endpoints(hub.slices_of(service).values())):
        return "", f"No node holds the Lease of Service {service}, so perhaps nobody answers for {addresses}."
    why = "has a ready endpoint of it, as externalTrafficPolicy Local asks" if announced.local else "may announce it"
    return "", f"Nobody answers for {addresses}: no ready node {why}."


def service_with(hub: Objects, address: str) -> str:
    """Return the Service that has an address as its load balancer's; empty where none has."""
    for key, service in hub.services.items():
        announced = plan.service_of(service)
        if announced is not None and address in announced.addresses:
            return key
    return ""
