"""Options that the commands of a machine share, and the texts that they print."""

from __future__ import annotations

import click

from cli.machine.discovery import public_key_hash
from cli.machine.settings import PLACES, Places
from lab.site import PROFILES

node_name_option = click.option("--node-name", default="", help="The Node's name; by default the host's.")
address_option = click.option(
    "--advertise-address", "--node-ip", "address", default="",
    help="This machine's address on the network of all machines; by default that of the default route.",
)  # fmt: skip
supervisor_option = click.option(
    "--supervisor", type=click.Choice(["auto", "systemd", "plain"]), default="auto", show_default=True,
    help="Who keeps the components running: systemd's units, or plain loops of the shell.",
)  # fmt: skip
timers_option = click.option(
    "--timers", type=click.Choice(list(PROFILES)), default="kubernetes", show_default=True,
    help="When silence means death: Kubernetes' own, the lab's short ones, or long ones for emulated machines.",
)  # fmt: skip


def join_line(endpoint: str, token: str, certificate_key: str = "", places: Places = PLACES) -> str:
    """Return the command that makes another machine join."""
    from cryptography import x509

    pin = public_key_hash(x509.load_pem_x509_certificate((places.pki / "ca.crt").read_bytes()))
    line = f"raftsman join {endpoint} --token {token} --ca-cert-hash {pin}"
    return f"{line} --control-plane --certificate-key {certificate_key}" if certificate_key else line
