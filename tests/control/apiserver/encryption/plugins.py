"""Runs the test's KMS plugin as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[4]
START_TIMEOUT_S = 30.0


class PluginProcess:
    """One plugin that can be ended and started again."""

    def __init__(self, directory: Path, **state: Any) -> None:
        self.socket = directory / "kms.sock"
        self._state = directory / "kms.json"
        self._log = directory / "kms.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.set(**{"key": "1", **state})

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def set(self, **state: Any) -> None:
        """Change keys and health."""
        partial = self._state.with_suffix(".new")
        partial.write_text(json.dumps(state))
        partial.replace(self._state)

    def calls(self) -> list[str]:
        """Return what the plugin was asked to encrypt and decrypt."""
        path = self._state.with_suffix(".calls")
        return path.read_text().splitlines() if path.exists() else []

    def start(self) -> None:
        ready = self._state.with_suffix(".ready")
        ready.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "tests.control.apiserver.encryption.kms_plugin", str(self.socket), str(self._state),
        ]  # fmt: skip
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "the plugin does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)
