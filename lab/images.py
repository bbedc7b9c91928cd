"""Packs the lab's images from programs of this machine, as an OCI layout that containerd imports.

Two images are made: ``pause`` holds Debian's catatonit, which waits and reaps; ``busybox`` holds busybox-static with
all its applets, and catatonit for servers that must end on SIGTERM. The same programs make the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.state import LabError

PAUSE_IMAGE = "lab.raftsman.dev/pause:1"
BUSYBOX_IMAGE = "lab.raftsman.dev/busybox:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class Layout:
    """An OCI image layout under construction."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: list[dict[str, Any]] = field(default_factory=list)

    def add_blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Keep a blob and return its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def add_image(self, name: str, rootfs: bytes, entrypoint: list[str]) -> None:
        """Add an image of one layer, an uncompressed tar."""
        layer = self.add_blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(rootfs, 6, mtime=0))
        configuration = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(rootfs).hexdigest()}"]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.add_blob("application/vnd.oci.image.config.v1+json", json.dumps(configuration).encode()),
            "layers": [layer],
        }
        entry = self.add_blob("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
        tag = name.rpartition(":")[2]
        entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
        self.manifests.append(entry)

    def write(self, path: Path) -> None:
        """Write the layout as one tar, by rename into place."""
        temporary = path.with_suffix(".new")
        with tarfile.open(temporary, "w") as archive:
            _add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
            index = {"schemaVersion": 2, "manifests": self.manifests}
            _add_file(archive, "index.json", json.dumps(index).encode(), 0o644)
            for digest, data in sorted(self.blobs.items()):
                _add_file(archive, f"blobs/sha256/{digest}", data, 0o644)
        temporary.rename(path)


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _root_filesystem(programs: dict[str, bytes], links: list[str]) -> bytes:
    """Return a tar with the usual folders, /bin filled, and users root and nobody."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "www"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        _add_file(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644)
        _add_file(archive, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for name, data in programs.items():
            _add_file(archive, f"bin/{name}", data, 0o755)
        for name in links:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
            archive.addfile(entry)
    return buffer.getvalue()


def _program(name: str, package: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise LabError(f"{name} is missing; install it with: apt-get install {package}")
    return Path(found)


def ensure_packed(cache: Path) -> Path:
    """Return the tar of the lab's images, packed unless the cache holds it already."""
    busybox, catatonit = _program("busybox", "busybox-static"), _program("catatonit", "catatonit")
    programs = {"busybox": busybox.read_bytes(), "catatonit": catatonit.read_bytes()}
    own = Path(__file__).read_bytes()
    digest = hashlib.sha256(own + programs["busybox"] + programs["catatonit"]).hexdigest()[:16]
    path = cache / f"images-{digest}.tar"
    if path.exists():
        return path
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=10)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    layout = Layout()
    pause = _root_filesystem({"catatonit": programs["catatonit"]}, [])
    layout.add_image(PAUSE_IMAGE, pause, ["/bin/catatonit", "-P"])
    layout.add_image(BUSYBOX_IMAGE, _root_filesystem(programs, applets), ["/bin/sh"])
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.write(path)
    return path
