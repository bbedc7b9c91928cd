"""Draw an explanation as a tree for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from net.explain import counters
from net.explain.counters import Counters
from net.explain.diff import Difference
from net.explain.rehearsal import Rehearsed
from net.explain.steps import Branch, Explanation, Step
from net.explain.things import Place
from net.explain.trace import Heard

SHOWN_WHOLE_MAX = 6
"""How many branches are drawn; of more, those that differ from all earlier ones."""
PIPE_WIDTH = 200
LINES_MAX = 40


def console() -> Console:
    """Return where to draw: as wide as the terminal, and wide enough for whole lines in a pipe."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def show(console: Console, explanation: Explanation, *, verbose: bool = False) -> None:
    """Draw the whole of it, the sentence last."""
    title = Text.assemble((explanation.source, "bold"), " → ", (explanation.target, "bold"))
    if explanation.packet:
        title.append(f"\n{explanation.packet}", "dim")
    tree = Tree(title, guide_style="dim")
    last = _draw(tree, explanation.steps, verbose, None)
    place = explanation.steps[-1].place if explanation.steps else None
    if len(explanation.branches) == 1:
        _draw(tree, explanation.branches[0].steps, verbose, place, last)
    else:
        for branch, same in _grouped(explanation.branches):
            more = f" and {same} more like it" if same else ""
            node = (last or tree).add(Text.assemble((branch.label, "bold"), f"  probability {branch.chance:.3g}{more}"))
            _draw(node, branch.steps, verbose, place, node)
    console.print(tree)
    for note in explanation.notes:
        console.print(Text(f"Note: {note}", "yellow"))
    if explanation.reachable:
        checked = sum(step.is_checked for step in explanation.every_step())
        told = (
            f"It arrives; {checked} steps were compared with the kernel." if checked else "By the objects, it arrives."
        )
        console.print(Text(told, "green"))
    else:
        console.print(Text(f"It does not arrive. {explanation.why}", "bold red"))


def _grouped(branches: tuple[Branch, ...]) -> list[tuple[Branch, int]]:
    """Return the branches to draw, each with the number of those like it that are left out."""
    if len(branches) <= SHOWN_WHOLE_MAX:
        return [(branch, 0) for branch in branches]
    kinds: dict[tuple[object, ...], list[Branch]] = {}
    for branch in branches:
        kind = tuple((step.place.node, step.hook, bool(step.stops), step.findings) for step in branch.steps)
        kinds.setdefault(kind, []).append(branch)
    return [(alike[0], len(alike) - 1) for alike in kinds.values()]


def _draw(
    tree: Tree, steps: tuple[Step, ...], verbose: bool, place: Place | None, start: Tree | None = None
) -> Tree | None:
    """Add steps below their places; return where the last one stands."""
    at, node = place, start
    for step in steps:
        if step.place != at or node is None:
            node, at = tree.add(Text(str(step.place), "bold cyan")), step.place
        leaf = node.add(_line(step))
        if step.where:
            leaf.add(Text(step.where, "dim"))
        if verbose:
            for thing in step.things:
                leaf.add(Text(str(thing), "dim"))
        for finding in step.findings:
            leaf.add(Text(f"kernel: {finding}", "bold yellow"))
        if step.stops:
            leaf.add(Text(step.stops, "bold red"))
    return node


def _line(step: Step) -> Text:
    if step.stops:
        mark = ("✗ ", "bold red")
    elif step.findings:
        mark = ("! ", "bold yellow")
    else:
        mark = ("✓ ", "green") if step.is_checked else ("· ", "dim")
    line = Text.assemble(mark, (f"{step.hook}: ", "cyan"), step.words)
    if step.owner:
        line.append(f"  [{step.owner}]", "magenta")
    return line


def show_heard(console: Console, heard: Heard) -> None:
    """Draw what the kernels told of a packet that was sent."""
    tree = Tree(Text("One packet was sent; the kernels told:", "bold"), guide_style="dim")
    node: Tree | None = None
    at = ""
    for line in heard.lines:
        if node is None or line.node != at:
            node, at = tree.add(Text(f"node {line.node}", "bold cyan")), line.node
        if line.packet:
            node.add(Text(line.packet, "bold"))
        told = Text.assemble((line.chain, "cyan"), ": ", line.rule)
        if line.verdict and line.verdict not in line.rule:
            told.append(f" → {line.verdict}", "green" if line.verdict != "drop" else "bold red")
        if line.step:
            told.append(f"  ({line.step})", "magenta")
        node.add(told)
    console.print(tree)
    for note in heard.notes:
        console.print(Text(f"Note: {note}", "yellow"))
    console.print(Text(f"The packet: {heard.outcome}.", "green" if heard.answered else "bold red"))


def show_differences(console: Console, found: Mapping[str, Sequence[Difference]]) -> None:
    """Draw what differs, by node and part."""
    for node, differences in found.items():
        if not differences:
            console.print(Text(f"node {node}: the kernel holds what is wanted", "green"))
            continue
        tree = Tree(Text(f"node {node}: {len(differences)} differences", "bold yellow"), guide_style="dim")
        parts: dict[str, Tree] = {}
        for difference in differences:
            if difference.part not in parts:
                parts[difference.part] = tree.add(Text(difference.part, "bold cyan"))
            leaf = parts[difference.part].add(Text(difference.what, "bold"))
            for sign, lines, style in (("-", difference.lacks, "red"), ("+", difference.extra, "yellow")):
                for line in lines[:LINES_MAX]:
                    leaf.add(Text(f"{sign} {line}", style))
                if len(lines) > LINES_MAX:
                    leaf.add(Text(f"{sign} … {len(lines) - LINES_MAX} more", style))
        console.print(tree)
    if any(found.values()):
        console.print(Text("- is wanted and does not stand; + stands and nobody wants it.", "dim"))


def show_rehearsals(console: Console, found: Mapping[str, Rehearsed]) -> None:
    """Draw what does not converge."""
    for node, one in found.items():
        for what in one.repeated:
            console.print(Text(f"node {node}: {what} were written again the second time", "bold red"))
        for name, said in sorted(one.refused.items()):
            console.print(Text(f"node {node}: the kernel refuses {name}: {said}", "bold red"))
        if not (one.repeated or one.refused):
            count = sum(len(held) for held in one.dump.elements.values())
            rules = sum(len(rules) for chains in one.dump.iptables.values() for rules in chains.values())
            rules += sum(len(lines) for blocks in one.dump.tables.values() for lines in blocks.values())
            told = f"node {node}: {rules} rules and {count} elements were applied twice; the second time wrote nothing"
            console.print(Text(told, "green"))


def show_counters(console: Console, found: Mapping[str, Counters], service: str) -> None:
    """Draw connections by Service and node, and below them how soon changes stand."""
    table = Table("service", "port", "front", *found, "sum", box=None, pad_edge=False)
    for way, nodes in counters.totals(found, service).items():
        port = f"{way.port or '-'}/{way.protocol}"
        table.add_row(way.service, port, way.front, *(str(nodes[node]) for node in found), str(sum(nodes.values())))
    if table.row_count:
        console.print(table)
    else:
        console.print("No connection was counted yet.")
    for node, counted in found.items():
        told = [
            f"{words} p50 ≤ {held.quantile_s(0.5) * 1000:g}, p99 ≤ {held.quantile_s(0.99) * 1000:g} ms of {held.count}"
            for words, held in (("change → rules", counted.programming), ("sync", counted.sync))
            if held.count
        ]
        console.print(Text(f"node {node}: {'; '.join(told) or 'no sync yet'}", "dim"))
