"""``raftsman token``: the tokens by which machines join."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

from cli.machine import controlplane, objects, sharing
from cli.machine.options import join_line
from cli.machine.settings import PLACES, load
from control.api import bootstraptokens
from control.api.bootstraptokens import SECRET_NAMESPACE, SECRET_PREFIX, SECRET_TYPE
from control.api.resources import SECRETS
from control.api.status import ApiError
from control.client.client import Client, ListOptions
from control.client.flags import DURATION
from lab.state import LabError

T = TypeVar("T")


@click.group()
def token() -> None:
    """Create, list or delete the tokens by which machines join; on a control plane.

    \b
    Examples:
      raftsman token create
      raftsman token create --control-plane      the line for a further control plane
      raftsman token list
    """


def _ask(work: Callable[[Client], Awaitable[T]]) -> T:
    """Do something with the administrator's rights."""
    if not PLACES.administrator.exists():
        raise LabError(f"there is no {PLACES.administrator}: this is for the machines of the control plane")

    async def run() -> T:
        client = controlplane.administrator()
        try:
            return await work(client)
        except ApiError as error:
            raise LabError(error.message) from error
        finally:
            await client.close()

    return asyncio.run(run())


@token.command()
@click.option("--token", "text", default="", help="The token itself; made where it is not given.")
@click.option("--ttl", type=DURATION, default="24h", show_default=True, help="How long it lasts; 0 for ever.")
@click.option("--description", default="", help="What it is for.")
@click.option("--control-plane", "for_control_plane", is_flag=True, help="Let a further control plane join.")
def create(text: str, ttl: float, description: str, for_control_plane: bool) -> None:
    """Create a token and print how a machine joins with it."""
    made = text or bootstraptokens.generate()
    try:
        bootstraptokens.parse(made)
    except ValueError as error:
        raise LabError(f"--token: {error}") from error
    machine = load()
    if machine is None:
        raise LabError("this machine belongs to no cluster; begin with: raftsman init")
    key = sharing.generate_key() if for_control_plane else ""

    async def work(client: Client) -> None:
        expiration = sharing.now() + timedelta(seconds=ttl) if ttl else None
        await objects.store_token(client, made, expiration, description)
        if key:
            await sharing.upload(client, PLACES.pki, sharing.read_key(key), sharing.now())

    _ask(work)
    click.echo(join_line(controlplane.server_of(machine.address), made, key))


@token.command("list")
def list_tokens() -> None:
    """List the tokens, without what makes them usable."""

    async def work(client: Client) -> list[dict[str, str]]:
        options = ListOptions(field_selector=f"type={SECRET_TYPE}")
        listed = await client.list(SECRETS, SECRET_NAMESPACE, options)
        return [bootstraptokens.decoded(secret) for secret in listed.items]

    table = Table("token", "usages", "lasts", "description", box=None, pad_edge=False)
    now = sharing.now()
    for data in sorted(_ask(work), key=lambda found: found.get("token-id", "")):
        usages = [usage for usage in bootstraptokens.USAGES if data.get(f"usage-bootstrap-{usage}") == "true"]
        token_id, described = data.get("token-id", "?"), data.get("description", "")
        table.add_row(token_id, ",".join(usages) or "none", time_left(data, now), described)
    Console(soft_wrap=True, highlight=False).print(table)


def time_left(data: dict[str, str], now: datetime) -> str:
    """Return how long a token lasts, for a person."""
    try:
        expiration = bootstraptokens.expiration_of(data)
    except ValueError:
        return "invalid"
    if expiration is None:
        return "for ever"
    if expiration <= now:
        return "over"
    minutes = int((expiration - now).total_seconds()) // 60
    return f"{minutes // 60} h {minutes % 60:02} min"


@token.command()
@click.argument("tokens", metavar="TOKEN…", nargs=-1, required=True)
def delete(tokens: tuple[str, ...]) -> None:
    """Delete tokens, named in full or by what stands before the dot."""

    async def work(client: Client) -> None:
        for text in tokens:
            name = SECRET_PREFIX + text.partition(".")[0]
            found = await client.get(SECRETS, name, SECRET_NAMESPACE)
            if found.get("type") != SECRET_TYPE:
                raise LabError(f"the Secret {name} is no bootstrap token")
            await client.delete(SECRETS, name, SECRET_NAMESPACE)

    _ask(work)
