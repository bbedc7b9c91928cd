"""The command line of one member: etcd's flags and environment names."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import click
import uvloop

from store.config import ConfigError, StoreConfig
from store.member import run


class _Urls(click.ParamType["tuple[str, ...]"]):
    """A comma-separated list of URLs."""

    name = "url,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


_URLS = _Urls()
_FILE = click.Path(dir_okay=False, path_type=Path)
_CLIENT = ("http://localhost:2379",)
_PEER = ("http://localhost:2380",)


@click.command(
    context_settings={"auto_envvar_prefix": "ETCD", "max_content_width": 120, "show_default": True},
    epilog="""\b
Examples:
  one member, for trying things out
    raftsman store --data-dir /tmp/store
  the first of three members
    raftsman store --name a --data-dir /var/lib/raftsman/store \\
      --listen-peer-urls https://10.0.0.1:2380 --initial-advertise-peer-urls https://10.0.0.1:2380 \\
      --listen-client-urls https://10.0.0.1:2379 --advertise-client-urls https://10.0.0.1:2379 \\
      --initial-cluster a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380 \\
      --cert-file server.crt --key-file server.key --trusted-ca-file ca.crt --client-cert-auth \\
      --peer-cert-file peer.crt --peer-key-file peer.key --peer-trusted-ca-file ca.crt --peer-client-cert-auth

Each flag is also read from the environment, as etcd does: --data-dir is ETCD_DATA_DIR.""",
)
@click.option("--name", default="default", help="Human-readable name of this member.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of the log and snapshots.")
@click.option("--listen-client-urls", type=_URLS, default=_CLIENT, help="Where to serve clients.")
@click.option("--advertise-client-urls", type=_URLS, default=_CLIENT, help="Where clients are told to go.")
@click.option("--listen-peer-urls", type=_URLS, default=_PEER, help="Where to serve the other members.")
@click.option(
    "--initial-advertise-peer-urls", type=_URLS, default=_PEER, help="Where the other members are told to go."
)
@click.option("--initial-cluster", default="", help="NAME=URL,… of all members; empty for this one alone.")
@click.option("--initial-cluster-token", default="etcd-cluster", help="Keeps clusters of the same addresses apart.")
@click.option("--initial-cluster-state", type=click.Choice(["new", "existing"]), default="new")
@click.option("--listen-metrics-urls", type=_URLS, default=(), help="Where to serve /metrics, /health and /version.")
@click.option("--cert-file", type=_FILE, help="Certificate shown to clients.")
@click.option("--key-file", type=_FILE, help="Its key.")
@click.option("--trusted-ca-file", type=_FILE, help="CA of the clients' certificates.")
@click.option("--client-cert-auth", is_flag=True, help="Clients must show a certificate.")
@click.option("--peer-cert-file", type=_FILE, help="Certificate shown to the other members.")
@click.option("--peer-key-file", type=_FILE, help="Its key.")
@click.option("--peer-trusted-ca-file", type=_FILE, help="CA of the members' certificates.")
@click.option(
    "--peer-client-cert-auth", is_flag=True, help="Members must show a certificate (with https they always do)."
)
@click.option(
    "--heartbeat-interval", "heartbeat_interval_ms", type=click.IntRange(1), default=100, help="Milliseconds."
)
@click.option(
    "--election-timeout", "election_timeout_ms", type=click.IntRange(5, 50_000), default=1000, help="Milliseconds."
)
@click.option("--snapshot-count", type=click.IntRange(1), default=10_000, help="Log entries between two snapshots.")
@click.option("--max-txn-ops", type=click.IntRange(1), default=128, help="Operations in one transaction.")
@click.option("--max-request-bytes", type=click.IntRange(1), default=1_572_864, help="Size of one request.")
@click.option("--quota-backend-bytes", type=int, default=0, help="Size at which writes are refused; 0 for 2 GiB.")
@click.option(
    "--experimental-watch-progress-notify-interval", "watch_progress_s", type=float, default=600.0, help="Seconds."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def command(
    log_level: str, watch_progress_s: float, quota_backend_bytes: int, data_dir: Path | None, **flags: Any
) -> None:
    """Run one member of the replicated store, which speaks etcd's v3 API."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = StoreConfig(
            **flags,
            data_dir=data_dir or Path(f"{flags['name']}.etcd"),
            quota_backend_bytes=quota_backend_bytes if quota_backend_bytes > 0 else 2 * 1024**3,
            watch_progress_notify_interval_s=watch_progress_s,
        )
        config.server_tls(), config.peer_tls()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    try:
        uvloop.run(_run_until_signalled(config))
    except OSError as error:
        raise click.ClickException(str(error)) from error


async def _run_until_signalled(config: StoreConfig) -> None:
    serving = asyncio.ensure_future(run(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped name=%s", config.name)
