"""``raftsman reset``: takes a machine out of its cluster and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

import net.dns.server
from cli.machine import controlplane, objects, prepare, settings, supervisor
from cli.machine.membership import Membership
from cli.machine.settings import PLACES, Machine, Places
from control.api.resources import NODES
from control.api.status import ApiError
from lab import components, processes
from lab.nodes import remove_cgroup_trees
from lab.progress import Progress
from lab.state import LabError
from net.dns.config import DnsConfig
from net.messages import ROUTE_PROTOCOL_NODE
from net.routes import mtu

LEAVE_TIMEOUT_S = 30.0
END_TIMEOUT_S = 30.0
NAME_SERVERS = ("169.254.20.10/32", "fd00:90::a/128")
RUNTIME_STATE = Path("/run/containerd-state")


@click.command()
@click.option("--force", is_flag=True, help="Go on where the cluster does not answer.")
@click.option(
    "--member", default="", help="Take another machine's member out of the store instead, by name or address."
)
def reset(force: bool, member: str) -> None:
    """Take this machine out of its cluster: its store member, processes, containers, rules, mounts and files.

    \b
    Examples:
      raftsman reset
      raftsman reset --member n3       on a control plane: n3's machine is lost for good
    """
    prepare.check_root()
    if member:
        _remove_other(member)
        return
    machine = None
    try:
        machine = settings.load()
    except LabError:
        if not force:
            raise
    if machine is None and not force:
        Console().print("This machine belongs to no cluster; nothing was changed.")
        return
    with Progress() as progress:
        if machine is not None:
            with progress.step("leave the cluster"):
                _leave(machine, force)
        with progress.step("end the processes"):
            _stop(machine)
            _retire_resolver()
            end_survivors(PLACES)
        with progress.step("remove rules, mounts and files"):
            remove_network()
            if machine is not None:
                remove_cgroup_trees(machine.site().cgroup.lstrip("/"))
            remove_files(PLACES)


def _remove_other(member: str) -> None:
    machine = settings.load()
    if machine is None or not machine.control_plane:
        raise LabError("--member is for a machine of the control plane")

    async def work() -> bool:
        membership = Membership(PLACES.pki, [machine.address])
        try:
            return await membership.remove(member, LEAVE_TIMEOUT_S)
        finally:
            await membership.close()

    if not asyncio.run(work()):
        raise LabError(f"the store has no member {member!r}")


def _leave(machine: Machine, force: bool) -> None:
    """Take a control plane's member and address out of the cluster; a worker has nothing there but its Node."""
    if not machine.control_plane:
        return
    try:
        asyncio.run(_leave_control_plane(machine))
    except (ApiError, LabError) as error:
        if not force:
            raise LabError(
                f"this machine cannot leave its cluster: {error}; go on all the same with --force"
            ) from error


async def _leave_control_plane(machine: Machine) -> None:
    client = controlplane.administrator()
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT_S + END_TIMEOUT_S):
            current = await objects.read_settings(client)
            others = [address for address in current.control_planes if address != machine.address]
            if not others:
                return  # the last one: the cluster ends with it
            await objects.change_control_planes(client, machine.address, add=False)
            # An agent that runs makes its Node again.
            await asyncio.to_thread(_stop, machine, ("node",))
            await client.delete(NODES, machine.node_name)
    except TimeoutError:
        raise LabError("the API server does not answer") from None
    finally:
        await client.close()
    membership = Membership(PLACES.pki, others)
    try:
        await membership.remove(machine.address, LEAVE_TIMEOUT_S)
    finally:
        await membership.close()


def _stop(machine: Machine | None, components: Sequence[str] = supervisor.COMPONENTS) -> None:
    kinds = [machine.supervisor] if machine is not None and machine.supervisor else ["systemd", "plain"]
    for kind in kinds:
        keeper = supervisor.make(kind)
        for component in reversed(components):
            keeper.stop(component)


def _retire_resolver() -> None:
    try:
        asyncio.run(net.dns.server.retire(DnsConfig()))  # with all addresses that it was given
    except OSError:
        return  # none runs


def end_survivors(places: Places) -> None:
    """End what outlives its unit."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while found := sorted(survivors(places)):
        if time.monotonic() > deadline:
            raise LabError(f"the processes {found} do not end; see what holds them with: cat /proc/{found[0]}/stack")
        for pid in found:
            processes.send(pid, signal.SIGKILL)
        time.sleep(0.05)


def survivors(places: Places) -> set[int]:
    """Return what outlives its unit: the shims of our containerd with all below them, and the DNS resolver."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or not processes.is_alive(int(entry.name)):
            continue
        pid = int(entry.name)
        parents[pid] = processes.parent(pid)
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        is_shim = os.path.basename(words[0]).startswith(b"containerd-shim") and str(places.containerd).encode() in words
        if is_shim or (
            b"net.dns.resolver" in words and any(word.startswith(os.fsencode(places.run)) for word in words)
        ):
            found.add(pid)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return found


def remove_network() -> None:
    """Remove what proxy, policy, routes, tunnels and name server wrote, each known by its own name or number."""
    subprocess.run(components.raftsman("proxy", "cleanup"), capture_output=True, timeout=120, check=False)
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=20, check=False).stdout
    tables = [line.removeprefix("table ") for line in listed.splitlines() if line.split()[-1].startswith("raftsman-")]
    deletions = "".join(f"delete table {table}\n" for table in tables)
    subprocess.run(["nft", "-f", "-"], input=deletions, capture_output=True, text=True, timeout=20, check=False)
    commands = [
        *(f"link delete {name}" for name in mtu.TUNNEL_NAMES.values()),
        *(f"{family} route flush proto {ROUTE_PROTOCOL_NODE} table all" for family in ("-4", "-6")),
        *(f"{family} rule delete table {ROUTE_PROTOCOL_NODE}" for family in ("-4", "-6")),
        *(f"address delete {address} dev lo" for address in NAME_SERVERS),
    ]
    for command in commands:  # most of them find nothing
        subprocess.run(["ip", *command.split()], capture_output=True, timeout=20, check=False)


def remove_files(places: Places) -> None:
    """Unmount and remove every file of ours."""
    folders = (places.configuration, places.state, places.run, RUNTIME_STATE, places.log)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if any(Path(mount).is_relative_to(folder) and Path(mount) != folder for folder in folders):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=20, check=False)
    for folder in folders:
        _empty(folder)
    prepare.SYSCTL_FILE.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Remove a folder; where it is a mount itself, what is in it."""
    if os.path.ismount(folder):
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=not folder.exists())
