"""How fast NetworkPolicy is on one node: everything at once, one peer, one pod, one policy; in a namespace of its own.

Run as root: `python -m bench.policy --policies 200 --peers 200 --pods 110`. Each policy has its own peers, which is the
worst case: no set is shared. Each local pod is selected by two policies.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench import machine
from net.netlink import inside
from net.policy.apply import PolicyApplier
from net.policy.kernel import KernelTable
from net.policy.model import Pod, parse_pod, parse_policy
from net.policy.plan import PolicyBook

NODE = "n1"
Figures = dict[str, Any]


def policy(number: int, port: int = 80) -> dict[str, Any]:
    """Return a policy with peers of its own, for the local pods of its group."""
    peers = [{"podSelector": {"matchLabels": {"peers": f"p{number}"}}}]
    return {
        "metadata": {"name": f"p{number}", "namespace": "default"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": f"in-{number}", "operator": "Exists"}]},
            "ingress": [{"from": peers, "ports": [{"port": port}]}],
        },
    }


def pod(name: str, address: str, labels: dict[str, str], node: str = "n2") -> Pod:
    """Return a pod's facts, from an object as the hub has it."""
    found = parse_pod(
        {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": labels},
            "spec": {"nodeName": node, "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}] if address else []},
        }
    )
    assert found is not None
    return found


def peer_address(number: int) -> str:
    """Return the address of the nth peer."""
    return f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def fill(book: PolicyBook, policies: int, peers: int, pods: int) -> None:
    """Tell the book of everything."""
    book.namespace_changed("default", {})
    for number in range(policies):
        found = parse_policy(policy(number))
        book.policy_changed(found.key, found)
    for number in range(policies * peers):
        one = pod(f"peer-{number}", peer_address(number), {"peers": f"p{number // peers}"})
        book.pod_changed(one.key, one)
    for number in range(pods):
        labels = {f"in-{(2 * number + more) % policies}": "" for more in (0, 1)}
        one = pod(f"local-{number}", f"10.244.1.{number + 2}", labels, NODE)
        book.pod_changed(one.key, one)


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return wall and CPU milliseconds, the children's included."""

    def cpu_s() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu, began = cpu_s(), time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000, (cpu_s() - cpu) * 1000


async def many(change: Callable[[int], None], applier: PolicyApplier, rounds: int) -> Figures:
    """Return the quantiles of a change with its commit."""
    times = []
    for number in range(rounds):
        began = time.perf_counter()
        change(number)
        await applier.sync()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return {"p50_ms": round(statistics.median(times), 3), "p99_ms": round(times[len(times) * 99 // 100], 3)}


async def measure(policies: int, peers: int, pods: int, rounds: int) -> Figures:
    """Measure one size in the namespace of this thread."""
    table, book = KernelTable(), PolicyBook(NODE)
    try:
        return await _measure(table, book, policies, peers, pods, rounds)
    finally:
        table.close()


async def _measure(table: KernelTable, book: PolicyBook, policies: int, peers: int, pods: int, rounds: int) -> Figures:
    figures: Figures = {"policies": policies, "peers": peers, "pods": pods}
    began = time.process_time()
    fill(book, policies, peers, pods)
    figures["plan_cpu_ms"] = round((time.process_time() - began) * 1000, 1)
    applier = PolicyApplier(book, table)
    applier.settle()
    wall, cpu = await timed(applier.sync)
    figures["full_ms"], figures["full_cpu_ms"] = round(wall, 1), round(cpu, 1)
    figures["elements"] = len(book.elements.places())
    restarted = PolicyApplier(book, table)
    before = table.generation()
    wall, cpu = await timed(restarted.sync)
    figures["restart_ms"], figures["restart_cpu_ms"] = round(wall, 1), round(cpu, 1)
    figures["restart_transactions"] = table.generation() - before

    def peer_moves(number: int) -> None:
        one = pod("peer-0", f"10.250.{number >> 8}.{number & 255}", {"peers": "p0"})
        book.pod_changed(one.key, one)

    def pod_comes(number: int) -> None:
        one = pod("local-0", "", {"in-0": "", "in-1": ""}, NODE)
        one = replace(one, key=f"default/new-{number}", uids=(f"uid-new-{number}",))
        book.pod_changed(one.key, one)
        book.admit(one, (f"10.244.{2 + (number >> 8)}.{number & 255}",))

    def policy_changes(number: int) -> None:
        found = parse_policy(policy(0, 1000 + number))
        book.policy_changed(found.key, found)

    figures["one_peer"] = await many(peer_moves, applier, rounds)
    figures["one_pod_admitted"] = await many(pod_comes, applier, rounds)
    figures["one_policy"] = await many(policy_changes, applier, max(5, rounds // 10))
    figures["rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return figures


def show(found: list[Figures]) -> None:
    """Print medians over the rounds."""
    for name in ("plan_cpu_ms", "full_ms", "full_cpu_ms", "restart_ms", "restart_transactions", "rss_mib"):
        print(f"{name:24} {statistics.median(one[name] for one in found):10.1f}")
    for name in ("one_peer", "one_pod_admitted", "one_policy"):
        p50, p99 = (statistics.median(one[name][part] for one in found) for part in ("p50_ms", "p99_ms"))
        print(f"{name:24} {p50:10.3f} ms p50 {p99:10.3f} ms p99")


@click.command(context_settings={"show_default": True})
@click.option("--policies", default=200, help="How many policies, each with peers of its own.")
@click.option("--peers", default=200, help="How many peers each policy means.")
@click.option("--pods", default=110, help="How many isolated pods the node has.")
@click.option("--changes", default=300, help="How many single changes are timed.")
@click.option("--rounds", default=3, help="How often everything is measured.")
@click.option("--json", "as_json", is_flag=True, help="Keep the figures in bench/results/.")
def main(policies: int, peers: int, pods: int, changes: int, rounds: int, as_json: bool) -> None:
    """Measure NetworkPolicy on one node; needs root, and touches nothing outside a namespace of its own."""
    found = []
    for number in range(rounds):
        name = f"bench-policy-{os.getpid()}-{number}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            descriptor = os.open(Path("/run/netns", name), os.O_RDONLY | os.O_CLOEXEC)
            with inside(descriptor):
                found.append(asyncio.run(measure(policies, peers, pods, changes)))
            os.close(descriptor)
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)
    show(found)
    if as_json:
        print(machine.keep("policy", {"rounds": found}))


if __name__ == "__main__":
    main()
