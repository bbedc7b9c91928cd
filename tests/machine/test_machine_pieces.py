"""The pure pieces of joining: who is trusted, what is shared, and how units are written."""

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cli.machine import controlplane, discovery, membership, objects, settings, sharing, supervisor, token
from cli.machine.settings import ClusterSettings, Machine, Places
from control.api import bootstraptokens
from control.api.meta import Object
from lab import cluster_pki, components, pki
from lab.state import LabError
from proto.etcd import rpc_pb2

TOKEN = "abcdef.0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "token_id", "secret", "wanted"),
    [
        ("", "joshua", "my voice is my passcode", "7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"),
    ],
)
def test_signature_is_kubeadms(content: str, token_id: str, secret: str, wanted: str) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"joshua"}').decode()
    assert bootstraptokens.signature(content, token_id, secret) == f"{header}..{wanted}"


def test_generated_tokens_are_tokens() -> None:
    assert len({bootstraptokens.parse(bootstraptokens.generate()) for _ in range(20)}) == 20
    with pytest.raises(ValueError, match="six characters"):
        bootstraptokens.parse("ABCDEF.0123456789abcdef")


def authority(directory: Path, name: str) -> tuple[bytes, str]:
    made = pki.make_authority(directory / name, "ca", "kubernetes")
    return (directory / name / "ca.crt").read_bytes(), discovery.public_key_hash(made.certificate)


def signed(authority_pem: bytes, *tokens: str) -> Object:
    information = objects.cluster_info("https://10.0.0.1:6443", authority_pem)
    secrets = dict(bootstraptokens.parse(text) for text in tokens)
    return bootstraptokens.signed_cluster_info(information, secrets) or information


def test_authority_is_trusted_by_token_and_hash(tmp_path: Path) -> None:
    own, pin = authority(tmp_path, "own")
    other, other_pin = authority(tmp_path, "other")
    assert discovery.verified_authority(signed(own, TOKEN), TOKEN, [pin]) == own
    assert discovery.verified_authority(signed(own, TOKEN), TOKEN, [other_pin, pin]) == own
    with pytest.raises(LabError, match=f"has the hash {pin}, not {other_pin}"):
        discovery.verified_authority(signed(own, TOKEN), TOKEN, [other_pin])
    with pytest.raises(discovery.NotYetError, match="not signed with the token abcdef"):
        discovery.verified_authority(signed(own), TOKEN, [pin])
    with pytest.raises(LabError, match="was not made with the token abcdef"):
        discovery.verified_authority(signed(own, "abcdef.fedcba9876543210"), TOKEN, [pin])
    forged = signed(own, TOKEN)
    forged["data"]["kubeconfig"] = signed(other, TOKEN)["data"]["kubeconfig"]
    with pytest.raises(LabError, match="was not made with the token"):
        discovery.verified_authority(forged, TOKEN, [pin])


def test_hash_is_openssls(tmp_path: Path) -> None:
    _, pin = authority(tmp_path, "own")
    public = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "own" / "ca.crt", "-noout", "-pubkey"], capture_output=True, check=True
    ).stdout
    encoded = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "der"], input=public, capture_output=True, check=True
    ).stdout
    digest = subprocess.run(["sha256sum"], input=encoded, capture_output=True, check=True).stdout.split()[0].decode()
    assert pin == f"sha256:{digest}"


@pytest.mark.parametrize("text", ["sha256:12", "sha1:" + "0" * 64, "0" * 64, "sha256:" + "g" * 64])
def test_what_is_no_hash_is_said(text: str) -> None:
    with pytest.raises(LabError, match="is no hash"):
        discovery.check_hash(text)


def test_only_signing_tokens_sign() -> None:
    def stored(text: str, **more: str) -> Object:
        found = bootstraptokens.secret_object(text)
        data = found.pop("stringData") | {key.replace("_", "-"): value for key, value in more.items()}
        return {**found, "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}

    lasting = (NOW + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    secrets = [
        stored("aaaaaa.0123456789abcdef", expiration=lasting),
        stored("bbbbbb.0123456789abcdef", expiration="2025-12-31T23:59:59Z"),
        stored("cccccc.0123456789abcdef", usage_bootstrap_signing="false"),
        stored("dddddd.0123456789abcdef", expiration="tomorrow"),
        stored("eeeeee.0123456789abcdef", token_id="ffffff"),
        {**stored("gggggg.0123456789abcdef"), "type": "Opaque"},
    ]
    assert set(bootstraptokens.signing_tokens(secrets, NOW)) == {"aaaaaa"}


def test_what_control_planes_share_is_encrypted() -> None:
    key = sharing.read_key(sharing.generate_key())
    sealed = sharing.encrypt(b"secret", key)
    assert b"secret" not in sealed
    assert sharing.decrypt(sealed, key) == b"secret"
    with pytest.raises(LabError, match="--certificate-key right"):
        sharing.decrypt(sealed, sharing.read_key(sharing.generate_key()))
    with pytest.raises(LabError, match="cannot be decrypted"):
        sharing.decrypt(sealed[:-1] + bytes([sealed[-1] ^ 1]), key)
    with pytest.raises(LabError, match="64 hexadecimal digits"):
        sharing.read_key("abc")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"pod_range": "10.244.0.0/33"}, "--pod-network-cidr 10.244.0.0/33"),
        ({"pod_range": "10.244.1.0/16"}, "host bits"),
        ({"service_range": "10.244.128.0/20"}, "--pod-network-cidr 10.244.0.0/16 overlaps --service-cidr"),
        ({"pod_range": "192.168.0.0/16"}, "holds this machine's own address 192.168.56.11"),
        ({"pod_range": "10.244.0.0/16,fd00:1::/56", "service_range": "10.96.0.0/16,fd00:2::/112"}, ""),
    ],
)
def test_ranges_are_checked(changes: dict[str, str], said: str) -> None:
    cluster = replace(ClusterSettings(), **changes)  # type: ignore[arg-type]
    if not said:
        settings.check_ranges(cluster, "192.168.56.11")
        return
    with pytest.raises(LabError, match=said):
        settings.check_ranges(cluster, "192.168.56.11")


def machine(**changes: object) -> Machine:
    fields = {
        "node_name": "m1", "address": "192.168.56.11", "control_plane": True,
        "cluster": ClusterSettings(control_planes=("192.168.56.11",)), "supervisor": "systemd",
        "store_members": {"m1": "192.168.56.11"},
    }  # fmt: skip
    return Machine(**(fields | changes))  # type: ignore[arg-type]


def test_record_comes_back(tmp_path: Path) -> None:
    places = Places(tmp_path / "etc", tmp_path / "lib", tmp_path / "run", tmp_path / "log")
    assert settings.load(places) is None
    settings.save(machine(), places)
    assert settings.load(places) == machine()
    assert places.record.stat().st_mode & 0o077 == 0
    record = json.loads(places.record.read_text())
    places.record.write_text(json.dumps(record | {"version": 2}))
    with pytest.raises(LabError, match="has version 2, this raftsman reads 1"):
        settings.load(places)
    places.record.write_text("{")
    with pytest.raises(LabError, match="raftsman reset --force"):
        settings.load(places)


def test_settings_come_back() -> None:
    own = ClusterSettings(control_planes=("10.0.0.1",)).with_control_plane("10.0.0.2").with_control_plane("10.0.0.2")
    assert own.control_planes == ("10.0.0.1", "10.0.0.2")
    assert ClusterSettings.from_text(own.to_text()) == own
    assert own.without_control_plane("10.0.0.1").control_planes == ("10.0.0.2",)
    for text in ("", "[1]", '{"version": 1, "colour": "red"}'):
        with pytest.raises(LabError, match="raftsman-config cannot be read"):
            ClusterSettings.from_text(text)


def test_machine_and_lab_run_the_same_command_lines(tmp_path: Path) -> None:
    site = machine().site()
    for component, command in (
        ("store", components.store_command(site)),
        ("controlplane", components.controlplane_command(site)),
        ("node", components.node_command(site)),
    ):
        arguments = supervisor.arguments_of(component, command)
        assert arguments[0].startswith("--")
        text = supervisor.environment_text(arguments)
        assert text.count("\n") == 1
    with pytest.raises(LabError, match="hold blanks"):
        supervisor.environment_text(["--name", "a b"])


@pytest.mark.parametrize("component", supervisor.COMPONENTS)
def test_systemd_takes_the_units(component: str, tmp_path: Path) -> None:
    """The program that is named must exist, so a stand-in is."""
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is missing; install it with: apt-get install systemd")
    for name in supervisor.COMPONENTS:
        text = supervisor.unit_text(name, shutil.which("true") or "").replace("/usr/bin/containerd", "/bin/true")
        (tmp_path / f"raftsman-{name}.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / f"raftsman-{component}.service")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = supervisor.unit_text(component, "/srv/raftsman")
    assert supervisor.INSTALLED not in text


def test_certificates_of_a_machine(tmp_path: Path) -> None:
    places = Places(tmp_path / "etc", tmp_path / "lib", tmp_path / "run", tmp_path / "log")
    cluster_pki.make_authorities(places.pki)
    controlplane.issue_certificates(machine(), ["api.example", "203.0.113.7"], places)
    controlplane.write_kubeconfigs(machine(), places)
    served = x509.load_pem_x509_certificate((places.pki / "apiserver.crt").read_bytes())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "10.96.0.1", "192.168.56.11", "203.0.113.7"]
    assert {"kubernetes", "m1", "api.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]


def test_bootstrap_kubeconfig_asks_its_own_control_plane_first(tmp_path: Path) -> None:
    places = Places(tmp_path / "etc", tmp_path / "lib", tmp_path / "run", tmp_path / "log")
    cluster = ClusterSettings(control_planes=("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    controlplane.write_bootstrap(cluster, "10.0.0.2:6443", b"PEM", TOKEN, places)
    text = (places.configuration / "bootstrap.kubeconfig").read_text()
    assert "10.0.0.2:6444,10.0.0.1:6444,10.0.0.3:6444" in text


def test_members_as_a_new_one_starts() -> None:
    old = rpc_pb2.Member(ID=1, name="m1", peerURLs=["https://10.0.0.1:2380"])
    new = rpc_pb2.Member(ID=2, peerURLs=["https://10.0.0.2:2380"], isLearner=True)
    url = membership.peer_url("10.0.0.2")
    assert membership.addresses_of([old, new], "m2", url) == {"m1": "10.0.0.1", "m2": "10.0.0.2"}
    assert not membership.is_awaited([old], "m2", url)
    assert membership.is_awaited([old, new], "m2", url)
    with pytest.raises(LabError, match="raftsman reset --member m1"):
        membership.is_awaited([old], "m1", url)
    other = rpc_pb2.Member(ID=3, peerURLs=["https://10.0.0.3:2380"], isLearner=True)
    with pytest.raises(membership.NotYetError, match="has not started yet"):
        membership.addresses_of([old, new, other], "m2", url)


@pytest.mark.parametrize(
    ("expiration", "wanted"),
    [("", "for ever"), ("2026-01-01T01:30:00Z", "1 h 30 min"), ("2025-12-31T00:00:00Z", "over"), ("x", "invalid")],
)
def test_time_left_of_a_token(expiration: str, wanted: str) -> None:
    assert token.time_left({"expiration": expiration}, NOW) == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "--token", "x"], "--token: a bootstrap token is six characters"),
        (["init", "--certificate-key", "x"], "--certificate-key takes 64 hexadecimal digits"),
        (["join", "h:1", "--token", TOKEN], "--ca-cert-hash is missing"),
        (["join", "h:1", "--token", TOKEN, "--ca-cert-hash", "1"], "is no hash of an authority"),
        (["join", "h:1", "--token", TOKEN, "--unsafe-skip-ca-verification", "--control-plane"], "belong together"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("raftsman: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
