"""``raftsman link``: faults between the nodes of a cluster."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from cli.options import name_option
from lab import faults, links, state
from lab.faults import EVERYONE, Fault
from lab.state import Cluster, LabError

RESET = "reset"


@click.command()
@click.argument("words", nargs=-1, metavar="[reset] [NODE [NODE]]")
@click.option("--loss", default="", metavar="PERCENT", help="How many packets are lost, such as 2%.")
@click.option(
    "--delay", default="", metavar="TIME", help="How long each packet takes, such as 80ms, in each direction."
)
@click.option("--jitter", default="", metavar="TIME", help="By how much that varies either way, such as 10ms.")
@click.option("--rate", default="", metavar="RATE", help="How much passes in a second, such as 10mbit or 500kbit.")
@click.option("--cut", is_flag=True, help="Nothing passes.")
@click.option("--mtu", type=int, default=0, metavar="BYTES", help="Larger packets vanish without a word.")
@click.option("--one-way", is_flag=True, help="Only from the first node to the second.")
@name_option
def link(
    words: tuple[str, ...],
    loss: str,
    delay: str,
    jitter: str,
    rate: str,
    cut: bool,
    mtu: int,
    one_way: bool,
    name: str,
) -> None:
    """Make the link between two nodes slow, lossy or cut; between one node and all others where only one is named.

    What is said of a pair replaces what was said of it before. Faults outlast a restart of nodes, and end with
    `raftsman link reset` or with the cluster. Without any words, the faults are listed. The way from this
    machine to the nodes (kubectl, the demo) is never touched.

    \b
    Examples:
      raftsman link n1 n2 --loss 2% --delay 80ms --jitter 10ms
      raftsman link n1 n2 --rate 10mbit
      raftsman link n1 n2 --mtu 1400         a path that swallows larger packets
      raftsman link n3 --cut                 n3 from everyone
      raftsman link n1 n3 --cut --one-way    n3 hears nothing of n1, n1 all of n3
      raftsman link                          what is wrong at present
      raftsman link reset n1 n2              this pair is well again
      raftsman link reset                    all are
    """
    cluster = state.require(name)
    fault = _fault(loss, delay, jitter, rate, cut, mtu)
    if words[:1] == (RESET,):
        if fault != Fault() or one_way:
            raise click.UsageError("reset takes nodes and no other option")
        _reset(cluster, words[1:])
    elif words:
        _set(cluster, words, fault, one_way)
    elif fault != Fault() or one_way:
        raise click.UsageError("name one node or two, such as: raftsman link n1 n2 --loss 2%")
    else:
        _show(cluster)


def _fault(loss: str, delay: str, jitter: str, rate: str, cut: bool, mtu: int) -> Fault:
    fault = Fault(
        loss_percent=faults.parse_percent(loss) if loss else 0.0,
        delay_s=faults.parse_time(delay, "--delay") if delay else 0.0,
        jitter_s=faults.parse_time(jitter, "--jitter") if jitter else 0.0,
        rate_bits=faults.parse_rate(rate) if rate else 0,
        cut=cut,
        mtu=faults.parse_mtu(mtu) if mtu else 0,
    )
    if fault.jitter_s > fault.delay_s:
        raise LabError("--jitter must not be larger than --delay: packets cannot arrive before they were sent")
    if cut and fault != Fault(cut=True):
        raise LabError("--cut lets nothing pass and goes with no other fault")
    return fault


def _names(cluster: Cluster, words: tuple[str, ...]) -> tuple[str, ...]:
    if len(words) > 2:
        raise click.UsageError(f"name one node or two, not {len(words)}")
    for word in words:
        cluster.node(word)
    if len(set(words)) != len(words):
        raise LabError(f"a link joins two nodes, and {words[0]} is one")
    return words


def _set(cluster: Cluster, words: tuple[str, ...], fault: Fault, one_way: bool) -> None:
    names = _names(cluster, words)
    if fault == Fault():
        raise click.UsageError("say what is wrong with the link: --loss, --delay, --jitter, --rate, --mtu or --cut")
    source, target = names if len(names) == 2 else (names[0], EVERYONE)
    links.set_faults(cluster, faults.with_fault(faults.load(cluster), source, target, fault, one_way))
    arrow = "→" if one_way else "↔"
    everyone = "everyone" if target == EVERYONE else target
    Console().print(
        f"{source} {arrow} {everyone}: {fault}; by {links.describe(fault)}", highlight=False, soft_wrap=True
    )


def _reset(cluster: Cluster, words: tuple[str, ...]) -> None:
    names = _names(cluster, words)
    before = faults.load(cluster)
    after = faults.without(before, names)
    links.set_faults(cluster, after)
    gone = len(before) - len(after)
    Console().print(f"{gone} faults are gone, {len(after)} are left." if gone else "There was nothing to reset.")


def _show(cluster: Cluster) -> None:
    recorded = faults.load(cluster)
    console = Console()
    if not recorded:
        console.print(
            "All links are well. Make one worse with: raftsman link n1 n2 --loss 2% --delay 80ms", highlight=False
        )
        return
    table = Table("from", "to", "fault", "by", box=None, pad_edge=False)
    for (source, target), fault in sorted(recorded.items()):
        ends = ("everyone" if end == EVERYONE else end for end in (source, target))
        table.add_row(*ends, str(fault), links.describe(fault))
    console.print(table)
    slow = any(fault.is_slow and not fault.cut for fault in recorded.values())
    if slow and not links.has_netem() and not links.relay_pid(cluster):
        console.print("The relay does not run, so slow links are cut; say one of them again to start it.")
