"""What a cluster starts with beside its policy: the service network, and the Service behind which API servers live.

Each living instance keeps a key with a lease below masterleases/; the endpoints of default/kubernetes are those whose
key has not expired, so that a dead instance drops out by itself and instances need not know each other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address, ip_network

import orjson

from control.api import status
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Resource
from control.apiserver.config import ApiServerConfig
from control.apiserver.etcd import Etcd, StoreError
from control.client.client import Client

log = logging.getLogger(__name__)

LEASE_TTL_S = 15
RENEW_INTERVAL_S = 7.0
WITHDRAW_TIMEOUT_S = 3.0
SERVICE_CIDRS = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
NAME, NAMESPACE, PORT_NAME = "kubernetes", "default", "https"
_EXPECTED = ("AlreadyExists", "Conflict")


def first_address(cidr: str) -> str:
    """Return the cluster IP of default/kubernetes: the first address of the first range."""
    return str(ip_network(cidr.partition(",")[0])[1])


async def ensure_service_network(config: ApiServerConfig, client: Client) -> None:
    """Create the ServiceCIDR that cluster IPs are taken from."""
    wanted: Object = {
        "apiVersion": SERVICE_CIDRS.api_version,
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "spec": {"cidrs": config.service_cluster_ip_range.split(",")},
    }
    try:
        await client.create(SERVICE_CIDRS, wanted)
    except status.ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def advertised_address(config: ApiServerConfig) -> str:
    """Return where others find this instance: what is configured, else the address of the way out."""
    address = config.advertise_address or config.bind_address
    if not ip_address(address).is_unspecified:
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a datagram socket asks the kernel for a route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def service(config: ApiServerConfig, port: int) -> Object:
    """Return the Service default/kubernetes."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first_address(config.service_cluster_ip_range),
            "sessionAffinity": "None",
            "ports": [{"name": PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    }


def endpoint_slice(addresses: list[str], port: int) -> Object:
    """Return the EndpointSlice of the living instances."""
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }


def endpoints(addresses: list[str], port: int) -> Object:
    """Return the Endpoints of the living instances."""
    subset = {
        "addresses": [{"ip": address} for address in addresses],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [subset] if addresses else [],
    }


class KubernetesService:
    """Keeps default/kubernetes pointing at the instances that live."""

    def __init__(self, config: ApiServerConfig, store: Etcd, client: Client, port: int) -> None:
        self._config = config
        self._store = store
        self._client = client
        self._port = port
        self._address = advertised_address(config)
        self._prefix = f"{config.etcd.prefix}/masterleases/"
        self._lease = 0
        self._renewals_left = 0

    async def run(self) -> None:
        """Renew this instance's key and write what has changed, until cancelled."""
        while True:
            try:
                await self._announce()
                await self._reconcile()
            except (StoreError, TimeoutError) as error:
                log.warning("default/kubernetes waits for the store error=%s", error)
            except status.ApiError as error:
                if error.reason not in _EXPECTED:
                    log.warning("default/kubernetes is not up to date error=%s", error)
            await asyncio.sleep(RENEW_INTERVAL_S)

    async def withdraw(self) -> None:
        """Remove this instance at once."""
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                found, _ = await self._store.get(self._prefix + self._address)
                if found is not None:
                    await self._store.delete(found.key, found.revision)
                await self._reconcile()
        except (StoreError, status.ApiError, TimeoutError) as error:
            log.warning("this instance leaves default/kubernetes by its lease's end error=%s", error)

    async def _announce(self) -> None:
        if ip_address(self._address).is_loopback:
            # Endpoints may not name loopback addresses: nobody else would find this instance there.
            return
        # A fresh lease each time: that is one write more than keeping one alive, and no stream to look after.
        self._lease = await self._store.grant(LEASE_TTL_S)
        value = endpoints([self._address], self._port)
        await self._store.put(self._prefix + self._address, orjson.dumps(value), self._lease)

    async def _reconcile(self) -> None:
        found, _ = await self._store.everything(self._prefix)
        addresses = sorted(item.key.removeprefix(self._prefix) for item in found)
        await self._ensure(SERVICES, service(self._config, self._port), "spec", keep=True)
        await self._ensure(ENDPOINTS, endpoints(addresses, self._port), "subsets")
        await self._ensure(ENDPOINT_SLICES, endpoint_slice(addresses, self._port), "endpoints")

    async def _ensure(self, resource: Resource, wanted: Object, part: str, keep: bool = False) -> None:
        try:
            existing = await self._client.get(resource, NAME, NAMESPACE)
        except status.ApiError as error:
            if error.reason != "NotFound":
                raise
            await self._client.create(resource, wanted, NAMESPACE)
            return
        if keep or existing.get(part) == wanted.get(part):
            return
        await self._client.update(resource, {**existing, **wanted, "metadata": existing["metadata"]})


async def keep_kubernetes_service(config: ApiServerConfig, store: Etcd, client: Client, bound: socket.socket) -> None:
    """Keep default/kubernetes until cancelled, then take this instance out of it."""
    kept = KubernetesService(config, store, client, bound.getsockname()[1])
    try:
        await kept.run()
    finally:
        await kept.withdraw()
