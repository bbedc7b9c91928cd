"""Compare one node with what is wanted of it: its rules with a rehearsal, its routes and pods with their plans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from net.cni.plan import HOST_PREFIX
from net.explain import diff, dump, objects, reader, rehearsal, routing, words
from net.explain.diff import Difference
from net.explain.objects import Objects
from net.explain.reader import namespace
from net.explain.rehearsal import Rehearsed, Wanted
from net.explain.steps import NodeSettings, Scene
from net.explain.things import Place, Standing, Thing, WantedAddress, WantedRoute
from net.ipam.allocator import Claim

IP_VERSIONS = (4, 6)


@dataclass(frozen=True)
class NodeView:
    """Hold a node's name, its namespaces, and what its agent was told."""

    hub: Objects
    name: str
    network: Path
    pods: Mapping[str, Path]
    """The network namespaces of its pods, by namespace/name."""
    settings: NodeSettings
    claims: tuple[Claim, ...] = ()
    """What its pods hold."""


def wanted_of(view: NodeView) -> Wanted:
    """Return what the node's agent is told to write."""
    with namespace(view.network):
        local = reader.read_here()
    scene = Scene(view.hub, view.settings, standings={Place(view.name): local})
    settings = {version: words.rule_settings(scene, view.name, version) for version in IP_VERSIONS}
    backend = reader.iptables_backend(view.network)
    return Wanted(
        view.hub, view.name, settings, view.settings.proxy.proxy_mode, backend, view.claims, view.settings.routes
    )


def rehearse(view: NodeView) -> Rehearsed:
    """Apply twice, in an empty namespace."""
    return rehearsal.rehearse(wanted_of(view))


def differences(view: NodeView) -> list[Difference]:
    """Return all that differs on a node."""
    wanted = wanted_of(view)
    rehearsed = rehearsal.rehearse(wanted)
    with namespace(view.network):
        live, local = asyncio.run(rehearsal.dump(wanted.backend)), reader.read_here()
        routes = routing.differences(view.hub, view.name, view.settings.routes)
    return [*dump.compare(rehearsed.dump, live), *routes, *_pods(view, local)]


def _pods(view: NodeView, local: Standing) -> Iterable[Difference]:
    """Compare the links, addresses and routes of the node's pods."""
    for key, pod in view.hub.pods.items():
        if objects.node_of(pod) != view.name or objects.on_host_network(pod) or objects.is_finished(pod):
            continue
        addresses = objects.pod_addresses(pod)
        here: list[Thing] = [WantedRoute(address, "", HOST_PREFIX) for address in addresses]
        yield from diff.of_things("pods", f"pod {key} on the node", here, local)
        path = view.pods.get(key)
        if path is None or not addresses:
            continue
        try:
            inside = reader.read_links(path)
        except FileNotFoundError:
            yield Difference("pods", f"pod {key}", lacks=(f"(its network namespace {path.name})",))
            continue
        there: list[Thing] = [WantedAddress(address) for address in addresses]
        outside = {4: "192.0.2.1", 6: "2001:db8::1"}
        there += [WantedRoute(outside[objects.version_of(address)], None, "eth0") for address in addresses]
        yield from diff.of_things("pods", f"pod {key}", there, inside)
