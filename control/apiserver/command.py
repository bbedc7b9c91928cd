"""The command line of the API server: kube-apiserver's flags."""

from __future__ import annotations

import asyncio
import logging
import signal
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
import uvloop

from control.apiserver.admission.configuration import OPTIONAL
from control.apiserver.audit.settings import audit_config, audit_flags
from control.apiserver.config import ApiServerConfig, ConfigurationError, EtcdConfig
from control.apiserver.server import run
from control.client.flags import DURATION

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

EXAMPLES = """\b
Examples:
  A server on one store without TLS, for a look around:
    raftsman apiserver --etcd-servers http://127.0.0.1:2379 --authorization-mode AlwaysAllow
  A server of a cluster:
    raftsman apiserver --etcd-servers https://10.0.0.1:2379,https://10.0.0.2:2379 \\
      --etcd-cafile etcd-ca.crt --etcd-certfile apiserver-etcd.crt --etcd-keyfile apiserver-etcd.key \\
      --bind-address 0.0.0.0 --advertise-address 10.0.0.1 \\
      --tls-cert-file apiserver.crt --tls-private-key-file apiserver.key --client-ca-file ca.crt \\
      --service-account-signing-key-file sa.key --service-account-key-file sa.pub
"""


def _csv(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _port_range(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    first, dash, last = value.partition("-")
    if not dash or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise click.BadParameter(f"{value!r} is not a range of ports such as 30000-32767")
    return int(first), int(last)


def _cidr(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        versions = [ip_network(part).version for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if len(versions) != len(set(versions)):
        raise click.BadParameter(f"{value}: give one network, or one of IPv4 and one of IPv6")
    return value


@click.command(epilog=EXAMPLES, context_settings={"max_content_width": 110})
@click.option("--etcd-servers", required=True, callback=_csv, help="URLs of the store's members, comma separated.")
@click.option("--etcd-cafile", type=FILE, help="CA that the store's certificates are signed by.")
@click.option("--etcd-certfile", type=FILE, help="Client certificate for the store.")
@click.option("--etcd-keyfile", type=FILE, help="Key of the client certificate for the store.")
@click.option("--etcd-prefix", default="/registry", show_default=True, help="Prefix of all keys.")
@click.option("--bind-address", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--secure-port", default=6443, show_default=True, help="Port of REST; 0 takes a free one.")
@click.option("--grpc-port", default=6444, show_default=True, help="Port of the gRPC hub; -1 serves none.")
@click.option("--advertise-address", default="", help="Address that default/kubernetes names this instance by.")
@click.option("--tls-cert-file", type=FILE, help="Server certificate.")
@click.option("--tls-private-key-file", type=FILE, help="Key of the server certificate.")
@click.option("--client-ca-file", type=FILE, help="CA that client certificates are signed by.")
@click.option("--requestheader-client-ca-file", type=FILE, help="CA of front proxies.")
@click.option(
    "--requestheader-allowed-names",
    default="",
    callback=_csv,
    help="Common names of certificates that may be front proxies; all of their CA where empty.",
)
@click.option(
    "--requestheader-username-headers",
    default="x-remote-user",
    show_default=True,
    callback=_csv,
    help="Headers in which front proxies name the user.",
)
@click.option(
    "--requestheader-uid-headers",
    default="x-remote-uid",
    show_default=True,
    callback=_csv,
    help="Headers in which front proxies give the user's UID.",
)
@click.option(
    "--requestheader-group-headers",
    default="x-remote-group",
    show_default=True,
    callback=_csv,
    help="Headers in which front proxies name the user's groups.",
)
@click.option(
    "--requestheader-extra-headers-prefix",
    "requestheader_extra_headers_prefixes",
    default="x-remote-extra-",
    show_default=True,
    callback=_csv,
    help="Prefixes of headers in which front proxies give more about the user.",
)
@click.option(
    "--proxy-client-cert-file",
    type=FILE,
    help="Client certificate by which aggregated API servers know this server; its CA is their requestheader CA.",
)
@click.option("--proxy-client-key-file", type=FILE, help="Key of the certificate for aggregated API servers.")
@click.option(
    "--aggregator-reject-forwarding-redirect",
    type=bool,
    default=True,
    show_default=True,
    help="Keep redirects of aggregated API servers from clients.",
)
@click.option(
    "--service-account-issuer",
    default="https://kubernetes.default.svc.cluster.local",
    show_default=True,
    help="Issuer of tokens.",
)
@click.option(
    "--service-account-key-file",
    "service_account_key_files",
    type=FILE,
    multiple=True,
    help="Keys that tokens are checked with.",
)
@click.option("--service-account-signing-key-file", type=FILE, help="Key that tokens are signed with.")
@click.option("--api-audiences", default="", callback=_csv, help="Audiences of tokens; the issuer where empty.")
@click.option(
    "--service-cluster-ip-range",
    default="10.96.0.0/16",
    callback=_cidr,
    show_default=True,
    help="Addresses of Services; one of each IP family with a comma for two, the default one first.",
)
@click.option(
    "--service-node-port-range",
    default="30000-32767",
    callback=_port_range,
    show_default=True,
    help="Node ports of Services.",
)
@click.option("--kubelet-client-certificate", type=FILE, help="Client certificate for kubelets.")
@click.option("--kubelet-client-key", type=FILE, help="Key of the client certificate for kubelets.")
@click.option("--kubelet-certificate-authority", type=FILE, help="CA that kubelets' certificates are signed by.")
@click.option(
    "--kubelet-preferred-address-types",
    default="Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP",
    callback=_csv,
    show_default=True,
    help="Which of a node's addresses to dial.",
)
@click.option(
    "--authorization-mode",
    "authorization_modes",
    default="Node,RBAC",
    callback=_csv,
    show_default=True,
    help="Authorizers in their order.",
)
@click.option(
    "--anonymous-auth",
    type=bool,
    default=True,
    show_default=True,
    help="Let requests without credentials be system:anonymous's.",
)
@click.option(
    "--enable-bootstrap-token-auth",
    type=bool,
    default=False,
    is_flag=False,
    flag_value=True,
    show_default=True,
    help="Take bootstrap tokens.",
)
@click.option(
    "--default-not-ready-toleration-seconds",
    "default_not_ready_toleration_s",
    default=300,
    show_default=True,
    help="How long pods stay on a node that is not ready.",
)
@click.option(
    "--default-unreachable-toleration-seconds",
    "default_unreachable_toleration_s",
    default=300,
    show_default=True,
    help="How long pods stay on a node that is unreachable.",
)
@click.option("--event-ttl-seconds", "event_ttl_s", default=3600, show_default=True, help="How long events are kept.")
@click.option(
    "--enable-priority-and-fairness",
    type=bool,
    default=True,
    show_default=True,
    help="Let requests wait in fair queues, by FlowSchemas and PriorityLevelConfigurations.",
)
@click.option(
    "--max-requests-inflight",
    default=400,
    show_default=True,
    help="Reads served at once; with the writes' number the seats of priority and fairness.",
)
@click.option("--max-mutating-requests-inflight", default=200, show_default=True, help="Writes served at once.")
@click.option(
    "--request-timeout",
    "request_timeout_s",
    type=DURATION,
    default="1m",
    show_default=True,
    help="How long a request other than a watch or a stream may take.",
)
@click.option(
    "--etcd-healthcheck-timeout",
    "etcd_healthcheck_timeout_s",
    type=DURATION,
    default="2s",
    show_default=True,
    help="How long the store may take to answer livez and healthz.",
)
@click.option(
    "--etcd-readycheck-timeout",
    "etcd_readycheck_timeout_s",
    type=DURATION,
    default="2s",
    show_default=True,
    help="How long the store may take to answer readyz.",
)
@click.option(
    "--livez-grace-period",
    "livez_grace_period_s",
    type=DURATION,
    default="0s",
    show_default=True,
    help="How long the start may go on before livez fails for it.",
)
@click.option(
    "--min-request-timeout",
    "min_request_timeout_s",
    default=1800,
    show_default=True,
    help="Seconds that watches live at least.",
)
@click.option(
    "--shutdown-delay-duration",
    "shutdown_delay_s",
    type=DURATION,
    default="0s",
    show_default=True,
    help="Time between the first sign of the end and the closing of the ports.",
)
@click.option(
    "--enable-admission-plugins",
    default="",
    callback=_csv,
    help=f"Admission plugins beside those in force by themselves: {', '.join(OPTIONAL)}.",
)
@click.option(
    "--disable-admission-plugins", default="", callback=_csv, help="Admission plugins that shall not be in force."
)
@click.option(
    "--admission-control-config-file",
    type=FILE,
    help="AdmissionConfiguration: how PodSecurity, ResourceQuota and EventRateLimit judge.",
)
@audit_flags
@click.option(
    "--encryption-provider-config", type=FILE, help="EncryptionConfiguration: what is encrypted in the store, and how."
)
@click.option(
    "--encryption-provider-config-automatic-reload",
    type=bool,
    default=False,
    is_flag=False,
    flag_value=True,
    show_default=True,
    help="Take up changes of the encryption configuration.",
)
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
def command(log_level: str, **flags: Any) -> None:
    """Serve the Kubernetes API over an etcd-compatible store."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = config_of(flags)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_until_signalled(config))
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from None


def config_of(flags: dict[str, Any]) -> ApiServerConfig:
    """Return the configuration that the command's flags, `--log-level` apart, stand for."""
    rest = dict(flags)
    if rest["enable_priority_and_fairness"]:
        seats = rest["max_requests_inflight"] + rest["max_mutating_requests_inflight"]
        if seats <= 0:
            text = "--max-requests-inflight and --max-mutating-requests-inflight must add up to something positive"
            raise click.UsageError(text)
    etcd = EtcdConfig(
        rest.pop("etcd_servers"),
        rest.pop("etcd_cafile"),
        rest.pop("etcd_certfile"),
        rest.pop("etcd_keyfile"),
        rest.pop("etcd_prefix"),
    )
    return ApiServerConfig(etcd, audit=audit_config(rest), **rest)


async def _until_signalled(config: ApiServerConfig) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await run(config)
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped")
