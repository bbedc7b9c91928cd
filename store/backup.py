"""``raftsman store restore`` and ``raftsman store status``: what is done with a saved snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import click

from store.config import ConfigError, StoreConfig
from store.flags import FILE, URLS, GoCommand, switch
from store.restore import RestoreError
from store.restore import restore as restore_file
from store.restore import status as status_of

_PEER = ("http://localhost:2380",)


@click.command(
    cls=GoCommand,
    context_settings={"auto_envvar_prefix": "ETCD", "max_content_width": 120, "show_default": True},
    epilog="""\b
Example: one of three members; run it once for each, with the same FILE, on its own machine
    etcdctl snapshot save backup.db
    raftsman store restore backup.db --name a --data-dir /var/lib/raftsman/store \\
      --initial-cluster a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380 \\
      --initial-cluster-token restored-1 --initial-advertise-peer-urls https://10.0.0.1:2380
  then start each member with the same --name, --data-dir, --initial-cluster and --initial-cluster-token.""",
)
@click.argument("file", type=FILE)
@click.option("--name", default="default", help="Human-readable name of this member.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where to put it; must be new.")
@click.option("--initial-cluster", default="", help="NAME=URL,… of all members; empty for this one alone.")
@click.option("--initial-cluster-token", default="etcd-cluster", help="Another one than the old cluster's, best.")
@click.option("--initial-advertise-peer-urls", type=URLS, default=_PEER, help="This member's URLs in the cluster.")
@switch("--skip-hash-check", help="Take a file without its SHA-256, or with another.")
def restore(
    file: Path,
    name: str,
    data_dir: Path | None,
    initial_cluster: str,
    initial_cluster_token: str,
    initial_advertise_peer_urls: tuple[str, ...],
    skip_hash_check: bool,
) -> None:
    """Make a new cluster's data directory, one member's, out of FILE, which etcdctl snapshot save wrote."""
    try:
        config = StoreConfig(
            name=name,
            data_dir=data_dir or Path(f"{name}.etcd"),
            initial_cluster=initial_cluster,
            initial_cluster_token=initial_cluster_token,
            initial_advertise_peer_urls=initial_advertise_peer_urls,
        )
        advertised = tuple(sorted(initial_advertise_peer_urls))
        if advertised != config.member().peer_urls:
            raise ConfigError(
                f"--initial-cluster has {','.join(config.member().peer_urls)} for {name}, but "
                f"--initial-advertise-peer-urls is {','.join(advertised)}"
            )
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    try:
        restore_file(file, config, skip_hash_check=skip_hash_check)
    except RestoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"restored {file} to {config.data_dir}: member {config.member().member_id:x} of cluster {config.cluster_id():x}"
    )


@click.command(cls=GoCommand, context_settings={"show_default": True})
@click.argument("file", type=FILE)
@click.option("-w", "--write-out", type=click.Choice(["simple", "json"]), default="simple")
def status(file: Path, write_out: str) -> None:
    """Check FILE, which etcdctl snapshot save wrote, and print hash, revision, total keys and total size."""
    try:
        found = status_of(file)
    except RestoreError as error:
        raise click.ClickException(str(error)) from error
    if write_out == "json":
        facts = {
            "hash": found.hash,
            "revision": found.revision,
            "totalKey": found.total_keys,
            "totalSize": found.total_size_bytes,
        }
        click.echo(json.dumps(facts, separators=(",", ":")))
    else:
        click.echo(f"{found.hash:x}, {found.revision}, {found.total_keys}, {found.total_size_bytes}")
