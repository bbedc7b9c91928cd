"""The controller manager's flags, and that it builds what they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from control.cloud.command import command as cloud_command
from control.controllers.command import command
from control.controllers.config import ControllersConfig
from control.controllers.manager import NAMES, build
from tests.control.controllers.harness import World


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--controllers", "*,-nothing"], "no such controller: -nothing"),
        (["--allocate-node-cidrs"], "--allocate-node-cidrs needs --cluster-cidr"),
        (["--cluster-cidr", "10.0.0.0/33"], "does not appear to be"),
        (["--cluster-cidr", "10.0.0.0/16,10.1.0.0/16"], "one range of each IP family"),
        (["--cluster-cidr", "10.0.0.0/8", "--service-cluster-ip-range", "10.96.0.0/16"], "overlaps"),
        (["--node-monitor-period", "soon"], "no duration"),
    ],
)
def test_wrong_flags_are_named(tmp_path: Path, flags: list[str], text: str) -> None:
    kubeconfig = tmp_path / "k"
    kubeconfig.write_text("{}")
    result = CliRunner().invoke(command, ["--kubeconfig", str(kubeconfig), *flags])
    assert result.exit_code == 2
    assert text in result.output


def test_help_has_examples() -> None:
    for found in (command, cloud_command):
        result = CliRunner().invoke(found, ["--help"])
        assert result.exit_code == 0
        assert "Examples:" in result.output
        assert "--leader-elect-lease-duration" in result.output


def test_an_unknown_cloud_is_named(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "k"
    kubeconfig.write_text("{}")
    result = CliRunner().invoke(cloud_command, ["--kubeconfig", str(kubeconfig), "--cloud-provider", "nimbus"])
    assert "no cloud provider named 'nimbus'" in result.output


async def test_every_name_is_a_controller(tmp_path: Path) -> None:
    from control.client.certificates import key_pem
    from tests.control.controllers.test_certificates import authority

    by = authority()
    from cryptography.hazmat.primitives import serialization

    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    certificate.write_bytes(by.certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(key_pem(by.key))  # type: ignore[arg-type]
    config = ControllersConfig(
        tmp_path, allocate_node_cidrs=True, cluster_cidrs=("10.244.0.0/16",), root_ca_file=certificate,
        cluster_signing_cert_file=certificate, cluster_signing_key_file=key,
    )  # fmt: skip
    world = World()
    assert sorted(found.name for found in build(world.context, config)) == sorted(NAMES)
    some = ControllersConfig(tmp_path, controllers=("*", "-deployment", "-garbagecollector"))
    names = {found.name for found in build(World().context, some)}
    assert not names & {"deployment", "garbagecollector", "nodeipam", "certificatesigningrequest-signing"}
    one = ControllersConfig(tmp_path, controllers=("deployment",))
    assert [found.name for found in build(World().context, one)] == ["deployment"]
