"""The multi-VM lab's settings are checked, its Vagrantfile is one, and its scripts are scripts."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from cli.machine import discovery
from control.api import bootstraptokens
from lab.site import PROFILES

ROOT = Path(__file__).parent.parent.parent
VAGRANT = ROOT / "vagrant"
pytestmark = pytest.mark.root


def ruby(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ruby") or pytest.fail("ruby is missing; install it with: apt-get install ruby")
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAFTSMAN")}
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=own | environment,
        cwd=VAGRANT,
    )


def machines(**environment: str) -> list[list[str]]:
    done = ruby("lib/settings.rb", **environment)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_topologies() -> None:
    assert machines() == [
        ["n1", "192.168.56.11", "first"], ["n2", "192.168.56.12", "worker"], ["n3", "192.168.56.13", "worker"],
    ]  # fmt: skip
    roles = [role for _, _, role in machines(RAFTSMAN_NODES="5", RAFTSMAN_CONTROL_PLANES="3")]
    assert roles == ["first", "control-plane", "control-plane", "worker", "worker"]
    high = machines(RAFTSMAN_NETWORK="192.168.60.0/22", RAFTSMAN_LOAD_BALANCER_POOL="192.168.63.0/24")
    assert [address for _, address, _ in high][:1] == ["192.168.60.11"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"NODES": "0"}, 'nodes: "0" is no whole number from 1 to 50'),
        ({"NODES": "three"}, 'nodes: "three" is no whole number'),
        ({"CONTROL_PLANES": "2"}, "control_planes: 2 must be 1 or 3"),
        ({"CONTROL_PLANES": "3", "NODES": "2"}, "control_planes: 3 is more than nodes (2)"),
        ({"MEMORY_MB": "256"}, "memory_mb: "),
        ({"PROVIDER": "vmware"}, 'provider: "vmware" is none of virtualbox, libvirt'),
        ({"BOX": "a box"}, "box: "),
        ({"TIMERS": "fast"}, 'timers: "fast" is none of kubernetes, lab, emulation'),
        ({"NETWORK": "300.1.2.0/24"}, 'network: "300.1.2.0/24" is no address range'),
        ({"NETWORK": "192.168.56.5/24"}, "the range is 192.168.56.0/24"),
        ({"NETWORK": "fd00::/64"}, "network: "),
        ({"NETWORK": "192.168.121.0/24"}, "by which vagrant-libvirt reaches the machines"),
        ({"NETWORK": "10.9.0.0/24", "PROVIDER": "virtualbox"}, "is refused by VirtualBox"),
        ({"NETWORK": "192.168.56.0/29", "FIRST_ADDRESS": "5", "NODES": "3"}, "has no address 192.168.56.7"),
        ({"POD_CIDR": "192.168.0.0/16"}, "overlaps pod_cidr 192.168.0.0/16"),
        ({"POD_CIDR": "10.244.0.0/23"}, "holds a /24 for fewer than 3 nodes"),
        ({"SERVICE_CIDR": "10.244.64.0/20"}, "overlaps service_cidr 10.244.64.0/20"),
        ({"SERVICE_CIDR": "10.96.0.0"}, "is no address range; write it as"),
        ({"LOAD_BALANCER_POOL": "192.168.56.0/28"}, "holds the address 192.168.56.11 of a node"),
        ({"LOAD_BALANCER_POOL": "192.168.57.0/28"}, "is not in network 192.168.56.0/24"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_named(environment: dict[str, str], said: str) -> None:
    done = ruby("lib/settings.rb", **{f"RAFTSMAN_{name}": value for name, value in environment.items()})
    assert done.returncode == 1
    assert done.stderr.startswith("raftsman: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("colour: red", "colour: is no setting; there are nodes,"), ("- 1", "a list of NAME: VALUE"), ("a: [", "no YAML")],
)
def test_file_that_cannot_be_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    done = ruby("lib/settings.rb", str(tmp_path / "cluster.yaml"))
    assert done.returncode == 1
    assert said in done.stderr


def test_secrets_are_those_that_join_wants(tmp_path: Path) -> None:
    code = "require 'json'; require './lib/settings'; s = Raftsman::Settings.load('cluster.yaml', ENV); "
    code += "puts JSON.dump(s.machines.map { |m| s.environment(m) })"
    folder = tmp_path / "state"
    environment = {"RAFTSMAN_CONTROL_PLANES": "3", "RAFTSMAN_NODES": "4", "RAFTSMAN_SECRETS_DIR": str(folder)}
    done = ruby("-e", code, **environment)
    assert done.returncode == 0, done.stderr
    first, second, _, worker = json.loads(done.stdout)
    bootstraptokens.parse(first["TOKEN"])
    assert len(bytes.fromhex(second["CERTIFICATE_KEY"])) == 32
    assert (worker["CERTIFICATE_KEY"], worker["CA_KEY"], second["CA_KEY"]) == ("", "", "")
    authority = x509.load_pem_x509_certificate(base64.b64decode(first["CA_CERTIFICATE"]))
    assert discovery.public_key_hash(authority) == worker["CA_HASH"]
    assert b"BEGIN PRIVATE KEY" in base64.b64decode(first["CA_KEY"])
    assert (folder / "secrets.yaml").stat().st_mode & 0o077 == 0
    assert json.loads(ruby("-e", code, **environment).stdout)[0] == first


def test_timers_are_those_of_the_command() -> None:
    done = ruby("-e", "require './lib/settings'; puts Raftsman::Settings::TIMERS")
    assert set(done.stdout.split()) == set(PROFILES)


@pytest.mark.parametrize(
    "script", ["check", "provision/packages", "provision/cluster", "box/build", "box/host", "box/try"]
)
def test_scripts_are_shell(script: str) -> None:
    subprocess.run(["sh", "-n", VAGRANT / script], check=True, timeout=20)
    assert os.access(VAGRANT / script, os.X_OK)


def vagrant_program() -> str:
    found = shutil.which("vagrant")
    if found is None:
        known = subprocess.run(["apt-cache", "policy", "vagrant"], capture_output=True, text=True, check=False).stdout
        if "Candidate: (none)" in known or not known:
            pytest.skip("this distribution has no vagrant any more")
        pytest.fail(
            "vagrant is missing; install it with: apt-get install --no-install-recommends vagrant vagrant-libvirt"
        )
    return found


def validate(folder: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    own = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_CWD": str(folder), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dotfile"), "LANG": "C.UTF-8",
        "RAFTSMAN_SECRETS_DIR": str(tmp_path / "secrets"), "RAFTSMAN_PROVIDER": "libvirt",
    }  # fmt: skip
    return subprocess.run(
        [vagrant_program(), "validate", "--ignore-provider"], capture_output=True, text=True, check=False, timeout=120,
        env=own,
    )  # fmt: skip


def test_vagrant_validates_what_stands_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    done = validate(VAGRANT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    copy = tmp_path / "vagrant"
    shutil.copytree(VAGRANT, copy, ignore=shutil.ignore_patterns(".vagrant", ".state"))
    text = (copy / "Vagrantfile").read_text()
    (copy / "Vagrantfile").write_text(text.replace("provision/packages", "provision/nothing"))
    assert validate(copy, tmp_path).returncode == 1
