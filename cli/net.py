"""``raftsman net``: explain a packet's way, and compare what the nodes' kernels hold with what is wanted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli import net_view, node_doors
from cli.node_doors import NodeDoor
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, LEASES, NAMESPACES, NETWORK_POLICIES, NODES, PODS, SERVICES, Resource
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.client import Client
from control.client.connect import connect
from control.client.kubeconfig import KubeconfigError
from lab import state
from lab.state import LabError
from net.announce.config import NAMESPACE as ANNOUNCE_NAMESPACE
from net.explain import compare, counters, objects, parties, reader, trace, tracer, words
from net.explain import diff as diff_words
from net.explain.compare import NodeView
from net.explain.counters import Counters
from net.explain.objects import Objects, by_key
from net.explain.parties import UnknownPartyError
from net.explain.policies import PolicyJudge
from net.explain.steps import Explanation, NodeSettings, Question, Scene
from net.explain.things import Place, Standing
from net.explain.trace import Heard

RESOURCES: Mapping[str, Resource] = {
    "services": SERVICES,
    "slices": ENDPOINT_SLICES,
    "pods": PODS,
    "nodes": NODES,
    "policies": NETWORK_POLICIES,
    "namespaces": NAMESPACES,
}
API_TIMEOUT_S = 20.0
F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def net() -> None:
    """Explain the cluster's network: a packet's way, and what the kernels lack.

    \b
    Examples:
      raftsman net explain client web               from pod default/client to Service default/web
      raftsman net explain shop/cart prices:http    and why it does not arrive, in one sentence
      raftsman net services                         who is asked for, how often
      raftsman net check                            does what is written stay as it is?
      raftsman net diff                             what the kernels hold, against what is wanted
      raftsman net diff --node-local                the same on a real node, for that node
    """


def cluster_options(command: F) -> F:
    """Add the options that say which cluster, and how its nodes are reached."""
    for option in (
        click.option(
            "--name", default="raftsman", show_default=True, envvar="RAFTSMAN_NAME", help="Which lab cluster."
        ),
        click.option("--kubeconfig", "kubeconfig_path", type=click.Path(path_type=Path), help="Instead of the lab's."),
        click.option("--node-local", is_flag=True, help="This machine is a node of the cluster: look into it."),
    ):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True)
class Reach:
    """How the cluster and its nodes are reached."""

    name: str
    kubeconfig_path: Path | None
    node_local: bool

    def doors(self) -> dict[str, NodeDoor]:
        """Return the ways into the nodes that can be reached from here."""
        if self.node_local:
            return node_doors.of_this_machine()
        if self.kubeconfig_path is not None:
            return {}
        return node_doors.of_lab(state.require(self.name))

    def client(self) -> Client:
        """Return a client of the cluster's API."""
        path = self.kubeconfig_path or (self._agents_own() if self.node_local else state.require(self.name).kubeconfig)
        try:
            return connect(kubeconfig.load(path), transport="rest")
        except KubeconfigError as error:
            raise LabError(str(error)) from error

    def _agents_own(self) -> Path:
        """Return the kubeconfig of this node's pod network, which may read all that the network is made of."""
        doors = self.doors()
        if not doors:
            raise LabError("no agent (raftsman node run) runs on this machine; --node-local asks the node's own one")
        (door,) = doors.values()
        return Path(door.flags["cert_dir"]) / "cni.kubeconfig"

    def objects(self) -> Objects:
        """Fetch the objects that the network is made of."""
        return asyncio.run(self._fetch())

    async def _fetch(self) -> Objects:
        client = self.client()
        try:
            async with asyncio.timeout(API_TIMEOUT_S):
                listed = await asyncio.gather(*(client.list(resource) for resource in RESOURCES.values()))
                leases = await self._leases(client)
        except (ApiError, TimeoutError) as error:
            raise LabError(f"the API server does not answer: {error or 'timeout'}") from error
        finally:
            await client.close()
        found: dict[str, dict[str, Object]] = {
            name: by_key(page.items) for name, page in zip(RESOURCES, listed, strict=True)
        }
        return Objects(**found, leases=leases)

    async def _leases(self, client: Client) -> dict[str, Object]:
        """Return the Leases of announced addresses; who may not read them is told the rest all the same."""
        try:
            return by_key((await client.list(LEASES, ANNOUNCE_NAMESPACE)).items)
        except ApiError as error:
            if error.code == 403:
                return {}
            raise


def look_into(
    doors: Mapping[str, NodeDoor], places: set[Place], versions: Iterable[int] = (4, 6)
) -> dict[Place, Standing]:
    """Read the namespaces of these places, as far as they can be reached."""
    found: dict[Place, Standing] = {}
    for place in places:
        door = doors.get(place.node)
        if door is None:
            continue
        try:
            if not place.pod:
                found[place] = reader.read_node(door.network, versions)
            elif path := door.pod_networks().get(place.pod):
                found[place] = reader.read_links(path)
        except FileNotFoundError:
            continue  # the pod ended while we looked
        except PermissionError as error:
            raise LabError("looking into the nodes' kernels needs root; run this again with sudo") from error
    return found


@net.command()
@click.argument("node", default="")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@cluster_options
def diff(node: str, output: str, **reach: Any) -> None:
    """Show what the kernels hold and what is wanted, where they differ: of NODE, or of all nodes that can be reached.

    What is wanted is made by the node's own appliers in an empty network namespace, and compared part by part:
    services, policy, masquerade, host ports, routes, pods. Lines with - are wanted and do not stand; lines with + stand
    and nobody wants them. Exit code 0: no difference; 1: some.

    \b
    Examples:
      raftsman net diff
      raftsman net diff n2 -o json
    """
    where = Reach(**reach)
    hub, doors = where.objects(), chosen(where.doors(), node)
    found = {name: compare.differences(node_of(hub, door)) for name, door in doors.items()}
    if output == "json":
        click.echo(json.dumps(diff_words.as_json(found), indent=2))
    else:
        net_view.show_differences(net_view.console(), found)
    sys.exit(1 if any(found.values()) else 0)


@net.command()
@click.argument("node", default="")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@cluster_options
def check(node: str, output: str, **reach: Any) -> None:
    """Apply what is wanted twice in an empty network namespace: the second time must write nothing.

    What is written twice would be written for ever: rules that this kernel or its programs spell in another way than
    Raftsman does. What the kernel refuses is told, too. The nodes' own rules are not touched. Exit code 0: all
    converges; 1: something does not.

    \b
    Examples:
      raftsman net check
      raftsman net check n2
    """
    where = Reach(**reach)
    hub, doors = where.objects(), chosen(where.doors(), node)
    found = {name: compare.rehearse(node_of(hub, door)) for name, door in doors.items()}
    if output == "json":
        told = {name: {"repeated": list(one.repeated), "refused": dict(one.refused)} for name, one in found.items()}
        click.echo(json.dumps(told, indent=2))
    else:
        net_view.show_rehearsals(net_view.console(), found)
    sys.exit(1 if any(one.repeated or one.refused for one in found.values()) else 0)


@net.command()
@click.argument("service", default="")
@click.option("-n", "--namespace", default="default", show_default=True, help="Where a name without one is looked for.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@cluster_options
def services(service: str, namespace: str, output: str, **reach: Any) -> None:
    """Show how many connections asked for each Service on each node, and how soon changes stand in the kernels.

    The numbers are those that the proxies serve to Prometheus. Connections are counted in nftables mode, by the kernel,
    since the table was made. "change → rules" is the time from a pod's change until the node's rules have it.

    \b
    Examples:
      raftsman net services
      raftsman net services shop/cart -o json
    """
    wanted = service if "/" in service or not service else f"{namespace}/{service}"
    found: dict[str, Counters] = {}
    for name, door in chosen(Reach(**reach).doors(), "").items():
        try:
            found[name] = counters.parse(reader.fetch_metrics(door.network, door.settings.proxy.metrics_bind_address))
        except OSError as error:
            click.echo(f"node {name}: its proxy's metrics cannot be read: {error}", err=True)
    if output == "json":
        click.echo(json.dumps(counters.as_json(found, wanted), indent=2))
    else:
        net_view.show_counters(net_view.console(), found, wanted)


def chosen(doors: dict[str, NodeDoor], node: str) -> dict[str, NodeDoor]:
    """Return the doors that are meant; LabError where none is."""
    if node and node not in doors:
        raise LabError(f"node {node} cannot be looked into from here; those that can: {', '.join(doors) or 'none'}")
    if not doors:
        raise LabError("no node can be looked into from here; on a node use --node-local, in the lab --name")
    return {node: doors[node]} if node else doors


def node_of(hub: Objects, door: NodeDoor) -> NodeView:
    """Return what a comparison needs of a node."""
    return NodeView(hub, door.name, door.network, door.pod_networks(), door.settings, door.claims())


def scene_of(hub: Objects, doors: Mapping[str, NodeDoor]) -> Scene:
    """Return what a walk looks at."""
    known = {name: door.settings for name, door in doors.items() if door.flags}
    common = next(iter(known.values()), NodeSettings())
    return Scene(hub, common, known)


@net.command()
@click.argument("source")
@click.argument("target")
@click.option("-n", "--namespace", default="default", show_default=True, help="Where names without one are looked for.")
@click.option("-6", "--ipv6", is_flag=True, help="The IPv6 way of a dual stack.")
@click.option("--via", default="", help="The node at which a packet from outside arrives.")
@click.option("--no-kernel", is_flag=True, help="By the objects alone; the nodes' kernels are not looked at.")
@click.option("-o", "--output", type=click.Choice(["tree", "json"]), default="tree", show_default=True)
@click.option("--trace", "with_trace", is_flag=True, help="Send one packet, and show what the kernels tell of it.")
@click.option("-v", "--verbose", is_flag=True, help="Name every rule, element and route that was looked up.")
@cluster_options
def explain(
    source: str,
    target: str,
    namespace: str,
    ipv6: bool,
    via: str,
    no_kernel: bool,
    output: str,
    with_trace: bool,
    verbose: bool,
    **reach: Any,
) -> None:
    """Show the way of a packet from SOURCE to TARGET, and why it does not arrive.

    SOURCE is [NAMESPACE/]POD, a node's name, or an address. TARGET is a Service, a DNS name, a pod, a node or an
    address, each with :PORT and /PROTOCOL where several are possible. Each step names the chains, elements and routes
    that it stands for and the Kubernetes object that wants it, and is compared with the node's kernel.
    Exit code 0: it arrives; 1: it does not.

    \b
    Examples:
      raftsman net explain client web
      raftsman net explain shop/cart prices.shop.svc.cluster.local:http
      raftsman net explain n2 10.96.0.10:53/UDP
      raftsman net explain 203.0.113.9 n1:30080 -o json
    """
    where = Reach(**reach)
    hub, doors = where.objects(), {} if no_kernel else where.doors()
    scene = scene_of(hub, doors)
    question = ask(source, target, hub, scene, namespace, 6 if ipv6 else 4, via)
    explanation = words.answer(
        question, scene, lambda places: look_into(doors, places, [question.ip_version]), PolicyJudge(hub)
    )
    addresses = objects.node_addresses(hub.nodes.get(question.source.node, {}))
    heard = trace_it(explanation, question, doors, addresses) if with_trace and not explanation.refusal else None
    if output == "json":
        click.echo(
            json.dumps(words.as_json(explanation) | ({"trace": words.heard_json(heard)} if heard else {}), indent=2)
        )
    else:
        net_view.show(net_view.console(), explanation, verbose=verbose)
        if heard is not None:
            net_view.show_heard(net_view.console(), heard)
    sys.exit(0 if explanation.reachable else 1)


def trace_it(
    explanation: Explanation, question: Question, doors: Mapping[str, NodeDoor], addresses: tuple[str, ...]
) -> Heard:
    """Send one packet and hear the kernels."""
    source = question.source
    door = doors.get(source.node)
    if source.kind == "outside" or door is None:
        raise LabError(f"--trace sends from a pod or a node that can be reached from here, and {source} is none")
    sender = door.network if source.kind == "node" else door.pod_networks().get(source.name)
    if sender is None:
        raise LabError(f"the network namespace of {source} is not known: its node's agent has no claim for it")
    flows = trace.flows(explanation, source.address, addresses)
    networks = {name: found.network for name, found in doors.items()}
    if door.settings.proxy.proxy_mode == "iptables" and reader.iptables_backend(door.network) == "legacy":
        return tracer.by_kernel_log(explanation, networks, sender, flows, source.address)
    return tracer.by_nftables(explanation, networks, sender, flows, source.address)


def ask(source: str, target: str, hub: Objects, scene: Scene, namespace: str, ip_version: int, via: str) -> Question:
    """Make a question of the command's arguments."""
    if via and via not in hub.nodes:
        raise LabError(f"there is no node {via}; there are {', '.join(hub.nodes)}")
    try:
        asked = (source, parties.split_port(target)[0])
        if any(parties.is_address(text) and ":" in text for text in asked):
            ip_version = 6
        found = parties.find_source(source, hub, namespace, ip_version, via)
    except UnknownPartyError as error:
        raise LabError(str(error)) from error
    home = found.name.partition("/")[0] if found.kind == "pod" else namespace
    return Question(found, parties.find_target(target, hub, home, scene.settings.cluster_domain), ip_version)
