"""Fetches programs of Kubernetes and etcd from Debian, as files: the machine's own packages stay as they are.

Debian's stable release of the day has older ones than users run, so they come from the suites trixie and sid through a
private apt root. Each runs on an older C library too, because they are linked statically.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from lab.state import LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN = "http://deb.debian.org/debian"
TIMEOUT_S = 300


def _apt(root: Path, *arguments: str) -> None:
    options = [
        f"Dir::Etc::sourcelist={root}/peers.sources", "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::Lists={root}/lists", f"Dir::Cache={root}/cache", "APT::Sandbox::User=root",
        "APT::Get::List-Cleanup=0",
    ]  # fmt: skip
    command = ["apt-get", "-q", *(part for option in options for part in ("-o", option)), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise LabError(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")


def _prepare(root: Path) -> None:
    """Make the private apt root and read the lists once."""
    if (root / "updated").exists():
        return
    if shutil.which("apt-get") is None:
        raise LabError("apt-get is missing here, so nothing can be fetched; put the program on PATH yourself")
    if not KEYRING.exists():
        raise LabError("Debian's keys are missing; install them with: apt-get install debian-archive-keyring")
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    source = f"Types: deb\nURIs: {_mirror()}\nSuites: trixie sid\nComponents: main\nSigned-By: {KEYRING}\n"
    (root / "peers.sources").write_text(source)
    _apt(root, "update")
    (root / "updated").touch()


def _mirror() -> str:
    """Return the mirror that the machine uses itself, where it is a Debian."""
    path = Path("/etc/apt/sources.list.d/debian.sources")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("URIs:") and "security" not in line:
                return line.split()[1]
    return DEBIAN


def fetch(root: Path, package: str, suite: str, program: str) -> Path:
    """Return a program of a Debian package, fetched and unpacked under ``root`` unless it is there already."""
    target = root / f"{package}-{suite}"
    found = target / "usr" / "bin" / program
    if found.exists():
        return found
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        # Several who want the same at once: the first fetches, the others find it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            _prepare(root)
            _unpack(root, package, suite, target)
    return found


def _unpack(root: Path, package: str, suite: str, target: Path) -> None:
    partial = root / f"{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _apt(root, "download", f"{package}/{suite}")
        archives = sorted(root.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        subprocess.run(["dpkg", "-x", archives[-1], partial], check=True, timeout=TIMEOUT_S)
        archives[-1].unlink()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
