"""``raftsman kubelet``."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path
from typing import Any

import click
import uvloop

from control.client.flags import DURATION
from node.config import DEFAULT_POD_LOGS, DEFAULT_ROOT, KubeletConfig
from node.kubelet import run


class KeyValues(click.ParamType[dict[str, str]]):
    """key=value,key=value."""

    name = "key=value,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """Read the pairs; a key alone has an empty value."""
        if isinstance(value, dict):
            return value
        pairs = (part.partition("=") for part in str(value).split(",") if part)
        return {key: text for key, _, text in pairs}


class Taints(click.ParamType[tuple[dict[str, str], ...]]):
    """key=value:effect,key:effect."""

    name = "key=value:effect,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[dict[str, str], ...]:
        """Read the taints."""
        if isinstance(value, tuple):
            return value
        found: list[dict[str, str]] = []
        for part in str(value).split(","):
            if not part:
                continue
            rest, colon, effect = part.rpartition(":")
            if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
                self.fail(f"{part!r} is not key=value:effect", param, ctx)
            key, _, text = rest.partition("=")
            found.append({"key": key, "effect": effect, **({"value": text} if text else {})})
        return tuple(found)


def options(command: Any) -> Any:
    """Give a command the kubelet's flags; the node's agent has them too."""
    path = click.Path(path_type=Path)
    found = [
        click.option("--kubeconfig", type=path, required=True, help="Where the API server is; made by joining."),
        click.option("--bootstrap-kubeconfig", type=path, help="Kubeconfig with a bootstrap token, to join with."),
        click.option("--hostname-override", default=None, help="The node's name.  [default: the hostname]"),
        click.option("--node-ip", default="", help="The node's addresses, comma-separated, the main one first."),
        click.option("--container-runtime-endpoint", default="unix:///run/containerd/containerd.sock"),
        click.option("--root-dir", type=path, default=DEFAULT_ROOT, help="Where pods' files are kept."),
        click.option("--cert-dir", type=path, default=None, help="Where certificates are.  [default: ROOT-DIR/pki]"),
        click.option("--pod-logs-dir", type=path, default=None, help="Where containers' logs are."),
        click.option("--cluster-dns", default="", help="The cluster's DNS servers, comma-separated."),
        click.option("--cluster-domain", default="cluster.local"),
        click.option("--resolv-conf", type=path, default=Path("/etc/resolv.conf"), help="The node's own resolver."),
        click.option("--address", default="0.0.0.0", help="Listen here."),
        click.option("--port", type=int, default=10250, help="Listen on this port."),
        click.option("--client-ca-file", type=path, help="Who signed the certificates of our callers."),
        click.option("--tls-cert-file", type=path, help="Serve with this certificate."),
        click.option("--tls-private-key-file", type=path, help="The key of --tls-cert-file."),
        click.option("--rotate-server-certificates/--no-rotate-server-certificates", default=True),
        click.option(
            "--authentication-token-webhook/--no-authentication-token-webhook",
            default=True,
            help="Ask the API server whom a bearer token names.",
        ),
        click.option("--authorization-mode", type=click.Choice(["Webhook", "AlwaysAllow"]), default="Webhook"),
        click.option("--cgroup-root", default="/", help="Below this cgroup are the pods."),
        click.option("--cgroup-driver", type=click.Choice(["cgroupfs", "systemd"]), default="cgroupfs"),
        click.option("--node-status-update-frequency", type=DURATION, default="10s"),
        click.option("--node-lease-duration-seconds", type=int, default=40),
        click.option("--sync-frequency", type=DURATION, default="60s", help="How old volumes of ConfigMaps may be."),
        click.option("--max-pods", type=int, default=110),
        click.option("--node-labels", type=KeyValues(), default="", help="Labels of the Node when it registers."),
        click.option("--register-with-taints", type=Taints(), default="", help="Taints of the Node."),
        click.option("--provider-id", default="", help="What the cloud calls this machine."),
        click.option("--system-reserved", type=KeyValues(), default="", help="As cpu=100m,memory=200Mi."),
        click.option("--pod-infra-container-image", default="", help="Ignored: the runtime's own setting counts."),
    ]
    for option in reversed(found):
        command = option(command)
    return command


def config_of(flags: dict[str, Any]) -> KubeletConfig:
    """Return the configuration that the flags say."""
    root_dir: Path = flags["root_dir"]
    logs = DEFAULT_POD_LOGS if root_dir == DEFAULT_ROOT else root_dir / "pod-logs"
    return KubeletConfig(
        node_name=(flags["hostname_override"] or socket.gethostname()).lower(),
        kubeconfig=flags["kubeconfig"],
        bootstrap_kubeconfig=flags["bootstrap_kubeconfig"],
        node_ips=_words(flags["node_ip"]),
        container_runtime_endpoint=flags["container_runtime_endpoint"],
        root_dir=root_dir.absolute(),
        cert_dir=flags["cert_dir"] or root_dir / "pki",
        pod_logs_dir=(flags["pod_logs_dir"] or logs).absolute(),
        cluster_dns=_words(flags["cluster_dns"]),
        cluster_domain=flags["cluster_domain"],
        resolv_conf=flags["resolv_conf"],
        address=flags["address"],
        port=flags["port"],
        client_ca_file=flags["client_ca_file"],
        tls_cert_file=flags["tls_cert_file"],
        tls_private_key_file=flags["tls_private_key_file"],
        rotate_server_certificates=flags["rotate_server_certificates"],
        authentication_token_webhook=flags["authentication_token_webhook"],
        authorization_mode=flags["authorization_mode"],
        cgroup_root=flags["cgroup_root"],
        cgroup_driver=flags["cgroup_driver"],
        node_status_update_frequency_s=flags["node_status_update_frequency"],
        node_lease_duration_s=flags["node_lease_duration_seconds"],
        sync_frequency_s=flags["sync_frequency"],
        max_pods=flags["max_pods"],
        node_labels=flags["node_labels"],
        register_with_taints=flags["register_with_taints"],
        provider_id=flags["provider_id"],
        system_reserved=flags["system_reserved"],
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


async def _until_told(config: KubeletConfig) -> None:
    """Run until SIGTERM or SIGINT; the containers stay."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await run(config)
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped; containers go on")


@click.command(context_settings={"show_default": True})
@options
@click.option("-v", "--v", "verbosity", type=int, default=2, help="Log more from 4 on.")
def command(verbosity: int, **flags: Any) -> None:
    """Run the pods of one node.

    \b
    Examples:
      raftsman kubelet --kubeconfig kubelet.kubeconfig --bootstrap-kubeconfig bootstrap.kubeconfig
      raftsman kubelet --kubeconfig kubelet.kubeconfig --hostname-override n1 --node-ip 10.1.0.11 \\
          --container-runtime-endpoint unix:///run/containerd/containerd.sock
    """
    level = logging.DEBUG if verbosity >= 4 else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_until_told(config_of(flags)))
