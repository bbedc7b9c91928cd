"""Walk the way of a packet by the rule model: what leaves the source, and what its node makes of it: pure.

    explain(question, scene, vocabulary, judge)
      pod         leaves by eth0
      node        Service rules: front → verdict → pool, or the sentence that says why it ends here
      branches    one an endpoint: `road` takes each to its end

The walk asks the same model that renders the rules (`net.proxy.rules`), never the kernel; `steps.check` compares.
"""

from __future__ import annotations

from collections.abc import Callable

from net.cni.plan import GATEWAYS, HOST_MAC
from net.explain import destination, objects, reasons
from net.explain.destination import Destination, HostPort, NoWayError
from net.explain.hostports import host_port_wording
from net.explain.judge import Judge
from net.explain.road import Road
from net.explain.steps import Branch, Explanation, NodeSettings, Question, Scene, Step, Wording
from net.explain.things import Place, Thing, WantedAddress, WantedNeighbour, WantedRoute
from net.explain.vocabulary import Lead, Vocabulary
from net.proxy.rules import FrontKind, PortRules, Verdict
from net.proxy.services import Endpoint, PortName

Vocabularies = Callable[[str, int], Vocabulary]
"""Returns the words of a node's proxy for an IP version."""


def explain(question: Question, scene: Scene, vocabularies: Vocabularies, judge: Judge | None = None) -> Explanation:
    """Return the way of a packet, as the hub's objects want it."""
    told = _target_words(question)
    try:
        found = destination.find(question, scene)
    except NoWayError as error:
        return Explanation(str(question.source), told, "", refusal=str(error))
    return _Walk(question, scene, found, vocabularies, judge).run(told)


def _target_words(question: Question) -> str:
    target = question.target
    port = f":{target.port}" if target.port else ""
    name = f"address {target.address}" if target.address else f"{target.kind} {target.name}"
    return name + port + (f"/{target.protocol}" if target.protocol else "")


def _host_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _split(label: str) -> tuple[str, int]:
    address, _, port = label.rpartition(":")
    return address.strip("[]"), int(port)


class _Walk:
    """One walk, with what all of its parts look at."""

    def __init__(
        self, question: Question, scene: Scene, found: Destination, vocabularies: Vocabularies, judge: Judge | None
    ) -> None:
        self.source, self.scene, self.found, self.hub = question.source, scene, found, scene.hub
        self.version = question.ip_version
        self.node = self.source.node or found.entry
        self.settings: NodeSettings = scene.settings_of(self.node)
        self.words = vocabularies(self.node, self.version)
        self.road = Road(scene, self.source, self.node, found.protocol, judge)
        self.question, self._vocabularies, self._judge = question, vocabularies, judge
        self.steps: list[Step] = []

    @property
    def is_own(self) -> bool:
        """Whether the node at which the walk is sends the packet itself."""
        return self.source.kind == "node" and self.node == self.source.node

    @property
    def hook(self) -> str:
        """The hook at which the node meets the packet first."""
        return "output" if self.is_own else "prerouting"

    def run(self, told: str) -> Explanation:
        """Walk to the end."""
        found = self.found
        self._leave()
        branches: list[Branch] = []
        first = ("", 0)
        if not found.address:
            packet = f"{found.protocol} {self.source.address} → what DNS answers for {self.question.target.name}"
            branches = self._headless()
            first = _split(branches[0].label) if branches else first
        else:
            packet = f"{found.protocol} {self.source.address} → {_host_port(found.address, found.port)}"
            if found.translates_at and found.translates_at != self.node:
                self._cross_to(found.translates_at)
            if any(step.stops for step in self.steps):
                branches = []
            elif found.rules is not None and found.front is not None:
                branches = self._service(found.rules)
            elif found.host_port is not None:
                branches = [self._host_port(found.host_port)]
            else:
                steps = self.road.to(found.address, found.port, masquerade=None)
                branches = [Branch(_host_port(found.address, found.port), 1.0, tuple(steps))]
        return Explanation(
            str(self.source), told, packet, tuple(self.steps), tuple(branches), (*found.notes, *self.road.notes),
            protocol=found.protocol, destination=(found.address, found.port) if found.address else first,
        )  # fmt: skip

    def _step(self, hook: str, words: str, wording: Wording | None = None, owner: str = "", stops: str = "") -> None:
        where, things = (wording.where, wording.things) if wording is not None else ("", ())
        self.steps.append(Step(Place(self.node), hook, words, where, owner, things, stops))

    def _leave(self) -> None:
        if self.source.kind == "pod":
            things: tuple[Thing, ...] = (WantedAddress(self.source.address, "eth0"),)
            if self.version == 4:
                to, gateway = self.found.address or self.source.address, GATEWAYS[4]
                things += (WantedRoute(to, gateway, "eth0"), WantedNeighbour(gateway, HOST_MAC))
            step = Step(
                Place(self.node, self.source.name), "link", f"leaves the pod by eth0 to node {self.node}",
                owner=f"Pod {self.source.name}", things=things,
            )  # fmt: skip
            self.steps.append(step)
        elif self.source.kind == "outside":
            where = f"at node {self.node}" if self.node else "at no node that is known"
            self._step("link", f"comes from outside the cluster and arrives {where}", owner=f"Node {self.node}")

    def _cross_to(self, node: str) -> None:
        """Go to the node whose address was asked for: its rules know the port, those of the way there do not."""
        self.steps += self.road.cross(node, self.found.address, self.found.port)
        notes, self.node = self.road.notes, node
        self.settings, self.words = self.scene.settings_of(node), self._vocabularies(node, self.version)
        self.road = Road(self.scene, self.source, node, self.found.protocol, self._judge)
        self.road.notes += notes

    def _host_port(self, found: HostPort) -> Branch:
        """Go where a port of the node leads that one pod asked for."""
        wording = host_port_wording(self.found, found, self.version)
        end = _host_port(found.address, found.port)
        words = f"port {self.found.port} is a hostPort of pod {found.pod}: destination becomes {end}"
        self._step(self.hook, words, wording, f"Pod {found.pod}")
        return Branch(end, 1.0, tuple(self.road.to(found.address, found.port, masquerade=None)))

    def _headless(self) -> list[Branch]:
        """Go to each pod that DNS names: the Service has no address, so no rule of the proxy takes part."""
        key = self.question.target.name
        every = _headless_endpoints(self.scene, key, self.version, self.question.target.port)
        ready = sorted({endpoint for _, endpoints in every for endpoint in endpoints if endpoint.ready})
        if not ready:
            stops = next((why for name, found in every if (why := reasons.no_endpoints(name, found, self.hub))), "")
            stops = stops or f"Service {key} is headless, and none of its endpoints is ready."
            self._step(
                "dns", f"Service {key} is headless, and DNS has no address for it", None, f"Service {key}", stops
            )
            return []
        words = f"Service {key} is headless: DNS answers with its pods' {len(ready)} addresses, the client takes one"
        self._step("dns", words, owner=f"Service {key}")
        asked, listening = self.found.port, {endpoint.port for endpoint in ready}
        if asked and asked not in listening:
            told = f"clients connect to port {min(listening)}, not {asked}"
            self.road.notes.append(f"Nothing translates ports for a headless Service: {told}.")
        places = sorted({(endpoint.ip, asked or endpoint.port) for endpoint in ready})
        return [
            Branch(_host_port(ip, port), 1 / len(places), tuple(self.road.to(ip, port, masquerade=None)))
            for ip, port in places
        ]

    def _service(self, rules: PortRules) -> list[Branch]:
        front = self.found.front
        assert front is not None
        name = rules.port.name
        owner = f"Service {name.service}"
        if self._refused(rules):
            return []
        told = f"{_host_port(self.found.address, self.found.port)} is the {front.kind.value} of {name.service}"
        port = f", port {name.port}" if name.port else ""
        inside = rules.port.external_local and self._is_from_cluster()
        lead = Lead(rules, front, Verdict.CLUSTER if inside else rules.verdict_of(front), inside)
        if front.kind is FrontKind.CLUSTER_IP:
            lead = Lead(rules, front, rules.internal)
        self._step(self.hook, told + port, self.words.front(lead, self.hook), owner)
        if lead.is_internal:
            return self._spread(lead, self._from_elsewhere())
        if front.kind is FrontKind.LOAD_BALANCER and rules.firewalled:
            self._step(
                self.hook, f"the source is within loadBalancerSourceRanges {reasons.listed(rules.allowed_sources)}",
                self.words.firewall(lead), owner,
            )  # fmt: skip
        external = self.words.external(lead)
        if not rules.port.external_local:
            self._step(self.hook, "comes by an external way (policy Cluster): marked for masquerading", external, owner)
            return self._spread(lead, f"externalTrafficPolicy of {name.service} is Cluster")
        if lead.is_inside:
            why = "the node itself sends it" if self.is_own else ""
            self._step(
                self.hook, "comes from the cluster itself: takes the short way to all endpoints", external, owner
            )
            return self._spread(lead, why)
        self._step(
            self.hook, "externalTrafficPolicy Local: this node's endpoints alone, source address kept", external, owner
        )
        return self._spread(lead, "")

    def _is_from_cluster(self) -> bool:
        return self.is_own or objects.within(self.source.address, self.settings.cluster_cidrs)

    def _from_elsewhere(self) -> str:
        """Say why a packet to a cluster IP is masqueraded; empty where it is not."""
        if self.settings.proxy.masquerade_all:
            return "the proxy runs with --masquerade-all"
        mine = [cidr for cidr in self.settings.cluster_cidrs if (":" in cidr) == (self.version == 6)]
        if mine and not objects.within(self.source.address, mine[:1]):
            return f"the source {self.source.address} is no pod's ({mine[0]})"
        return ""

    def _refused(self, rules: PortRules) -> bool:
        """Add the step at which the packet is refused or dropped, where it is."""
        front = self.found.front
        assert front is not None
        owner, key = f"Service {rules.port.name.service}", rules.port.name.service
        endpoints = self.hub.trackers[self.version].endpoints_of(rules.port.name)
        internal = front.kind is FrontKind.CLUSTER_IP
        verdict = rules.verdict_of(front)
        lead = Lead(rules, front, verdict)
        if front.kind is FrontKind.NODE_PORT and (why := self._no_node_port()):
            self._step("input", why, owner=owner, stops=why)
            return True
        if verdict is Verdict.REJECT:
            how = "answered by a reset" if rules.port.protocol == "tcp" else "answered by an ICMP error"
            stops = reasons.no_endpoints(rules.port.name, endpoints, self.hub)
            stop = self.words.stop(lead)
            self._step("filter", f"Service {key} has no endpoints: {how}", stop, owner, stops)
            return True
        if not internal and front.kind is FrontKind.LOAD_BALANCER and rules.firewalled and not self._may_pass(rules):
            stops = reasons.outside_source_ranges(rules, self.source.address)
            self._step(
                "filter",
                "the source is in none of loadBalancerSourceRanges: dropped",
                self.words.firewall(lead),
                owner,
                stops,
            )
            return True
        if verdict is Verdict.DROP and (internal or not self._is_from_cluster()):
            policy = "internalTrafficPolicy" if internal else "externalTrafficPolicy"
            stops = reasons.none_local(rules, self.node, policy, endpoints)
            stop = self.words.stop(lead)
            self._step("filter", f"{policy} is Local and node {self.node} has no endpoint: dropped", stop, owner, stops)
            return True
        return False

    def _may_pass(self, rules: PortRules) -> bool:
        return objects.within(self.source.address, rules.allowed_sources)

    def _no_node_port(self) -> str:
        networks = [text for text in self.settings.proxy.nodeport_addresses if text != "primary"]
        primary = "primary" in self.settings.proxy.nodeport_addresses
        if not self.settings.proxy.nodeport_addresses or (networks and objects.within(self.found.address, networks)):
            return ""
        if primary and self.found.address in objects.node_addresses(self.hub.nodes.get(self.node, {})):
            return ""
        answering = reasons.listed(self.settings.proxy.nodeport_addresses)
        return f"Node ports answer on {answering} alone (--nodeport-addresses), and {self.found.address} is not in it."

    def _spread(self, lead: Lead, masquerade: str) -> list[Branch]:
        rules, pool = lead.rules, lead.pool
        count = len(pool)
        what = "1 endpoint" if count == 1 else f"one of {count} endpoints, each with probability 1/{count}"
        ready = [found for found in self.hub.trackers[self.version].endpoints_of(rules.port.name) if found.ready]
        if lead.verdict is Verdict.CLUSTER and count < len(ready):
            what += f" (the topology hints keep {count} of {len(ready)} for this node)"
        sticky = (
            f", the same one for {rules.port.affinity_timeout_s} s per client address"
            if rules.port.affinity_timeout_s
            else ""
        )
        self._step(self.hook, f"chooses {what}{sticky}", self.words.pool(lead), self._slices(rules))
        bound = self._bound(lead)
        if bound is not None:
            self._step(self.hook, f"{self.source.address} is remembered: it goes to {bound} again", owner="")
        branches = []
        for endpoint in pool if bound is None else (bound,):
            slice_key = self.hub.slice_with(rules.port.name.service, endpoint.ip)
            wording = self.words.endpoint(lead, endpoint)
            state = "" if endpoint.ready else " (it terminates, and no endpoint is ready)"
            step = Step(
                Place(self.node), self.hook, f"destination becomes {endpoint}{state}", wording.where,
                f"EndpointSlice {slice_key}", wording.things,
            )  # fmt: skip
            hairpin = endpoint.ip == self.source.address
            why = "a pod that reaches itself must not see its own address as the client's" if hairpin else masquerade
            post = self.words.masquerade(lead, endpoint, hairpin) if why else None
            rest = self.road.to(endpoint.ip, endpoint.port, (why, post) if post is not None else None)
            branches.append(Branch(str(endpoint), 1.0 if bound is not None else 1 / count, (step, *rest)))
        return branches

    def _bound(self, lead: Lead) -> Endpoint | None:
        """Return the endpoint that the kernel remembers for this client; None where it chooses anew."""
        standing = self.scene.standings.get(Place(self.node))
        if not lead.rules.port.affinity_timeout_s or standing is None:
            return None
        return self.words.remembered(lead, self.source.address, standing)

    def _slices(self, rules: PortRules) -> str:
        names = list(self.hub.slices_of(rules.port.name.service))
        return f"EndpointSlice {reasons.listed(names)}" if names else f"Service {rules.port.name.service}"


def _headless_endpoints(
    scene: Scene, service: str, ip_version: int, port: str
) -> list[tuple[PortName, tuple[Endpoint, ...]]]:
    """Return the endpoints of a headless Service by port: of the named one, else of all."""
    tracker = scene.hub.trackers[ip_version]
    entries = scene.hub.services[service]["spec"].get("ports") or ()
    names = [PortName(service, entry.get("name") or "", entry.get("protocol") or "TCP") for entry in entries]
    meant = [name for name in names if name.port == port] or names
    return [(name, tracker.endpoints_of(name)) for name in meant]
