"""Sessions with an unmodified kubectl, two versions of it, as a user of Kubernetes sees them.

The transcripts stand in tests/golden/kubectl; each runs in a namespace of its own, several at once.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.control.apiserver.clients import transcripts
from tests.control.apiserver.processes import Kubectl, Server

pytestmark = pytest.mark.root

GOLDEN = Path(__file__).parents[3] / "golden" / "kubectl"
STORIES = sorted(path.stem for path in GOLDEN.glob("*.txt"))
VERSIONS = {"1.36": "sid", "1.32": "trixie"}
AT_ONCE = 4
OLDER = ("apply", "nouns", "owners", "pods", "reading", "streams")
"""The sessions in which kubectl 1.32 asks for other things than 1.36 does, or hears of them otherwise."""
SESSIONS = [("1.36", story) for story in STORIES] + [("1.32", story) for story in OLDER]


def signing_request() -> str:
    """Return a certificate signing request as its object holds it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


class Sessions:
    """Runs the transcripts that are asked for, a few at once."""

    def __init__(self, server: Server, programs: dict[str, Path], wanted: set[tuple[str, str]]) -> None:
        self._server = server
        self._programs = programs
        self._csr = signing_request()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._prepare(sorted(wanted))
        self._running: dict[tuple[str, str], Future[list[str]]] = {
            each: self._pool.submit(self._run, *each) for each in sorted(wanted)
        }

    @staticmethod
    def namespace(version: str, story: str) -> str:
        return f"{story}-{version.replace('.', '')}"

    def _prepare(self, wanted: list[tuple[str, str]]) -> None:
        """Make what controllers and nodes would have made: default service accounts, a node a session."""
        admin = Kubectl(self._programs["1.36"], self._server.kubeconfig(), self._server.directory)
        objects: list[dict[str, object]] = []
        for version, story in wanted:
            name = self.namespace(version, story)
            objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            account = {"name": "default", "namespace": name}
            objects.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
            if story == "nodes":
                objects.append({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        admin("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def _run(self, version: str, story: str) -> list[str]:
        name = self.namespace(version, story)
        folder = self._server.directory / name
        shutil.copytree(GOLDEN / "manifests", folder)
        names = {
            "ns": name, "tmp": str(folder), "pki": str(self._server.directory / "pki"), "csr": self._csr,
        }  # fmt: skip
        for path in folder.iterdir():
            path.write_text(transcripts.filled(path.read_text(), names))
        config = yaml.safe_load(self._server.kubeconfig().read_text())
        config["contexts"][0]["context"]["namespace"] = name
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        home = self._server.directory / f"home-{version}"
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        shell = transcripts.Shell(self._programs[version], folder / "kubeconfig", folder, environment)
        steps = transcripts.parse((GOLDEN / f"{story}.txt").read_text(), version, names)
        return list(transcripts.replay(steps, shell))

    def result(self, version: str, story: str) -> list[str]:
        return self._running[version, story].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def sessions(request: pytest.FixtureRequest, server: Server, kubectl_versions: dict[str, Path]) -> Iterator[Sessions]:
    programs = {version: kubectl_versions[suite] for version, suite in VERSIONS.items()}
    wanted = {
        (str(item.callspec.params["version"]), str(item.callspec.params["story"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_a_session
    }
    made = Sessions(server, programs, wanted)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(("version", "story"), SESSIONS)
def test_a_session(sessions: Sessions, version: str, story: str) -> None:
    differences = sessions.result(version, story)
    assert not differences, "\n".join(differences)
