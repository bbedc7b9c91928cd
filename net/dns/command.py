"""`raftsman dns`: the cluster's DNS on one node."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from pathlib import Path

import click
import uvloop

from net.dns import server
from net.dns.config import NODE_LOCAL_ADDRESSES, DnsConfig
from net.dns.upstream import parse_server


def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def _addresses(_context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        try:
            ipaddress.ip_address(word) if option.name == "bind_addresses" else ipaddress.ip_network(word, strict=False)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return words


def _servers(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for word in _words(value):
        try:
            parse_server(word)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return _words(value)


async def _retire(config: DnsConfig) -> None:
    try:
        await server.retire(config)
    except OSError as error:
        raise click.ClickException(f"no resolver was ended at {config.control_socket}: {error}") from None


@click.command(
    epilog="Example: raftsman dns --kubeconfig /etc/raftsman/cni.kubeconfig --upstream 192.0.2.53,192.0.2.54",
    context_settings={"show_default": True},
)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="How to reach the API server.")
@click.option("--cluster-domain", default="cluster.local", help="The zone of all Services and pods.")
@click.option(
    "--bind-address", "bind_addresses", multiple=True, default=NODE_LOCAL_ADDRESSES, callback=_addresses,
    help="Where to answer.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=53, help="At which port, UDP and TCP.")
@click.option("--interface", default="lo", help="The link that is given the addresses; empty where they stand.")
@click.option("--upstream", multiple=True, callback=_servers, help="ADDRESS[:PORT]: who is asked for other names.")
@click.option("--resolv-conf", type=click.Path(path_type=Path), default="/etc/resolv.conf", help="Else its servers.")
@click.option(
    "--reverse-cidr", "reverse_cidrs", multiple=True, callback=_addresses,
    help="Addresses of pods and Services: their reverse names are asked of nobody else.",
)  # fmt: skip
@click.option("--ttl", "ttl_s", type=click.IntRange(0, 3600), default=5, help="Seconds that the zone's answers hold.")
@click.option("--cache-entries", "cache_entries_max", type=click.IntRange(1), default=10_000, help="Answers kept.")
@click.option("--cache-ttl", "cache_ttl_s", type=click.IntRange(0), default=30, help="Seconds they are kept at most.")
@click.option("--control-socket", type=click.Path(path_type=Path), default="/run/raftsman/dns.sock")
@click.option("--metrics-bind-address", default="127.0.0.1:9153", help="/metrics, /health, /ready; empty: nowhere.")
@click.option("--retire", is_flag=True, help="End the resolver that runs, which else goes on answering, and stop.")
def command(kubeconfig: Path | None, retire: bool, **flags: object) -> None:
    """Answer DNS for the cluster's Services and pods on this node, and pass other names on.

    A small process of its own, the resolver, holds the sockets. It goes on answering when this command ends or is
    restarted; --retire ends it.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = DnsConfig(kubeconfig=kubeconfig, **flags)  # type: ignore[arg-type]
    if not retire and kubeconfig is None:
        raise click.UsageError("Missing option '--kubeconfig'.")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_retire(config) if retire else server.run(config))
