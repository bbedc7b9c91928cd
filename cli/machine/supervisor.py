"""Who keeps a machine's components running: systemd, or where there is none, a loop of the shell for each.

Both are given the same command lines. For systemd they stand in /etc/raftsman/COMPONENT.env, beside units that are the
files in ``units/``; the only thing that is changed in those is where this raftsman is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cli.machine.settings import PLACES, Places
from control.client.kubeconfig import write_private
from lab.state import LabError

COMPONENTS = ("containerd", "store", "controlplane", "node")
"""In the order of their start."""
UNITS = Path(__file__).parent / "units"
UNIT_FOLDER = Path("/etc/systemd/system")
INSTALLED = "/opt/raftsman/.venv/bin/raftsman"
STOP_TIMEOUT_S = 30.0
_KEEP = 'while :; do "$@" </dev/null; echo "$1 ended with status $?"; sleep 1; done'


class Supervisor(Protocol):
    """Starts and stops components by name."""

    def start(self, component: str, command: Sequence[str]) -> None:
        """Start a component now and at every boot."""
        ...

    def stop(self, component: str) -> None:
        """Stop a component and forget it; one that is not there is as good."""
        ...


def choose(wanted: str) -> str:
    """Return systemd or plain; "auto" looks at what runs this machine."""
    if wanted != "auto":
        return wanted
    return "systemd" if Path("/run/systemd/system").is_dir() else "plain"


def make(kind: str, places: Places = PLACES) -> Supervisor:
    """Return the supervisor of that kind."""
    return Systemd(places) if kind == "systemd" else Plain(places)


def unit_text(component: str, executable: str) -> str:
    """Return a component's unit, for a raftsman that is installed there."""
    text = (UNITS / f"raftsman-{component}.service").read_text()
    return text.replace(INSTALLED, executable)


def environment_text(arguments: Sequence[str]) -> str:
    """Return an EnvironmentFile; systemd splits the variable at blanks, so that no argument may hold any."""
    bad = [argument for argument in arguments if not argument or set(argument) & set(" \t\n\"'\\$")]
    if bad:
        raise LabError(f"systemd cannot be given the arguments {bad}: they hold blanks or quotes")
    return f"RAFTSMAN_ARGUMENTS={' '.join(arguments)}\n"


def arguments_of(component: str, command: Sequence[str]) -> list[str]:
    """Return a command line without what the unit says already."""
    words = {"store": ["store"], "controlplane": ["controlplane"], "node": ["node", "run"]}[component]
    start = command.index(words[0])
    assert list(command[start : start + len(words)]) == words
    return list(command[start + len(words) :])


class Systemd:
    """Units in /etc/systemd/system."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._executable = str(Path(sys.executable).parent / "raftsman")

    def start(self, component: str, command: Sequence[str]) -> None:
        """Install a component's unit, enable and start it."""
        if component != "containerd":
            text = environment_text(arguments_of(component, command))
            write_private(self._places.configuration / f"{component}.env", text.encode())
        unit = UNIT_FOLDER / f"raftsman-{component}.service"
        unit.write_text(unit_text(component, self._executable))
        self._systemctl("enable", "--quiet", unit.name)  # reads the new unit, too
        self._systemctl("restart", unit.name)

    def stop(self, component: str) -> None:
        """Stop a component's unit and remove it."""
        unit = UNIT_FOLDER / f"raftsman-{component}.service"
        if unit.exists():
            self._systemctl("disable", "--quiet", "--now", unit.name)
            unit.unlink()
            self._systemctl("daemon-reload")

    @staticmethod
    def _systemctl(*arguments: str) -> None:
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise LabError(f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()}")


class Plain:
    """A loop for each component, in a process group of its own whose leader is recorded."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def _record(self, component: str) -> Path:
        return self._places.run / f"{component}.pid"

    def start(self, component: str, command: Sequence[str]) -> None:
        """Start a component's loop."""
        self.stop(component)
        self._places.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._places.log.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
        with (self._places.log / f"{component}.log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", _KEEP, component, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd="/", env=environment,
            )  # fmt: skip
        self._record(component).write_text(f"{process.pid}\n")

    def stop(self, component: str) -> None:
        """End a component's loop and what it runs."""
        try:
            group = int(self._record(component).read_text())
        except (FileNotFoundError, ValueError):
            return
        self._record(component).unlink()
        if _session_of(group) != group:
            return  # the number is another's by now
        # The loop first, or it would start the component again.
        os.kill(group, signal.SIGKILL)
        number, deadline = signal.SIGTERM, time.monotonic() + STOP_TIMEOUT_S
        while _signal_group(group, number):
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(0.1)


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to a group; tell whether anybody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
