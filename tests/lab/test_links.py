"""Faults between nodes: what a person may say, what follows from it, and what packets feel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cli.link import link
from lab import faults, links, shaping, state
from lab.faults import EVERYONE, Fault, Faults
from lab.relay import Pace, parse
from lab.shaping import BACKLOG_S, QUEUE_PACKETS_MAX, Port
from lab.state import Cluster, LabError
from tests.lab.machines import Machines

PORTS = {f"n{i}": Port(f"n{i}", i, f"02:00:00:00:00:0{i}") for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("text", "seconds"), [("80ms", 0.08), ("0.5s", 0.5), ("80", 0.08), ("250us", 0.00025), ("1.5MS", 0.0015)]
)
def test_times(text: str, seconds: float) -> None:
    assert faults.parse_time(text, "--delay") == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "bits"), [("10mbit", 10_000_000), ("500kbit", 500_000), ("1.5Gbit", 1_500_000_000)])
def test_rates(text: str, bits: int) -> None:
    assert faults.parse_rate(text) == bits


SLOW, LOSSY, CUT = Fault(delay_s=0.08), Fault(loss_percent=2), Fault(cut=True)


def test_a_pairs_own_fault_goes_before_one_with_everyone() -> None:
    recorded = faults.with_fault({}, "n1", EVERYONE, CUT, one_way=False)
    recorded = faults.with_fault(recorded, "n1", "n2", SLOW, one_way=True)
    assert faults.between(recorded, ["n1", "n2", "n3"]) == {
        ("n1", "n2"): SLOW,
        ("n2", "n1"): CUT,
        ("n1", "n3"): CUT,
        ("n3", "n1"): CUT,
    }


@pytest.mark.parametrize(
    ("names", "left"),
    [
        pytest.param((), set(), id="all"),
        pytest.param(("n1",), {("n2", "n3")}, id="one node's"),
        pytest.param(("n2", "n1"), {("n2", "n3"), ("n3", "*")} - {("n3", "*")} | {("n1", "*")}, id="a pair's"),
    ],
)
def test_resetting(names: tuple[str, ...], left: set[tuple[str, str]]) -> None:
    recorded: Faults = {("n1", "n2"): SLOW, ("n2", "n1"): SLOW, ("n2", "n3"): LOSSY, ("n1", EVERYONE): CUT}
    assert faults.without(recorded, names).keys() == left


def test_what_nft_is_told() -> None:
    text = shaping.drops({("n1", "n2"): Fault(loss_percent=2, mtu=1400, delay_s=1), ("n3", "n1"): CUT})
    assert [line.strip() for line in text.splitlines() if "iifname" in line] == [
        'iifname "n1" oifname "n2" meta length > 1400 drop',
        'iifname "n1" oifname "n2" numgen random mod 100000 < 2000 drop',
        'iifname "n3" oifname "n1" drop',
    ]
    assert "chain" not in shaping.drops({("n1", "n2"): SLOW})


@pytest.mark.parametrize(
    ("fault", "has_netem", "words", "by"),
    [
        pytest.param(Fault(rate_bits=10**7), False, ["htb rate 10000000bit", "bfifo limit 625000"], "htb", id="rate"),
        pytest.param(Fault(delay_s=0.08, jitter_s=0.01), True, ["netem delay 80000us 10000us"], "netem", id="netem"),
        pytest.param(Fault(delay_s=0.08, rate_bits=10**6), True, ["htb rate 1000000bit", "netem delay 80000us 0us"], "netem", id="both"),
        pytest.param(SLOW, False, ["mirred egress redirect dev tap.2"], "relay", id="relay"),
        pytest.param(Fault(cut=True, delay_s=1), False, [], "nft", id="cut"),
        pytest.param(Fault(loss_percent=1, delay_s=1), False, ["clsact"], "nft + relay", id="several"),
    ],
)  # fmt: skip
def test_what_tc_is_told(fault: Fault, has_netem: bool, words: list[str], by: str) -> None:
    lines = shaping.queues(PORTS, {("n1", "n2"): fault}, has_netem)
    assert all(any(word in line for line in lines) for word in words)
    assert all(" dev n2 " in line for line in lines)
    assert bool(lines) == bool(words)
    assert shaping.means(fault, has_netem) == by
    assert shaping.needs_relay({("n1", "n2"): fault}, has_netem) == by.endswith("relay")


def test_the_relay_reads_its_plan() -> None:
    plan = shaping.relay_plan(
        PORTS, {("n1", "n2"): SLOW, ("n3", "n2"): Fault(delay_s=1, rate_bits=9000), ("n2", "n1"): LOSSY}
    )
    ((tap, port, paces),) = parse(json.dumps(plan))
    assert (tap, port) == ("tap.2", "n2")
    assert paces == {b"\x02\0\0\0\0\x01": Pace(0.08, 0.0, 0), b"\x02\0\0\0\0\x03": Pace(1.0, 0.0, 9000)}  # fmt: skip


def test_packets_wait_their_time_and_no_longer() -> None:
    pace = Pace(delay_s=0.1, jitter_s=0.05, rate_bits=0)
    assert pace.due(10.0, 100, 0.0) == pytest.approx(10.1)
    assert pace.due(10.0, 100, 1.0) == pytest.approx(10.15)
    assert pace.due(10.01, 100, -1.0) == pytest.approx(10.15), "order is kept"


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(60, 1500), st.floats(-1, 1)), max_size=100))
def test_a_rate_is_never_exceeded_and_queues_are_bounded(arrivals: list[tuple[float, int, float]]) -> None:
    pace = Pace(delay_s=0.01, jitter_s=0.005, rate_bits=1_000_000)
    now_s, due_last_s, passed_bits = 0.0, 0.0, 0
    for gap_s, length, chance in arrivals:
        now_s += gap_s
        due_s = pace.due(now_s, length, chance)
        if due_s is None:
            continue
        passed_bits += length * 8
        assert due_s >= due_last_s
        assert due_s <= now_s + BACKLOG_S + 0.02 + 0.0150001
        assert due_s >= passed_bits / 1_000_000 - 1e-9
        due_last_s = due_s
    assert pace.waiting <= QUEUE_PACKETS_MAX


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("RAFTSMAN_STATE_DIR", str(tmp_path))
    cluster = state.plan("c", 0, tmp_path / "clusters" / "c", 3, 1)
    state.save(cluster)
    return cluster


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["n1", "n9", "--cut"], "no node 'n9'; it has n1, n2, n3", id="unknown node"),
        pytest.param(["n1", "n1", "--cut"], "joins two nodes", id="one node twice"),
        pytest.param(["n1", "n2", "n3", "--cut"], "one node or two", id="three nodes"),
        pytest.param(["n1", "n2"], "say what is wrong", id="no fault"),
        pytest.param(["--cut"], "name one node or two", id="no node"),
        pytest.param(["n1", "n2", "--loss", "200%"], "at most 100%, such as 2%, not '200%'", id="loss"),
        pytest.param(["n1", "n2", "--loss", "x"], "such as 2%", id="loss no number"),
        pytest.param(["n1", "n2", "--delay", "80 miles"], "--delay must be a time", id="delay"),
        pytest.param(["n1", "n2", "--rate", "10"], "such as 10mbit", id="rate"),
        pytest.param(["n1", "n2", "--mtu", "3"], "--mtu must be from 68", id="mtu"),
        pytest.param(["n1", "n2", "--jitter", "10ms"], "larger than --delay", id="jitter alone"),
        pytest.param(["n1", "n2", "--cut", "--loss", "1%"], "goes with no other fault", id="cut and more"),
        pytest.param(["reset", "n1", "--cut"], "no other option", id="reset and more"),
        pytest.param(["reset", "n9"], "no node 'n9'", id="reset of nobody"),
        pytest.param(["n1", "n2", "--cut", "--name", "other"], "no cluster 'other'", id="no cluster"),
    ],
)
def test_what_is_wrong_is_said(recorded: Cluster, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(link, [*([] if "--name" in arguments else ["--name", "c"]), *arguments])
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)
    assert faults.load(recorded) == {}


def test_faults_are_recorded_listed_and_forgotten(recorded: Cluster) -> None:
    def say(*arguments: str) -> str:
        done = CliRunner().invoke(link, ["--name", "c", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "All links are well" in say()
    assert "n1 ↔ n2: loss 2%, delay 80ms" in say("n1", "n2", "--loss", "2%", "--delay", "80ms")
    assert "n3 → everyone: cut" in say("n3", "--cut", "--one-way")
    assert faults.load(recorded).keys() == {("n1", "n2"), ("n2", "n1"), ("n3", EVERYONE)}
    assert (recorded.directory / "links.json").stat().st_mode & 0o777 == 0o600
    assert "everyone" in say()
    assert "2 faults are gone, 1 are left" in say("reset", "n2", "n1")
    assert "1 faults are gone" in say("reset")
    assert "nothing to reset" in say("reset")


def test_a_record_of_another_version_is_refused(recorded: Cluster) -> None:
    (recorded.directory / "links.json").write_text('{"version": 9, "faults": []}')
    with pytest.raises(LabError, match="has version 9, this raftsman reads 1"):
        faults.load(recorded)


def test_the_first_versions_record_opens(recorded: Cluster) -> None:
    entry = {"from": "n1", "to": "*", "loss_percent": 2.0, "delay_s": 0.08, "jitter_s": 0.0, "rate_bits": 0, "cut": False, "mtu": 0}  # fmt: skip
    (recorded.directory / "links.json").write_text(json.dumps({"version": 1, "faults": [entry]}))
    assert faults.load(recorded) == {("n1", EVERYONE): Fault(loss_percent=2.0, delay_s=0.08)}


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    folder = Path(f"/tmp/raftsman-links-{os.getpid()}")
    folder.mkdir(mode=0o700)
    before = os.environ.get("RAFTSMAN_STATE_DIR")
    os.environ["RAFTSMAN_STATE_DIR"] = str(folder)
    made = None
    try:
        made = Machines(folder)
        yield made
    finally:
        if made is not None:
            made.close()
        if before is None:
            del os.environ["RAFTSMAN_STATE_DIR"]
        else:
            os.environ["RAFTSMAN_STATE_DIR"] = before
        shutil.rmtree(folder)


def answered(machines: Machines, source: str, target: str, count: int) -> int:
    return sum(1 for _ in range(count) if machines.ping(source, target, timeout_s=0.05))


@pytest.mark.root
def test_a_cut_link_carries_nothing_and_heals(machines: Machines) -> None:
    machines.set("n1", "n2", CUT)
    try:
        assert not machines.ping("n1", "n2", timeout_s=0.2)
        assert machines.ping("n1", "n3")
        assert machines.ping("n3", "n2")
    finally:
        machines.reset()
    assert machines.ping("n1", "n2")


@pytest.mark.root
def test_a_node_cut_from_everyone(machines: Machines) -> None:
    machines.set("n3", EVERYONE, CUT)
    try:
        assert not machines.ping("n1", "n3", timeout_s=0.2)
        assert not machines.ping("n3", "n2", timeout_s=0.2)
        assert machines.ping("n1", "n2")
    finally:
        machines.reset()


@pytest.mark.root
def test_loss_is_felt(machines: Machines) -> None:
    machines.set("n1", "n2", Fault(loss_percent=30), one_way=True)
    try:
        # 120 of 70%: 84 ± 5; more than five deviations to either side are no accident.
        assert 55 <= answered(machines, "n1", "n2", 120) <= 112
        assert answered(machines, "n1", "n3", 20) == 20
    finally:
        machines.reset()
    assert answered(machines, "n1", "n2", 20) == 20


@pytest.mark.root
def test_delay_is_felt_by_the_pair_alone_and_each_way(machines: Machines) -> None:
    machines.set("n1", "n2", Fault(delay_s=0.1, jitter_s=0.02))
    try:
        taken = [taken_s for _ in range(5) if (taken_s := machines.ping("n1", "n2", timeout_s=5))]
        assert taken, "nothing was answered"
        assert min(taken) >= 0.16
        assert machines.ping("n1", "n3", timeout_s=5)
        machines.set("n1", "n2", Fault(delay_s=0.1), one_way=True)
        machines.set("n2", "n1", Fault(loss_percent=0.001), one_way=True)
        assert machines.ping("n2", "n1", timeout_s=5) >= 0.1
        # A node that comes back finds the link as it was.
        machines.stop("n2")
        machines.boot("n2")
        links.restore(machines.cluster)
        assert machines.ping("n2", "n1", timeout_s=5) >= 0.1
        assert faults.load(machines.cluster)["n1", "n2"] == Fault(delay_s=0.1)
    finally:
        machines.reset()
    assert not links.relay_pid(machines.cluster)
    assert machines.ping("n1", "n2", timeout_s=5) > 0


@pytest.mark.root
def test_larger_packets_vanish(machines: Machines) -> None:
    machines.set("n1", "n2", Fault(mtu=1400))
    try:
        assert machines.ping("n1", "n2", length=1400)
        assert not machines.ping("n1", "n2", length=1401, timeout_s=0.2)
        assert machines.ping("n1", "n3", length=1500)
    finally:
        machines.reset()
    assert machines.ping("n1", "n2", length=1500)


@pytest.mark.root
@pytest.mark.parametrize("delay_s", [pytest.param(0.0, id="htb"), pytest.param(0.001, id="relay")])
def test_a_rate_holds(machines: Machines, delay_s: float) -> None:
    def sent_s(count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            assert machines.ping("n1", "n2", length=1500, timeout_s=5)
        return time.monotonic() - started

    machines.set("n1", "n2", Fault(rate_bits=200_000, delay_s=delay_s), one_way=True)
    try:
        sent_s(2)  # what the kernel lends before it counts
        assert sent_s(5) >= 0.9 * 5 * 1514 * 8 / 200_000
    finally:
        machines.reset()
    assert answered(machines, "n1", "n2", 10) == 10


@pytest.mark.root
def test_nothing_is_left_on_the_fabric(machines: Machines) -> None:
    machines.set("n1", EVERYONE, Fault(delay_s=0.01, loss_percent=1, rate_bits=10**6))
    machines.set("n2", "n3", Fault(rate_bits=10**6))
    machines.reset()
    shown = [
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        for command in (
            ["ip", "-n", machines.cluster.namespace, "-d", "link"],
            ["tc", "-n", machines.cluster.namespace, "qdisc"],
            ["nsenter", f"--net=/run/netns/{machines.cluster.namespace}", "nft", "list", "ruleset"],
        )
    ]
    assert not [word for word in ("tap.", "htb", "clsact", "raftsman-links") if word in "".join(shown)]
