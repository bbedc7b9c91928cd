"""Reads transcripts of sessions at a shell, repeats them, and says where what comes differs from what is written.

    # A remark.
    $ kubectl get pod p
    NAME READY STATUS RESTARTS AGE
    p 0/1 Pending 0 …
    $ kubectl get pod q
    Error from server (NotFound): pods "q" not found
    => 1

``…`` stands for any text, alone on a line for any lines.  Runs of blanks are one blank, empty lines count for nothing.
``=> 1`` is an exit code other than 0, ``<<< text`` a line of input, ``NAME=value`` in front an environment variable;
a command that ends in ``&`` goes on beside the next ones.  ``[1.32]`` marks lines of one version alone.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 60.0
_VERSION = re.compile(r"\[(\d+\.\d+)\] ")


@dataclass
class Step:
    """One command and what it is to print."""

    line: int
    words: list[str]
    expected: list[str] = field(default_factory=list)
    code: int = 0
    background: bool = False
    text: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def _step(line: int, command: str) -> Step:
    words = shlex.split(command)
    step = Step(line, words)
    if words[-1] == "&":
        step.background = True
        words.pop()
    if "<<<" in words:
        at = words.index("<<<")
        step.text = words[at + 1] + "\n"
        del words[at:]
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        step.environment[name] = value
    assert words.pop(0) == "kubectl", command
    return step


def parse(text: str, version: str, names: Mapping[str, str]) -> list[Step]:
    """Return the steps of a transcript for one version; ``names`` fill its ``{…}``."""
    steps: list[Step] = []
    for number, raw in enumerate(filled(text, names).splitlines(), 1):
        found = _VERSION.match(raw)
        if found is not None and found[1] != version:
            continue
        line = raw[found.end() :] if found is not None else raw
        if line.startswith("$ "):
            steps.append(_step(number, line[2:]))
        elif line.startswith("=> "):
            steps[-1].code = int(line[3:])
        elif steps and line.strip():
            steps[-1].expected.append(_squeezed(line))
    return steps


def filled(text: str, names: Mapping[str, str]) -> str:
    """Return a text with its ``{names}`` replaced; other braces stay."""
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, line.split("…"))))


def matches(expected: list[str], output: str) -> bool:
    """Tell whether an output is what was expected."""
    return _match(expected, [squeezed for line in output.splitlines() if (squeezed := _squeezed(line))])


def _match(expected: list[str], lines: list[str]) -> bool:
    if not expected:
        return not lines
    if expected[0] == "…":
        return any(_match(expected[1:], lines[skipped:]) for skipped in range(len(lines) + 1))
    return bool(lines) and _pattern(expected[0]).fullmatch(lines[0]) is not None and _match(expected[1:], lines[1:])


@dataclass
class Shell:
    """Where commands run: a program, a kubeconfig, a folder."""

    program: Path
    kubeconfig: Path
    folder: Path
    environment: dict[str, str]

    def command(self, step: Step) -> list[str]:
        return [str(self.program), "--kubeconfig", str(self.kubeconfig), *step.words]

    def start(self, step: Step) -> subprocess.Popen[str]:
        """Start a step's command; what it writes to its two outputs comes as one."""
        return subprocess.Popen(
            self.command(step),
            cwd=self.folder,
            env={**self.environment, **step.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class _Background:
    """A command beside the others: it may end by itself, or is ended once it has said everything."""

    def __init__(self, step: Step, shell: Shell) -> None:
        self.step = step
        self._process = shell.start(step)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if "-w" in step.words:
            self._until(lambda: bool(self._lines))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def _until(self, done: object) -> None:
        assert callable(done)
        deadline = time.monotonic() + TIMEOUT_S
        while not done() and time.monotonic() < deadline and self._reader.is_alive():
            time.sleep(0.02)

    @property
    def _as_expected(self) -> bool:
        return matches(self.step.expected, "".join(self._lines))

    def finish(self) -> str:
        """Wait until everything has been said or nothing more can come; return it."""
        if "-w" in self.step.words:
            # It goes on for ever, so what comes after the expected lines is nobody's.
            self.step.expected.append("…")
            self._until(lambda: self._as_expected)
        else:
            self._until(lambda: self._process.poll() is not None)
        self.end()
        return "".join(self._lines)

    def end(self) -> None:
        """Leave nothing running."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def replay(steps: list[Step], shell: Shell) -> Iterator[str]:
    """Run the steps; yield a text for each that came out otherwise than written."""
    beside: list[_Background] = []
    try:
        for step in steps:
            if step.background:
                beside.append(_Background(step, shell))
                continue
            started = shell.start(step)
            try:
                output, _ = started.communicate(step.text, TIMEOUT_S)
            except subprocess.TimeoutExpired:
                started.kill()
                output, _ = started.communicate()
            if started.returncode != step.code or not matches(step.expected, output):
                yield _difference(step, started.returncode, output)
        for running in beside:
            output = running.finish()
            if not matches(running.step.expected, output):
                yield _difference(running.step, 0, output)
    finally:
        for running in beside:
            running.end()


def _difference(step: Step, code: int, output: str) -> str:
    wanted = "\n".join(f"  {line}" for line in step.expected)
    found = "\n".join(f"  {squeezed}" for line in output.splitlines() if (squeezed := _squeezed(line)))
    return (
        f"line {step.line}: kubectl {shlex.join(step.words)}\nwanted => {step.code}\n{wanted}\n"
        f"found => {code}\n{found}\n"
    )
