"""Asks an original of Kubernetes and us the same invented requests, and tells where the answers differ.

python -m tests.control.apiserver.originals.compare APIEXTENSIONS-APISERVER ETCD [SEEDS [FIRST]]
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.control.apiserver.originals.conversations import Conversation
from tests.control.apiserver.originals.invent import Inventor
from tests.control.apiserver.originals.record import beside, ready
from tests.control.apiserver.originals.wires import Wire
from tests.control.apiserver.test_original_answers import serving

REQUESTS = 40
SHOWN_MAX = 5


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Tell what differs, where."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted({*theirs, *ours}):
            yield from differences(theirs.get(name, "(absent)"), ours.get(name, "(absent)"), f"{path}.{name}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif theirs != ours or type(theirs) is not type(ours):
        yield path, theirs, ours


async def compare(wire: Wire, seed: int) -> int:
    """Compare one seed's answers; return how many differ."""
    theirs, ours, wrong = Conversation(Path(), "", []), Conversation(Path(), "", []), 0
    async with serving() as speaker:
        for number, request in enumerate(Inventor(seed).requests(REQUESTS), 1):
            one, other = await theirs.say(wire, request), await ours.say(speaker, request)
            if number == 1 and one["code"] != 201 and other["code"] == one["code"]:
                return 0
            # Who established the definition bears the name of the program.
            found = list(differences(one, other)) if number != 2 else []
            if found:
                wrong += 1
                print(f"## seed {seed}, {number}. {request['ask']} {json.dumps(request.get('send'))}")
                for path, their, our in found[:SHOWN_MAX]:
                    print(f"   {path}\n     theirs {json.dumps(their)}\n     ours   {json.dumps(our)}")
            if number == 1 and one["code"] != other["code"]:
                return wrong
    return wrong


async def _all(wire: Wire, seeds: range) -> None:
    await ready(wire)
    wrong = [await compare(wire, seed) for seed in seeds]
    print(f"{len(seeds)} seeds, {sum(map(bool, wrong))} with differences, {sum(wrong)} requests")


def main() -> None:
    """Compare some seeds."""
    program, etcd, *numbers = sys.argv[1:]
    count, first = (*map(int, numbers), 20, 0)[:2] if numbers else (20, 0)
    if len(numbers) == 1:
        first = 0
    with beside(Path(program), Path(etcd)) as wire:
        asyncio.run(_all(wire, range(first, first + count)))


if __name__ == "__main__":
    main()
