"""Name a Service's rules as nftables has them: shared maps, chains of a number of endpoints, and slots."""

from __future__ import annotations

from dataclasses import dataclass

from net.explain.steps import Wording
from net.explain.things import Element, NftChain, Standing, Thing
from net.explain.vocabulary import Lead
from net.nftables.elements import DROP, goto
from net.proxy import nftables, nftables_schema
from net.proxy.nftables_schema import Spread, affinity_set, slot_map
from net.proxy.rules import FrontKind, RuleSettings, Verdict
from net.proxy.services import Endpoint


@dataclass(frozen=True, slots=True)
class InSomeSlot:
    """An endpoint that must stand in one of several slot maps; the kernel's side chose which."""

    elements: tuple[Element, ...]

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return the first one's words, and how many slots there are."""
        return f"{self.elements[0]} (or another of {len(self.elements)} slots)"

    def missing(self, standing: Standing) -> str:
        """Look it up in each of them."""
        told = [element.missing(standing) for element in self.elements]
        if not all(told):
            return ""
        first = self.elements[0]
        return f"none of the {len(told)} slots of table {first.family} {first.table} holds {first.words}"


@dataclass(frozen=True, slots=True)
class WholeSchema:
    """The chains and rules of the whole table, as the proxy loads them for these settings."""

    settings: RuleSettings

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"schema of table {nftables_schema.table(self.settings)}"

    def missing(self, standing: Standing) -> str:
        """Compare the fingerprint that was kept with what stands, and the text with what is wanted."""
        table = nftables_schema.table(self.settings)
        shape = standing.shapes.get((table.family, table.name))
        if shape is None or not shape.stands:
            return f"the kernel has no table {table}"
        if not shape.text_digest:
            return f"somebody changed chains or rules of table {table}"
        if shape.text_digest != nftables_schema.digest(nftables_schema.blocks(self.settings, shape.spreads)):
            return f"chains and rules of table {table} are those of other settings, or of another release"
        return ""


class NftablesWords:
    """Speak of the table kube-proxy on one node."""

    mode = "nftables"

    def __init__(self, settings: RuleSettings) -> None:
        self._settings = settings
        self._table = nftables_schema.table(settings)

    def _chain(self, name: str) -> NftChain:
        return NftChain(self._table.family, self._table.name, name)

    def _element(self, which: str, key: bytes, data: bytes, words: str) -> Element:
        return Element(self._table.family, self._table.name, which, key, data, words)

    @staticmethod
    def _key(lead: Lead) -> bytes:
        return nftables.place(lead.front.address, lead.rules.port.protocol, lead.front.port)

    @staticmethod
    def _key_words(lead: Lead) -> str:
        place = f"{lead.rules.port.protocol} . {lead.front.port}"
        return f"{lead.front.address} . {place}" if lead.front.address else place

    @staticmethod
    def _spread(lead: Lead) -> Spread:
        role = "cluster"
        if not lead.is_internal:
            role = "inside" if lead.is_inside else "local" if lead.verdict is Verdict.LOCAL else "external"
            role = f"nodeport-{role}" if lead.front.kind is FrontKind.NODE_PORT else role
        return Spread(role, len(lead.pool), lead.rules.port.affinity_timeout_s)

    def _leading(self, lead: Lead) -> str:
        if lead.front.kind is FrontKind.NODE_PORT:
            return nftables_schema.INSIDE_NODEPORTS if lead.is_inside else nftables_schema.SERVICE_NODEPORTS
        return nftables_schema.INSIDE_IPS if lead.is_inside else nftables_schema.SERVICE_IPS

    def front(self, lead: Lead, hook: str) -> Wording:
        """Name the hook's chain, `services`, the map and what it leads to."""
        which, chain = self._leading(lead), self._spread(lead).chain
        words = f"{self._key_words(lead)} : goto {chain}"
        path = [f"nat-{hook}", "services", *(["nodeports"] if lead.front.kind is FrontKind.NODE_PORT else [])]
        things: list[Thing] = [WholeSchema(self._settings), *(self._chain(name) for name in path)]
        things.append(self._element(which, self._key(lead), goto(chain), words))
        return Wording(f"{self._table} {' → '.join(path)} → @{which} {{ {words} }}", tuple(things))

    def firewall(self, lead: Lead) -> Wording:
        """Name the maps of load balancers' sources."""
        words = f"{self._key_words(lead)} : goto {nftables_schema.FIREWALL_CHAIN}"
        which = nftables_schema.FIREWALL_IPS
        things = (
            self._chain("firewall-check"),
            self._element(which, self._key(lead), nftables.FIREWALL, words),
            self._chain(nftables_schema.FIREWALL_CHAIN),
        )
        return Wording(f"{self._table} firewall-check → @{which} → {nftables_schema.FIREWALL_CHAIN}", things)

    def external(self, lead: Lead) -> Wording:
        """Name the chain whose first rule marks what is masqueraded."""
        chain = self._spread(lead).chain
        return Wording(f"{self._table} {chain}", (self._chain(chain),))

    def stop(self, lead: Lead) -> Wording:
        """Name the map of what has no endpoints."""
        is_node_port = lead.front.kind is FrontKind.NODE_PORT
        which = nftables_schema.NO_ENDPOINT_NODEPORTS if is_node_port else nftables_schema.NO_ENDPOINT_SERVICES
        chain = "nodeport-endpoints-check" if is_node_port else "service-endpoints-check"
        is_reject = lead.verdict is Verdict.REJECT
        end = f"goto {nftables_schema.REJECT_CHAIN}" if is_reject else "drop"
        words = f"{self._key_words(lead)} : {end}"
        element = self._element(which, self._key(lead), nftables.REJECT if is_reject else DROP, words)
        things = (WholeSchema(self._settings), self._chain(chain), element)
        return Wording(f"{self._table} {chain} → @{which} {{ {words} }}", things)

    def pool(self, lead: Lead) -> Wording:
        """Name the chain that draws a slot."""
        chain = self._spread(lead).chain
        return Wording(f"{self._table} {chain}", (self._chain(chain),))

    def endpoint(self, lead: Lead, endpoint: Endpoint) -> Wording:
        """Name the slots' maps, one of which holds the endpoint."""
        spread, key = self._spread(lead), self._key(lead)
        data = nftables.target(endpoint.ip, endpoint.port)
        words = f"{self._key_words(lead)} : {endpoint.ip} . {endpoint.port}"
        maps = [slot_map(spread.space, slot) for slot in range(spread.count)]
        some = InSomeSlot(tuple(self._element(name, key, data, words) for name in maps))
        chains = tuple(self._chain(nftables_schema.slot_chain(spread.space, slot)) for slot in range(spread.count))
        named = maps[0] if len(maps) == 1 else f"{maps[0]} … @{maps[-1]}"
        return Wording(f"{self._table} @{named} {{ {words} }}", (some, *chains))

    def masquerade(self, lead: Lead, endpoint: Endpoint, is_hairpin: bool) -> Wording:
        """Name the set of pods that reach themselves, or the mark, and what acts on it."""
        things: list[Thing] = [self._chain("nat-postrouting"), self._chain("masquerading")]
        path = f"{self._table} nat-postrouting → masquerading"
        if is_hairpin:
            which, words = nftables_schema.HAIRPIN, f"{endpoint.ip} . {endpoint.ip}"
            things.append(self._element(which, nftables.packed(endpoint.ip) * 2, b"", words))
            return Wording(f"{path} (@{which} {{ {words} }})", tuple(things))
        return Wording(f"{path} (mark 0x{1 << self._settings.masquerade_bit:x})", tuple(things))

    def remembered(self, lead: Lead, client: str, standing: Standing) -> Endpoint | None:
        """Look the client up in the sets of the slots; the first that has it decides."""
        spread, key = self._spread(lead), self._key(lead)
        ends = {nftables.target(endpoint.ip, endpoint.port): endpoint for endpoint in lead.pool}
        table = (self._table.family, self._table.name)
        for slot in range(spread.count):
            clients = standing.elements.get((*table, affinity_set(spread.space, slot)), {})
            if nftables.packed(client) + key in clients:
                return ends.get(standing.elements.get((*table, slot_map(spread.space, slot)), {}).get(key, b""))
        return None
