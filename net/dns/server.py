"""Feed a node's DNS: watch Services, slices and Namespaces, and tell the resolver which names there are.

    Service, EndpointSlice, Namespace → due → zone (records) → resolver (a process of its own, which answers)

The resolver answers SERVFAIL for the cluster's names until all first lists are complete, and other names at once. When
this process ends, for whatever reason, the resolver goes on with what it knows; the next one finds it and feeds it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net import messages
from net.dns import metrics
from net.dns.channel import close_all
from net.dns.config import DnsConfig
from net.dns.keeper import Keeper, Place, Resolver, ResolverGoneError, reach
from net.dns.zone import SERVICE_NAME_LABEL, Zone, name_of
from net.netlink import NetlinkError, RouteEvents, RouteSocket

log = logging.getLogger(__name__)

BY_SERVICE = "service"
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 5.0
FIRST_LISTS_S = 1.0
"""How long a first start waits for the first lists."""
BATCH_MAX = 500
"""Services that are compiled before others get their turn."""
OWN_SERVICE = "kube-system/kube-dns"
OWN_PROXY_NAME = "raftsman-dns"
SERVICE_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
NO_SUCH_FAMILY = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EACCES, errno.EADDRNOTAVAIL)


def keep_names(obj: Object) -> Object:
    """Keep of an object what names are made of."""
    metadata = obj.get("metadata") or {}
    kept = ("name", "namespace", "uid", "resourceVersion")
    slim: Object = {"metadata": {name: metadata[name] for name in kept if name in metadata}}
    labels = metadata.get("labels") or {}
    wanted = (SERVICE_NAME_LABEL, SERVICE_PROXY_NAME_LABEL)
    slim["metadata"]["labels"] = {name: labels[name] for name in wanted if name in labels}
    spec = obj.get("spec") or {}
    names = ("type", "clusterIP", "clusterIPs", "externalName", "publishNotReadyAddresses", "ports")
    slim["spec"] = {name: spec[name] for name in names if name in spec}
    for name in ("addressType", "ports"):
        if name in obj:
            slim[name] = obj[name]
    if "endpoints" in obj:
        slim["endpoints"] = [
            {name: entry[name] for name in ("addresses", "conditions", "hostname") if name in entry}
            for entry in obj["endpoints"] or ()
        ]
    return slim


def by_service(slice_object: Object) -> list[str]:
    """Index slices by the Service that they are of."""
    name = meta.labels(slice_object).get(SERVICE_NAME_LABEL)
    return [f"{meta.namespace(slice_object)}/{name}"] if name else []


def reverse_networks(cidrs: tuple[str, ...]) -> list[list[int | str]]:
    """Return networks in the form in which the resolver compares: bytes of an address, network, mask."""
    parsed = [ipaddress.ip_network(text, strict=False) for text in cidrs]
    return [
        [net.max_prefixlen // 8, str(int(net.network_address)), str(int(net.netmask))] for net in parsed
    ]  # numbers of 128 bits go as text


class DnsServer:
    """Compose the loop."""

    def __init__(self, config: DnsConfig, client: Client) -> None:
        self._config = config
        self._keeper = Keeper(config.control_socket, dict(config.environment))
        self._services = Informer(client, SERVICES, transform=keep_names)
        self._slices = Informer(client, ENDPOINT_SLICES, transform=keep_names, indexers={BY_SERVICE: by_service})
        self._namespaces = Informer(client, NAMESPACES, transform=keep_names)
        self._services.add_handler(self._service_changed)
        self._slices.add_handler(self._slice_changed)
        self._namespaces.add_handler(self._namespace_changed)
        self._informers = [self._services, self._slices, self._namespaces]
        self._wanted = self._addresses()
        self._zone = Zone(name_of(f"{config.cluster_domain}."), config.ttl_s, config.bind_addresses)
        self._touched: set[str] = set()
        self._due = asyncio.Event()
        self._complete = False

    @property
    def bound(self) -> list[Place]:
        """Where questions are answered."""
        return self._keeper.bound

    @property
    def resolver(self) -> Resolver | None:
        """The resolver that is fed."""
        return self._keeper.resolver

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        self._touch(meta.key(new or old or {}))

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        for obj in (old, new):
            for key in by_service(obj) if obj is not None else ():
                self._touch(key)

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        self._zone.put_namespace(meta.name(new or old or {}), new is not None)
        self._due.set()

    def _touch(self, key: str) -> None:
        self._touched.add(key)
        self._due.set()

    def _addresses(self) -> tuple[str, ...]:
        """Return where to answer: what is configured, and the address of the Service that is ours by its label."""
        found = list(self._config.bind_addresses)
        own = self._services.get(OWN_SERVICE)
        if own is not None and meta.labels(own).get(SERVICE_PROXY_NAME_LABEL) == OWN_PROXY_NAME:
            found += [text for text in own["spec"].get("clusterIPs") or () if text != "None"]
        return tuple(dict.fromkeys(found))

    async def serve(self) -> None:
        """Keep the resolver fed until cancelled; it stays when this ends."""
        events = RouteEvents() if self._config.interface else None
        try:
            async with asyncio.TaskGroup() as group:
                if events is not None:
                    group.create_task(self._keep_addresses(events))
                for informer in self._informers:
                    group.create_task(informer.run())
                group.create_task(self._wait_complete())
                if self._config.metrics_bind_address:
                    group.create_task(
                        metrics.serve(
                            self._config.metrics_bind_address, self._counts, f"{self._config.cluster_domain}."
                        )
                    )
                await self._keep_resolver()
        finally:
            if events is not None:
                events.close()
            self._keeper.close()

    async def _counts(self) -> metrics.Counts | None:
        resolver = self._keeper.resolver
        if resolver is None:
            return None
        try:
            return await resolver.say({"do": "counts"})
        except ResolverGoneError:
            return None

    async def _wait_complete(self) -> None:
        for informer in self._informers:
            await informer.wait_synced()
        self._complete = True
        self._due.set()

    def _places(self) -> list[Place]:
        """Return where to listen: the addresses that the machine can have at all."""
        return [(address, self._config.port) for address in self._put_addresses()]

    def _put_addresses(self) -> list[str]:
        """Give the link the addresses that it lacks; return those that stand."""
        if not self._config.interface:
            return list(self._wanted)
        standing = []
        with RouteSocket() as link:
            index = link.link_index(self._config.interface)
            if index is None:
                raise NetlinkError(errno.ENODEV, f"there is no link {self._config.interface}")
            families = (socket.AF_INET, socket.AF_INET6)
            have = {found.address for family in families for found in link.addresses(family) if found.index == index}
            for address in self._wanted:
                version = ipaddress.ip_address(address).version
                if str(ipaddress.ip_address(address)) in have:
                    # Put again, it would be told of as an event, and that would bring us here again, without end.
                    standing.append(address)
                    continue
                try:
                    link.batch(
                        [messages.put_address(index, address, 32 if version == 4 else 128, messages.RT_SCOPE_HOST)]
                    )
                except NetlinkError as error:
                    if version == 4 or error.errno not in NO_SUCH_FAMILY:
                        raise
                    log.debug("no IPv6 here error=%s", error)
                    continue
                standing.append(address)
        return standing

    async def _keep_addresses(self, events: RouteEvents) -> None:
        """Put the addresses back where somebody takes them away."""
        while True:
            found = await events.next()
            if any(event.kind in ("address", "link", "overrun") and event.index in (0, 1) for event in found):
                try:
                    self._put_addresses()
                except NetlinkError as error:
                    log.warning("an address cannot be put back error=%s", error)

    async def _keep_resolver(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await self._run_resolver()
            except ResolverGoneError as error:
                log.warning("the resolver is gone error=%s", error)
            except (OSError, NetlinkError) as error:
                log.error("DNS cannot be served, trying again error=%s delay_s=%.1f", error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
            else:
                delay_s = RETRY_FIRST_S

    async def _run_resolver(self) -> None:
        """Attach to a resolver and feed it until it is gone or another one is needed."""
        found = await self._keeper.find()
        if not found:
            # The lists are there in a moment, and with them the addresses; a second start would be for nothing.
            try:
                async with asyncio.timeout(FIRST_LISTS_S):
                    await self._until_complete()
            except TimeoutError:
                log.info("the lists take long; other names are answered meanwhile")
        self._wanted = self._addresses()
        places = self._places()
        if found and not self._keeper.suits(places):
            # It goes on answering until its successor knows all that there is to know.
            assert self._keeper.resolver is not None
            await self._until_complete(self._keeper.resolver)
            self._wanted = self._addresses()
            places = self._places()
        if not found or not self._keeper.suits(places):
            before = self._keeper.resolver
            try:
                await self._keeper.start(places)
                await self._introduce()
                if before is not None:
                    await before.say({"do": "retire"})
            finally:
                if before is not None:
                    before.close()
        else:
            await self._introduce()
        log.info("ready addresses=%s", ",".join(f"{address}:{port}" for address, port in self.bound))
        await self._feed()

    async def _until_complete(self, resolver: Resolver | None = None) -> None:
        """Wait for the first lists; raises ResolverGoneError where a resolver that answers meanwhile ends."""
        watching = asyncio.ensure_future(resolver.ended()) if resolver is not None else None
        if watching is not None:
            watching.add_done_callback(lambda _: self._due.set())
        try:
            while not self._complete:
                await self._due.wait()
                self._due.clear()
                if watching is not None and watching.done():
                    raise ResolverGoneError("it ended")
        finally:
            if watching is not None:
                watching.cancel()

    async def _introduce(self) -> None:
        """Tell a resolver everything, and let it answer."""
        resolver, config = self._keeper.resolver, self._config
        assert resolver is not None
        await resolver.say(
            {
                "do": "settings",
                "zone": self._zone.zone.hex(),
                "ttl_s": config.ttl_s,
                "reverse_networks": reverse_networks(config.reverse_cidrs),
                "own": [list(place) for place in self.bound],
                "upstream": list(config.upstream),
                "resolv_conf": str(config.resolv_conf),
                "cache_entries_max": config.cache_entries_max,
                "cache_ttl_s": config.cache_ttl_s,
            }
        )
        if self._complete:
            await self._compile()
            self._zone.take_changes()
            await resolver.tell(self._zone.everything(), replace=True, complete=True)
        await resolver.say({"do": "serve"})

    async def _compile(self) -> None:
        """Bring the zone to what the informers hold."""
        while self._touched:
            for _ in range(min(BATCH_MAX, len(self._touched))):
                key = self._touched.pop()
                self._zone.put_service(key, self._services.get(key), self._slices.by_index(BY_SERVICE, key))
            await asyncio.sleep(0)

    async def _feed(self) -> None:
        """Tell the resolver each change, until it is gone or has to listen elsewhere."""
        resolver = self._keeper.resolver
        assert resolver is not None
        told = self._complete
        watching = asyncio.ensure_future(resolver.ended())
        watching.add_done_callback(lambda _: self._due.set())
        try:
            while True:
                await self._due.wait()
                if not watching.done():
                    await asyncio.sleep(self._config.settle_s)
                self._due.clear()
                if watching.done():
                    raise ResolverGoneError("it ended")
                if not self._complete:
                    continue
                await self._compile()
                changes = self._zone.take_changes()
                if not told:
                    await resolver.tell(self._zone.everything(), replace=True, complete=True)
                    log.info("all names are told services=%d", len(self._services.cache))
                elif changes:
                    await resolver.tell(changes, replace=False, complete=True)
                told = True
                if self._addresses() != self._wanted:
                    self._wanted = self._addresses()
                    return
        finally:
            watching.cancel()


async def retire(config: DnsConfig) -> None:
    """End the resolver that runs and take its addresses away; raises OSError where none runs."""
    resolver, sockets = await reach(config.control_socket)
    places = {str(each.getsockname()[0]) for each in sockets}
    close_all(sockets)
    try:
        await resolver.say({"do": "retire"})
        await resolver.ended()
    except ResolverGoneError as error:
        raise OSError(f"the resolver did not answer: {error}") from error
    finally:
        resolver.close()
    if not config.interface:
        return
    with RouteSocket() as link:
        index = link.link_index(config.interface)
        for address in places if index is not None else ():
            length = ipaddress.ip_address(address).max_prefixlen
            link.batch([messages.delete_address(index or 0, address, length, ignore=(errno.EADDRNOTAVAIL,))])


async def run(config: DnsConfig, client: Client | None = None) -> None:
    """Serve DNS on this node until cancelled; the resolver stays and goes on answering."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-dns")
    await DnsServer(config, client).serve()
