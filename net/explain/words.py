"""Turn an explanation into JSON, and choose the vocabulary of each node's proxy: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from net.explain import objects, steps, way
from net.explain.iptables_words import IptablesWords
from net.explain.judge import Judge
from net.explain.nftables_words import NftablesWords
from net.explain.steps import Branch, Explanation, Question, Scene, Step
from net.explain.things import Place, Standing
from net.explain.trace import Heard
from net.explain.vocabulary import Vocabulary
from net.explain.way import Vocabularies
from net.proxy import iptables
from net.proxy.rules import RuleSettings, node_port_addresses

Read = Callable[[set[Place]], Mapping[Place, Standing]]
"""Looks into namespaces; those that cannot be reached are left out."""


def rule_settings(scene: Scene, node: str, ip_version: int) -> RuleSettings:
    """Return the proxy's settings on a node, as its flags and its own addresses make them."""
    settings, facts = scene.settings_of(node), scene.hub.node_facts(node)
    standing = scene.standings.get(Place(node))
    local = [found.address for found in standing.addresses] if standing is not None else facts.addresses
    own_cidrs = objects.pod_cidrs(scene.hub.nodes.get(node, {}))
    cidrs = settings.cluster_cidrs or own_cidrs
    networks, serving = node_port_addresses(settings.proxy.nodeport_addresses, local, facts, ip_version)
    return RuleSettings(
        ip_version=ip_version,
        cluster_cidrs=tuple(cidr for cidr in cidrs if (":" in cidr) == (ip_version == 6)),
        masquerade_all=settings.proxy.masquerade_all,
        masquerade_bit=settings.proxy.masquerade_bit,
        node_port_cidrs=networks,
        node_addresses=serving,
        conntrack_be_liberal=settings.conntrack_be_liberal,
        node_name=node,
        own_pod_cidrs=tuple(cidr for cidr in own_cidrs if (":" in cidr) == (ip_version == 6)),
    )


def vocabularies(scene: Scene) -> Vocabularies:
    """Return what gives the words of each node's proxy."""

    def of(node: str, ip_version: int) -> Vocabulary:
        settings = rule_settings(scene, node, ip_version)
        if scene.settings_of(node).proxy.proxy_mode == "nftables":
            return NftablesWords(settings)
        every = [rules for ports in scene.hub.all_rules(node, ip_version).values() for rules in ports]
        return IptablesWords(settings, iptables.is_large(every))

    return of


def answer(question: Question, scene: Scene, read: Read, judge: Judge) -> Explanation:
    """Walk, look into the places that the packet passes, walk again with what was seen there, and compare.

    The second time the nodes' own links and addresses are known, which decide on tunnels, sizes and node ports.
    """
    first = way.explain(question, scene, vocabularies(scene), judge)
    standings = read({step.place for step in first.every_step() if step.things})
    if not standings:
        return first
    seen = replace(scene, standings=standings)
    return steps.check(way.explain(question, seen, vocabularies(seen), judge), standings)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON-shaped values."""
    return {
        "source": explanation.source,
        "target": explanation.target,
        "packet": explanation.packet,
        "reachable": explanation.reachable,
        "why": explanation.why,
        "steps": [_step(step) for step in explanation.steps],
        "branches": [_branch(branch) for branch in explanation.branches],
        "notes": list(explanation.notes),
    }


def heard_json(heard: Heard) -> dict[str, Any]:
    """Return what the kernels told as JSON-shaped values."""
    return {
        "outcome": heard.outcome,
        "answered": heard.answered,
        "events": [asdict(line) for line in heard.lines],
        "notes": list(heard.notes),
    }


def _branch(branch: Branch) -> dict[str, Any]:
    return {
        "endpoint": branch.label,
        "probability": round(branch.chance, 6),
        "steps": [_step(step) for step in branch.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "node": step.place.node,
        "pod": step.place.pod,
        "hook": step.hook,
        "words": step.words,
        "where": step.where,
        "owner": step.owner,
        "things": [str(thing) for thing in step.things],
        "checked": step.is_checked,
        "findings": list(step.findings),
        "stops": step.stops,
    }
