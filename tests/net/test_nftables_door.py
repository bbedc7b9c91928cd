"""The door to nftables, against the kernel, in a namespace of its own."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator

import pytest

from net.netlink import inside
from net.nftables import elements, operations
from net.nftables.door import NftablesSocket, load
from net.nftables.elements import element
from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvent, NftablesEvents
from net.nftables.operations import AddChain, AddElements, AddTable, DeleteElements, DeleteTable, FlushSet, Table
from tests.net.topology import Namespace

pytestmark = pytest.mark.root

TABLE = Table("ip", "try")
SCHEMA = """
table ip try {
  map places { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map verdicts { type ipv4_addr : verdict; }
  set networks { type ipv4_addr; flags interval; }
  set counted { type inet_service; counter; }
  set brief { type ipv4_addr; flags timeout; }
  chain there { }
}
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    made = Namespace("nft")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def door(namespace: Namespace) -> Iterator[NftablesSocket]:
    with inside(namespace.descriptor):
        made = NftablesSocket()
    with made:
        yield made
        made.batch([AddTable(TABLE), DeleteTable(TABLE)])


def key(number: int) -> bytes:
    return elements.concatenation(number.to_bytes(4, "big"), elements.protocol("tcp"), elements.port(80))


def place(number: int) -> bytes:
    return elements.value(elements.concatenation(number.to_bytes(4, "big"), elements.port(8080)))


def schema(namespace: Namespace) -> None:
    namespace.run("nft -f -", input=SCHEMA)


def test_elements_go_in_and_come_out(namespace: Namespace, door: NftablesSocket) -> None:
    schema(namespace)
    wanted = {key(number): place(number) for number in range(1, 20_001)}
    door.batch(
        [
            AddElements(TABLE, "places", [element(*item) for item in wanted.items()]),
            AddElements(TABLE, "verdicts", [element(elements.address("10.0.0.1"), elements.goto("there"))]),
            AddElements(TABLE, "networks", elements.interval(*elements.prefix("10.0.0.0/8"))),
            AddElements(TABLE, "counted", [element(elements.port(80)[:2])]),
            AddElements(TABLE, "brief", [element(elements.address("10.0.0.2"), timeout_ms=60_000)]),
        ]
    )
    assert {found.key: found.data for found in door.elements(TABLE, "places")} == wanted
    (verdict,) = door.elements(TABLE, "verdicts")
    assert verdict.data == elements.goto("there")
    assert [found.key.hex() for found in door.elements(TABLE, "networks") if not found.ends_interval] == ["0a000000"]
    assert [found.packets for found in door.elements(TABLE, "counted")] == [0]
    (brief,) = door.elements(TABLE, "brief")
    assert brief.timeout_ms == 60_000 >= brief.expires_ms > 0
    listed = namespace.run("nft list table ip try")
    for line in ("0.0.0.7 . tcp . 80 : 0.0.0.7 . 8080", "10.0.0.1 : goto there", "10.0.0.0/8", "10.0.0.2 timeout 1m"):
        assert line in listed
    door.batch([FlushSet(TABLE, "places"), AddElements(TABLE, "places", [element(key(1), place(2))])])
    assert [found.data for found in door.elements(TABLE, "places")] == [place(2)]


def test_a_batch_happens_as_a_whole_or_not_at_all(namespace: Namespace, door: NftablesSocket) -> None:
    schema(namespace)
    door.batch([AddElements(TABLE, "places", [element(key(1), place(1))])])
    before = door.generation()
    with pytest.raises(NftablesError, match=r"ip try places.*at element 00000009 06000000 00500000") as caught:
        door.batch(
            [
                AddElements(TABLE, "places", [element(key(2), place(2))]),
                DeleteElements(TABLE, "places", [element(key(1)), element(key(9))]),
            ]
        )
    assert (caught.value.number, caught.value.set_name) == (errno.ENOENT, "places")
    assert [found.key for found in door.elements(TABLE, "places")] == [key(1)]
    assert door.generation() == before
    assert door.batch([]) == 0
    with pytest.raises(NftablesError, match="ip try absent"):
        door.batch([AddElements(TABLE, "absent", [element(key(1))])])


def test_tables_and_their_parts_are_listed(namespace: Namespace, door: NftablesSocket) -> None:
    schema(namespace)
    door.batch([AddChain(TABLE, "made")])
    assert TABLE in door.tables()
    names = {part[3].rstrip(b"\0").decode() for part in door.parts(TABLE, operations.GETCHAIN)}
    assert names == {"there", "made"}
    assert len(door.parts(TABLE, operations.GETSET)) == 5
    assert door.elements(TABLE, "absent") == []
    door.batch([DeleteTable(TABLE)])
    assert TABLE not in door.tables()


async def test_load_takes_all_or_says_why(namespace: Namespace, door: NftablesSocket) -> None:
    # nft is started from this thread, which for that time stands in the namespace.
    runner = asyncio.to_thread(_load_inside, namespace, "table ip try { chain a {\n}\n}\ntable ip try { nonsense }\n")
    with pytest.raises(NftablesError, match="nonsense"):
        await runner
    assert TABLE not in door.tables()
    await asyncio.to_thread(_load_inside, namespace, "table ip try { chain a {\n}\n}")
    assert TABLE in door.tables()


def _load_inside(namespace: Namespace, text: str) -> None:
    with inside(namespace.descriptor):
        asyncio.run(load(text))


async def test_others_changes_are_heard_and_our_own_are_not(namespace: Namespace, door: NftablesSocket) -> None:
    schema(namespace)
    with inside(namespace.descriptor):
        events = NftablesEvents([door.port_id])
    try:
        door.batch([AddElements(TABLE, "places", [element(key(1), place(1))])])
        assert events.drain() == []
        namespace.run("nft add rule ip try there accept")
        namespace.run("nft flush map ip try places")
        namespace.run("nft delete table ip try")
        heard: list[NftablesEvent] = []
        async with asyncio.timeout(10):
            while NftablesEvent("table", TABLE, "", True) not in heard:
                heard += await events.next()
        assert NftablesEvent("rule", TABLE, "there") in heard
        assert NftablesEvent("element", TABLE, "places", True) in heard
    finally:
        events.close()


async def test_lost_events_are_an_event(namespace: Namespace, door: NftablesSocket) -> None:
    schema(namespace)
    with inside(namespace.descriptor):
        events = NftablesEvents(buffer_bytes=4096)
    try:
        door.batch([AddElements(TABLE, "places", [element(key(n), place(n)) for n in range(1, 20_001)])])
        async with asyncio.timeout(10):
            while not any(event.kind == "overrun" for event in await events.next()):
                pass
    finally:
        events.close()


def test_a_cancellation_that_comes_as_nft_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost by asyncio.wait_for before Python 3.12: the proxy then went on after its end was asked for."""
    went_on = []

    class Ending:
        returncode = 0

        def __init__(self, caller: asyncio.Task[None] | None) -> None:
            self._caller = caller

        async def communicate(self, _: bytes) -> tuple[bytes, bytes]:
            assert self._caller is not None
            self._caller.cancel()
            return b"", b""

    async def start(*_: object, **__: object) -> Ending:
        return Ending(asyncio.current_task())

    async def call() -> None:
        await load(SCHEMA)
        await asyncio.sleep(0)
        went_on.append(True)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(call())
    assert not went_on
