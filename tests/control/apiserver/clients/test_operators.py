"""An operator by kopf, unmodified, and the hub's example: both as their files in examples/ say to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.control.apiserver.clients.space import Space
from tests.control.apiserver.processes import ROOT, Server, process

pytestmark = pytest.mark.root
EXAMPLES = ROOT / "examples"


def until(what: str, check: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 90
    while not check():
        assert time.monotonic() < deadline, f"{what} did not come:\n{log.read_text()}"
        time.sleep(0.1)


def test_an_operator_keeps_what_its_resource_asks_for(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl, log = space.kubectl, tmp_path / "kopf.log"
    kubectl("apply", "-f", str(EXAMPLES / "boats.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/boats.examples.raftsman.dev", "--timeout=30s")
    monkeypatch.setenv("KUBECONFIG", str(space.kubeconfig))
    command = [sys.executable, "-m", "kopf", "run", "--standalone", "-n", space.name, str(EXAMPLES / "boats.py")]

    def shows(path: str, wanted: str) -> Callable[[], bool]:
        return lambda: kubectl.run("get", "boat", "argo", "-o", f"jsonpath={path}").stdout == wanted

    with process(command, log):
        kubectl("apply", "-f", str(EXAMPLES / "boat.yaml"))
        until("the status", shows("{.status.rowing}", "3 at the oars"), log)
        seats = kubectl("get", "configmap", "argo-crew", "-o", "jsonpath={.data} {.metadata.ownerReferences[0].kind}")
        assert seats == '{"seat-1":"rower","seat-2":"rower","seat-3":"rower"} Boat'
        kubectl("patch", "boat", "argo", "--type=merge", "-p", '{"spec":{"crew":2}}')
        until("the change", shows("{.status.rowing}", "2 at the oars"), log)
        assert kubectl("get", "configmap", "argo-crew", "-o", "jsonpath={.data.seat-3}") == ""
        until("an event", lambda: "2 rowers have a seat" in kubectl("events", "--for=boat/argo"), log)
        kubectl("delete", "boat", "argo", "--timeout=30s")
        assert "argo is moored" in log.read_text()


def test_the_hub_speaks_to_a_plain_grpc_client(server: Server, space: Space, tmp_path: Path) -> None:
    config = yaml.safe_load(space.kubeconfig.read_text())
    hub = {"name": "raftsman.dev/hub", "extension": {"server": f"localhost:{server.hub_port}"}}
    config["clusters"][0]["cluster"]["extensions"] = [hub]
    path = tmp_path / "with-hub"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "hub_client.py"), str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["pods:", "watched:", "watched:", "refused:"], done.stderr
    assert [line.split()[1] for line in lines[1:3]] == ["ADDED", "DELETED"]
    assert lines[3] == "refused: Invalid metadata.name"
