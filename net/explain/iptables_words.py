"""Name a Service's rules as iptables has them: kube-proxy's chains."""

from __future__ import annotations

from functools import cached_property

from net.explain.steps import Wording
from net.explain.things import Chain, Rule, Standing, Thing
from net.explain.vocabulary import Lead
from net.proxy import iptables
from net.proxy.iptables import PortText, endpoint_chain, service_chain
from net.proxy.rules import FrontKind, PortRules, RuleSettings, Verdict
from net.proxy.services import Endpoint

KERNEL_HOOKS = {"prerouting": "PREROUTING", "output": "OUTPUT"}


class IptablesWords:
    """Speak of kube-proxy's iptables chains on one node."""

    mode = "iptables"

    def __init__(self, settings: RuleSettings, sparing: bool = False) -> None:
        self._settings, self._sparing = settings, sparing
        self._prefix = "ip6/" if settings.ip_version == 6 else ""
        self._texts: dict[str, PortText] = {}

    def _text(self, rules: PortRules) -> PortText:
        name = f"{rules.port.name}/{rules.port.name.protocol}"
        if name not in self._texts:
            self._texts[name] = iptables.render_port(rules, self._settings, self._sparing)
        return self._texts[name]

    @cached_property
    def _shared(self) -> dict[str, tuple[str, ...]]:
        return iptables.assemble(self._settings, ())["nat"]

    def _chain(self, rules: PortRules, chain: str) -> tuple[Thing, ...]:
        found = self._text(rules).chains.get(chain)
        return (Chain(self._prefix + "nat", chain, found),) if found is not None else ()

    def _jumps(self, table: str, hook: str, target: str) -> list[Thing]:
        """Return the rules that lead from a chain of the kernel's to one of ours."""
        kernel = KERNEL_HOOKS.get(hook, hook.upper())
        return [
            Rule(self._prefix + table, jump.chain, jump.rule)
            for jump in iptables.JUMPS[table]
            if jump.chain == kernel and jump.rule.endswith(f"-j {target}")
        ]

    def front(self, lead: Lead, hook: str) -> Wording:
        """Name the jump, the rule of KUBE-SERVICES or KUBE-NODEPORTS, and where it leads."""
        front = lead.front
        text, things = self._text(lead.rules), self._jumps("nat", hook, "KUBE-SERVICES")
        path = [f"nat {KERNEL_HOOKS.get(hook, hook)}", "KUBE-SERVICES"]
        if front.kind is FrontKind.NODE_PORT:
            path.append("KUBE-NODEPORTS")
            things += [Rule(self._prefix + "nat", "KUBE-SERVICES", rule) for rule in self._shared["KUBE-SERVICES"][-1:]]
            matching = [rule for rule in text.node_ports if f"--dport {front.port} " in rule]
            things += [Rule(self._prefix + "nat", "KUBE-NODEPORTS", rule) for rule in matching]
        else:
            start, port = f"-d {iptables.host(front.address)} ", f"--dport {front.port} "
            matching = [rule for rule in text.services if rule.startswith(start) and port in rule]
            things += [Rule(self._prefix + "nat", "KUBE-SERVICES", rule) for rule in matching]
        path += [rule.rpartition(" -j ")[2] for rule in matching[:1]]
        return Wording(" → ".join(path), tuple(things))

    def firewall(self, lead: Lead) -> Wording:
        """Name KUBE-FW-…, and the rule that drops what it does not take."""
        rules, front = lead.rules, lead.front
        chain = service_chain("FW", rules.port.name)
        start = f"-d {iptables.host(front.address)} "
        drops = [rule for rule in self._text(rules).filter_firewall if rule.startswith(start)]
        things = [Rule(self._prefix + "filter", "KUBE-PROXY-FIREWALL", rule) for rule in drops]
        return Wording(f"nat {chain}; filter KUBE-PROXY-FIREWALL", (*self._chain(rules, chain), *things))

    def external(self, lead: Lead) -> Wording:
        """Name KUBE-EXT-…."""
        chain = service_chain("EXT", lead.rules.port.name)
        return Wording(f"nat {chain}", self._chain(lead.rules, chain))

    def stop(self, lead: Lead) -> Wording:
        """Name the rule of the filter table."""
        front, text = lead.front, self._text(lead.rules)
        chain = "KUBE-SERVICES" if front.kind is FrontKind.CLUSTER_IP else "KUBE-EXTERNAL-SERVICES"
        every = text.filter_services if front.kind is FrontKind.CLUSTER_IP else text.filter_external
        start = f"-d {iptables.host(front.address)} " if front.address else "-p "
        found = [rule for rule in every if rule.startswith(start) and f"--dport {front.port} " in rule]
        return Wording(f"filter {chain}", tuple(Rule(self._prefix + "filter", chain, rule) for rule in found))

    def pool(self, lead: Lead) -> Wording:
        """Name KUBE-SVC-… or KUBE-SVL-…."""
        chain = service_chain("SVL" if lead.verdict is Verdict.LOCAL else "SVC", lead.rules.port.name)
        return Wording(f"nat {chain}", self._chain(lead.rules, chain))

    def endpoint(self, lead: Lead, endpoint: Endpoint) -> Wording:
        """Name KUBE-SEP-…."""
        chain = endpoint_chain(lead.rules.port.name, endpoint)
        return Wording(f"nat {chain}", self._chain(lead.rules, chain))

    def masquerade(self, lead: Lead, endpoint: Endpoint, is_hairpin: bool) -> Wording:
        """Name the mark and what acts on it."""
        mark, post = self._shared["KUBE-MARK-MASQ"], self._shared["KUBE-POSTROUTING"]
        things = (
            Chain(self._prefix + "nat", "KUBE-MARK-MASQ", mark),
            *self._jumps("nat", "postrouting", "KUBE-POSTROUTING"),
            Chain(self._prefix + "nat", "KUBE-POSTROUTING", post),
        )
        return Wording("nat KUBE-MARK-MASQ, then POSTROUTING → KUBE-POSTROUTING", things)

    def remembered(self, lead: Lead, client: str, standing: Standing) -> Endpoint | None:
        """Look the client up in the lists of `recent`; the first endpoint's rule that has it decides."""
        for endpoint in lead.pool:
            if client in standing.recent.get(endpoint_chain(lead.rules.port.name, endpoint), ()):
                return endpoint
        return None
