"""The command line of one member: etcd's flags and environment names."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from store import foreign_flags
from store.api.compactor import Retention
from store.backup import restore, status
from store.config import QUOTA_BYTES, ConfigError, StoreConfig
from store.config_file import arguments
from store.flags import FILE, URLS, Duration, GoGroup, switch
from store.member import run
from store.raft.contract import MemberRemovedError
from store.raft.members import MembershipError
from store.raft.wal import WalError

_FAILURES = (OSError, WalError, MembershipError)
"""What ends a member and is said in one sentence."""
log = logging.getLogger(__name__)

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "dpanic": logging.CRITICAL,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_FIELDS = {
    "heartbeat_interval": "heartbeat_interval_ms",
    "election_timeout": "election_timeout_ms",
    "experimental_watch_progress_notify_interval": "watch_progress_notify_interval_s",
    "grpc_keepalive_min_time": "grpc_keepalive_min_time_s",
    "grpc_keepalive_interval": "grpc_keepalive_interval_s",
    "grpc_keepalive_timeout": "grpc_keepalive_timeout_s",
}
"""Flags whose unit stands in the field's name."""
_CLIENT = ("http://localhost:2379",)
_PEER = ("http://localhost:2380",)


def _show_foreign(context: click.Context, _param: click.Parameter, is_wanted: bool) -> None:
    """Name the flags of etcd's that have no effect or are refused, and end."""
    if is_wanted:
        click.echo(foreign_flags.table())
        context.exit()


@click.group(
    cls=GoGroup,
    invoke_without_command=True,
    subcommand_metavar="[restore|status FILE …]",
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
@click.option("--listen-client-urls", type=URLS, default=_CLIENT, help="Where to serve clients.")
@click.option("--advertise-client-urls", type=URLS, default=_CLIENT, help="Where clients are told to go.")
@click.option("--listen-peer-urls", type=URLS, default=_PEER, help="Where to serve the other members.")
@click.option("--initial-advertise-peer-urls", type=URLS, default=_PEER, help="Where the other members are told to go.")
@click.option("--initial-cluster", default="", help="NAME=URL,… of all members; empty for this one alone.")
@click.option("--initial-cluster-token", default="etcd-cluster", help="Keeps clusters of the same addresses apart.")
@click.option("--initial-cluster-state", type=click.Choice(["new", "existing"]), default="new")
@click.option(
    "--strict-reconfig-check",
    type=bool,
    default=True,
    help="Refuse to change members while others are not started or not connected.",
)
@click.option("--listen-metrics-urls", type=URLS, default=(), help="Where to serve /metrics, /health and /version.")
@click.option("--listen-client-http-urls", type=URLS, default=(), help="The same.")
@click.option("--cert-file", type=FILE, help="Certificate shown to clients.")
@click.option("--key-file", type=FILE, help="Its key.")
@click.option("--trusted-ca-file", type=FILE, help="CA of the clients' certificates.")
@switch("--client-cert-auth", help="Clients must show a certificate.")
@click.option("--client-crl-file", type=FILE, help="Revoked certificates of that CA, as PEM.")
@switch("--auto-tls", help="Where no certificate is given, make one in the data directory.")
@click.option("--self-signed-cert-validity", type=click.IntRange(1), default=1, help="Years that it lasts.")
@click.option("--cipher-suites", type=URLS, default=(), help="For TLS 1.2 with clients, by Go's names.")
@click.option("--tls-min-version", type=click.Choice(["TLS1.2", "TLS1.3"]), default="TLS1.2", help="With clients.")
@click.option("--tls-max-version", type=click.Choice(["", "TLS1.2", "TLS1.3"]), default="", help="With clients.")
@click.option("--auth-token-ttl", type=click.IntRange(1), default=300, help="Seconds that a user's token lasts.")
@click.option(
    "--peer-cert-file",
    type=FILE,
    help="Certificate shown to the other members; must name raftsman://member/NAME (URI).",
)
@click.option("--peer-key-file", type=FILE, help="Its key.")
@click.option("--peer-trusted-ca-file", type=FILE, help="CA of the members' certificates.")
@switch("--peer-client-cert-auth", help="Members must show a certificate (with https they always do).")
@click.option(
    "--heartbeat-interval",
    type=click.IntRange(1),
    default=100,
    help="Milliseconds.",
)
@click.option(
    "--election-timeout",
    type=click.IntRange(5, 50_000),
    default=1000,
    help="Milliseconds.",
)
@click.option("--snapshot-count", type=click.IntRange(1), default=10_000, help="Log entries between two snapshots.")
@click.option("--max-txn-ops", type=click.IntRange(1), default=128, help="Operations in one transaction.")
@click.option("--max-request-bytes", type=click.IntRange(1), default=1_572_864, help="Size of one request.")
@click.option(
    "--quota-backend-bytes",
    type=int,
    default=0,
    help="Size at which writes are refused; 0 for 2 GiB, below 0 for never.",
)
@click.option("--auto-compaction-mode", type=click.Choice(["periodic", "revision"]), default="periodic")
@click.option(
    "--auto-compaction-retention", default="0", help="Hours or a duration, or revisions; 0 keeps all history."
)
@click.option(
    "--experimental-watch-progress-notify-interval",
    type=Duration(1.0),
    default="10m",
    help="How often quiet watchers are told the revision.",
)
@click.option("--max-concurrent-streams", type=click.IntRange(1), default=10_000, help="Calls of one connection.")
@click.option("--grpc-keepalive-min-time", type=Duration(1.0), default="5s", help="Faster pings are too many.")
@click.option("--grpc-keepalive-interval", type=Duration(1.0), default="2h", help="Ping quiet clients; 0 for never.")
@click.option("--grpc-keepalive-timeout", type=Duration(1.0), default="20s", help="Wait for their answer.")
@click.option(
    "--front-door",
    type=click.Choice(["native", "reference"]),
    default="native",
    help="Server of the client side: our own, or grpcio's.",
)
@click.option(
    "--foreign-flags",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_foreign,
    help="List the flags of etcd's that have no effect here or are refused, and why.",
)
@switch("--unsafe-no-fsync", help="Do not wait for the disk: a power cut loses what was acknowledged.")
@click.option("--log-level", type=click.Choice(list(_LEVELS)), default="info")
@click.option("--log-outputs", type=URLS, default=("default",), help="stderr, stdout or files.")
@click.option("--config-file", type=FILE, help="etcd's YAML in place of flags and environment.")
@click.pass_context
def command(context: click.Context, /, config_file: Path | None, **flags: Any) -> None:
    """Run one member of the replicated store, which speaks etcd's v3 API."""
    if context.invoked_subcommand is not None:
        return
    try:
        if config_file is not None:
            flags = _flags_in(config_file)
        _begin_log(flags.pop("log_level"), flags.pop("log_outputs"))
        foreign_flags.take(flags)
        config = config_of(flags).with_own_certificate()
        config.check_files()
        config.server_tls()
        config.peer_tls()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    _warn(config)
    _raise_file_limit()
    try:
        uvloop.run(_run_until_signalled(config))
    except _FAILURES as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        # What ends a member that serves comes out of its tasks.
        removed, others = group.split(MemberRemovedError)
        failures, others = others.split(_FAILURES) if others is not None else (None, None)
        if others is not None:
            raise
        if failures is not None:
            raise click.ClickException(str(_first(failures))) from group
        logging.getLogger(__name__).warning("stopped name=%s reason=%s", config.name, _first(removed))


foreign_flags.add_to(command)
command.add_command(restore)
command.add_command(status)


def _first(failures: BaseExceptionGroup | None) -> BaseException | None:
    """The first failure in a group, however deep it stands."""
    first: BaseException | None = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _flags_in(config_file: Path) -> dict[str, Any]:
    """What a configuration file says; as with etcd, flags and environment beside it count for nothing."""
    given = command.make_context("store", arguments(config_file), auto_envvar_prefix=None).params
    given.pop("config_file")
    return given


def _begin_log(level: str, outputs: tuple[str, ...]) -> None:
    handlers: list[logging.Handler] = []
    for output in outputs:
        if output.startswith("systemd/"):
            raise ConfigError("--log-outputs knows no journal; systemd takes what is written to stderr")
        if output in ("default", "stderr", "stdout"):
            handlers.append(logging.StreamHandler(sys.stdout if output == "stdout" else sys.stderr))
        else:
            handlers.append(logging.FileHandler(output))
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=_LEVELS[level], format=form, handlers=handlers)


def _warn(config: StoreConfig) -> None:
    """Say what an operator should know."""
    for file in (config.key_file, config.peer_key_file):
        if file is not None and file.stat().st_mode & 0o077:
            log.warning("a key can be read by others than its owner: chmod 600 %s", file)
    if config.unsafe_no_fsync:
        log.warning("--unsafe-no-fsync: what is acknowledged is not on disk; a power cut loses it")


def _raise_file_limit() -> None:
    """Have as many open files as this user may: each client's connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def config_of(flags: dict[str, Any]) -> StoreConfig:
    """The configuration that flags and environment describe."""
    values = dict(flags)
    mode, retention = values.pop("auto_compaction_mode"), values.pop("auto_compaction_retention")
    if mode == "revision":
        if not retention.isdecimal():
            raise ConfigError(f"--auto-compaction-retention wants a number of revisions, not {retention!r}")
        amount = float(retention)
    else:
        amount = Duration(3600.0).convert(retention, None, None)
    values["auto_compaction"] = Retention(mode, amount)
    for flag, field in _FIELDS.items():
        values[field] = values.pop(flag)
    values["data_dir"] = values["data_dir"] or Path(f"{values['name']}.etcd")
    if values["quota_backend_bytes"] <= 0:
        values["quota_backend_bytes"] = sys.maxsize if values["quota_backend_bytes"] else QUOTA_BYTES
    return StoreConfig(**values)


async def _run_until_signalled(config: StoreConfig) -> None:
    serving = asyncio.ensure_future(run(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped name=%s", config.name)
