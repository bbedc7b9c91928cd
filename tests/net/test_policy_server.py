"""NetworkPolicy's loop on a fake API and a fake table: when it writes, when it must not, whom it lets pass."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from control.api.meta import Object
from control.api.resources import NAMESPACES, NETWORK_POLICIES, PODS
from net.cni.gate import Gate, NotYet, PodReference
from net.nftables.errors import NftablesError
from net.nftables.events import OVERRUN, NftablesEvent
from net.policy.config import PolicyConfig
from net.policy.kernel import TABLE, AbsentTable
from net.policy.server import PolicyServer, keep_labels, keep_pod_facts, keep_spec
from tests.fakes.fake_client import FakeClient
from tests.fakes.fake_policy_table import FakePolicyTable, Packet, sets_of

CONFIG = PolicyConfig(hostname_override="n1", metrics_bind_address="", min_sync_period_s=0.01, pod_wait_s=0.1)
FAR, WEB = "10.0.1.1", "10.0.0.1"
REFERENCE = PodReference("default", "web", "uid-web")


async def until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    client: FakeClient, table: FakePolicyTable, config: PolicyConfig = CONFIG
) -> AsyncIterator[PolicyServer]:
    server = PolicyServer(config, client, table)
    task = asyncio.ensure_future(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pod(name: str, address: str = "", node: str = "n1", **more: object) -> Object:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": name}, **more},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "env": [{"name": "A"}]}]},
        "status": {"podIPs": [{"ip": address}] if address else []},
    }


def policy(spec: Object, name: str = "p") -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


DENY = policy({"podSelector": {}, "policyTypes": ["Ingress"]}, "deny")
FROM_FAR = policy({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "far"}}}]}]}, "far")


def filled() -> FakeClient:
    client = FakeClient()
    client.put(NAMESPACES, {"metadata": {"name": "default", "labels": {}}})
    client.put(PODS, pod("web", WEB))
    client.put(PODS, pod("far", FAR, "n2"))
    client.put(NETWORK_POLICIES, DENY)
    return client


async def test_rules_follow_the_api() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        client.put(NETWORK_POLICIES, FROM_FAR)
        await until(lambda: table.passes(Packet(FAR, WEB)))
        client.put(PODS, {**pod("far", "10.0.1.2", "n2")})
        await until(lambda: not table.passes(Packet(FAR, WEB)) and table.passes(Packet("10.0.1.2", WEB)))
        client.remove(NETWORK_POLICIES, "far", "default")
        client.remove(NETWORK_POLICIES, "deny", "default")
        await until(lambda: table.passes(Packet("203.0.113.1", WEB)))
        await until(lambda: not sets_of(table))


async def test_nothing_is_taken_away_before_the_lists_are_complete() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
    writes = table.writes
    for _ in range(3):
        client.fail_next("list", NETWORK_POLICIES)
    async with running(client, table) as server:
        await until(lambda: any(call.resource == "networkpolicies" for call in client.calls))
        assert not table.passes(Packet(FAR, WEB))
        with pytest.raises(NotYet, match="first lists"):
            await server.admit(REFERENCE, (WEB,))
        await until(lambda: server.book.policies)
        await server.commit()
    assert table.writes == writes


async def test_a_pod_that_comes_is_elements_alone() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        table.loads.clear()
        client.put(PODS, pod("more", "10.0.0.2"))
        await until(lambda: not table.passes(Packet(FAR, "10.0.0.2")))
        client.remove(PODS, "more", "default")
        await until(lambda: table.passes(Packet(FAR, "10.0.0.2")))
        assert not table.loads


async def test_changes_are_gathered() -> None:
    client, table = filled(), FakePolicyTable()
    config = PolicyConfig(**{**CONFIG.__dict__, "min_sync_period_s": 0.3})
    async with running(client, table, config):
        await until(lambda: table.changes)
        before = len(table.loads)
        for number in range(100):
            client.put(
                NETWORK_POLICIES,
                policy({"podSelector": {}, "ingress": [{"ports": [{"port": 1000 + number}]}]}, f"p{number}"),
            )
        await until(lambda: table.passes(Packet(FAR, WEB, port=1099)))
        assert len(table.loads) - before <= 6  # what is new and what is stale, a few times


async def test_what_does_not_matter_writes_nothing() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table) as server:
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        writes = table.writes
        client.put(PODS, pod("web", WEB, annotations={"note": "new"}))
        client.put(NETWORK_POLICIES, {**DENY, "metadata": {**DENY["metadata"], "labels": {"a": "b"}}})
        client.put(NAMESPACES, {"metadata": {"name": "else"}})
        await until(lambda: "else" in server.book._peers._namespaces)
        await server.commit()
        assert table.writes == writes


async def test_a_refused_policy_keeps_its_old_rules_and_blocks_nobody() -> None:
    client, table = filled(), FakePolicyTable(refuses="6666")
    async with running(client, table) as server:
        client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}, "bad"))
        await until(lambda: table.passes(Packet(FAR, WEB)) and not table.passes(Packet(FAR, WEB, port=81)))
        client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 6666}]}]}, "bad"))
        client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 6666}]}]}, "born-bad"))
        client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 81}]}]}, "good"))
        await until(lambda: table.passes(Packet(FAR, WEB, port=81)))
        await server.commit()
        assert table.passes(Packet(FAR, WEB))
        assert not table.passes(Packet(FAR, WEB, port=6666))
        client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 82}]}]}, "bad"))
        await until(lambda: table.passes(Packet(FAR, WEB, port=82)) and not table.passes(Packet(FAR, WEB)))


async def test_a_policy_that_is_bad_from_the_beginning_isolates_and_allows_nothing() -> None:
    client, table = filled(), FakePolicyTable(refuses="6666")
    client.remove(NETWORK_POLICIES, "deny", "default")
    client.put(NETWORK_POLICIES, policy({"podSelector": {}, "ingress": [{"ports": [{"port": 6666}]}]}, "bad"))
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))


async def test_a_failed_commit_leaves_the_old_rules_and_is_tried_again() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table) as server:
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        table.failures += [NftablesError("told to fail")] * 3
        client.put(NETWORK_POLICIES, FROM_FAR)
        await until(lambda: not table.failures)
        await until(lambda: table.passes(Packet(FAR, WEB)))
        assert not table.passes(Packet("203.0.113.1", WEB))
        table.failures.append(NftablesError("told to fail"))
        await server.admit(REFERENCE, ("10.0.0.76",))  # one failure is made good at once
        table.failures += [NftablesError("told to fail")] * 2
        with pytest.raises(NotYet, match="told to fail"):
            await server.admit(REFERENCE, ("10.0.0.77",))


async def test_what_cannot_be_removed_blocks_nobody() -> None:
    client, table = filled(), FakePolicyTable(refuses="delete")
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        client.put(NETWORK_POLICIES, FROM_FAR)
        await until(lambda: table.passes(Packet(FAR, WEB)))
        client.remove(NETWORK_POLICIES, "far", "default")
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        table.refuses = ""
        client.put(NETWORK_POLICIES, FROM_FAR)
        await until(lambda: table.passes(Packet(FAR, WEB)))
        await until(lambda: sum(name.startswith("ingress-profile") for name in table.chains) == 1)


@pytest.mark.parametrize(
    "events", [[NftablesEvent("table", TABLE, deleted=True)], [OVERRUN]], ids=["table", "overrun"]
)  # fmt: skip
async def test_what_others_change_is_repaired(events: list[NftablesEvent]) -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        table.chains.clear()
        table.elements.clear()
        table.events.put_nowait(events)
        await until(lambda: not table.passes(Packet(FAR, WEB)))


async def test_rules_stay_when_the_api_goes() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table):
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        writes = table.writes
        for _ in range(20):
            client.fail_next("watch")
        client.break_watches()
        await until(lambda: client.calls[-1].verb in ("watch", "list"))
        assert not table.passes(Packet(FAR, WEB))
    assert table.writes == writes


async def test_the_gate_commits_before_it_lets_pass() -> None:
    client, table = filled(), FakePolicyTable()
    config = PolicyConfig(**{**CONFIG.__dict__, "pod_wait_s": 30.0})
    async with running(client, table, config) as server:
        gate: Gate = server
        waiting = asyncio.ensure_future(gate.admit(PodReference("default", "new", "uid-new"), ("10.0.0.5",)))
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        assert not waiting.done()
        client.put(PODS, pod("new"))
        await waiting
        assert not table.passes(Packet(FAR, "10.0.0.5"))
        gate.release("uid-new")
        await until(lambda: table.passes(Packet(FAR, "10.0.0.5")))
        gate.release("uid-unknown")


@pytest.mark.parametrize(
    "reference",
    [PodReference("default", "web", "uid-old"), PodReference("default", "far", "uid-far"), PodReference("default", "none", "")],
    ids=["another uid", "another node", "unknown name"],
)  # fmt: skip
async def test_the_gate_does_not_let_pass_whom_it_does_not_know(reference: PodReference) -> None:
    async with running(filled(), FakePolicyTable()) as server:
        with pytest.raises(NotYet, match="not known yet"):
            await server.admit(reference, ("10.0.0.5",))


async def test_a_mirror_pod_is_known_by_its_static_uid() -> None:
    client, table = filled(), FakePolicyTable()
    client.put(PODS, pod("static", annotations={"kubernetes.io/config.mirror": "static-uid"}))
    async with running(client, table) as server:
        await server.admit(PodReference("default", "static", "static-uid"), ("10.0.0.8",))
        assert not table.passes(Packet(FAR, "10.0.0.8"))


async def test_a_pod_that_the_hub_forgot_stays_isolated_until_its_interface_goes() -> None:
    client, table = filled(), FakePolicyTable()
    async with running(client, table) as server:
        await server.admit(REFERENCE, (WEB,))
        client.remove(PODS, "web", "default")
        await until(lambda: server.book.find("uid-web") is None)
        await server.commit()
        assert not table.passes(Packet(FAR, WEB))
        server.release("uid-web")
        await until(lambda: table.passes(Packet(FAR, WEB)))


async def test_a_successor_at_an_address_is_judged_by_its_own_policies() -> None:
    client, table = filled(), FakePolicyTable()
    client.put(NETWORK_POLICIES, policy({"podSelector": {"matchLabels": {"app": "next"}}, "ingress": [{}]}, "open"))
    async with running(client, table) as server:
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        client.put(PODS, pod("next"))
        await until(lambda: server.book.find("uid-next"))
        await server.admit(PodReference("default", "next", "uid-next"), (WEB,))
        assert table.passes(Packet(FAR, WEB))


async def test_without_nf_tables_only_isolated_pods_wait() -> None:
    client = filled()
    server = PolicyServer(CONFIG, client, AbsentTable())
    task = asyncio.ensure_future(server.serve())
    try:
        with pytest.raises(NotYet, match="no nf_tables"):
            await server.admit(REFERENCE, (WEB,))
        client.remove(NETWORK_POLICIES, "deny", "default")
        await until(lambda: not server.book.policies)
        await server.admit(REFERENCE, (WEB,))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_metrics_are_served() -> None:
    config = PolicyConfig(**{**CONFIG.__dict__, "metrics_bind_address": "127.0.0.1:0"})
    client, table = filled(), FakePolicyTable()
    async with running(client, table, config) as server:
        await until(lambda: not table.passes(Packet(FAR, WEB)))
        await until(lambda: server.metrics.port)
        url = f"http://127.0.0.1:{server.metrics.port}/metrics"
        text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read())).decode()
    assert 'raftsman_policy_objects{kind="policies"} 1.0' in text
    assert "raftsman_policy_sync_duration_seconds_count" in text


def test_only_what_is_needed_is_kept() -> None:
    whole = pod("web", WEB)
    whole["spec"]["containers"][0]["ports"] = [{"containerPort": 1}, {"containerPort": 2, "name": "http"}]
    whole["metadata"]["managedFields"] = [{"manager": "x"}]
    slim = keep_pod_facts(whole)
    assert slim["spec"] == {"nodeName": "n1", "containers": [{"ports": [{"containerPort": 2, "name": "http"}]}]}
    assert slim["metadata"].keys() == {"name", "namespace", "uid", "labels"}
    assert keep_labels({"metadata": {"name": "a", "labels": {"b": "c"}, "annotations": {"d": "e"}}, "spec": {}}) == {
        "metadata": {"name": "a", "labels": {"b": "c"}}
    }
    assert keep_spec({**DENY, "status": {}}).keys() == {"metadata", "spec"}
