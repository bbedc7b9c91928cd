"""How the API server reaches kubelets: its client certificate, their authority, their addresses."""

from __future__ import annotations

import logging
import ssl
from functools import cached_property

from control.api.meta import Object
from control.api.resources import NODES
from control.apiserver.config import ApiServerConfig
from control.apiserver.streams.relay import Backend
from control.apiserver.streams.target import node_address
from control.client.client import Client

logger = logging.getLogger(__name__)


class Kubelets:
    """Finds a node's kubelet and says how to be believed by it."""

    def __init__(self, client: Client, config: ApiServerConfig) -> None:
        self._client = client
        self._config = config

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The context of connections to kubelets."""
        config = self._config
        authority = config.kubelet_certificate_authority
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
        if authority is None:
            logger.warning("kubelets' certificates are not verified: --kubelet-certificate-authority is not set")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.kubelet_client_certificate is not None:
            context.load_cert_chain(config.kubelet_client_certificate, config.kubelet_client_key)
        return context

    async def backend(self, node_name: str, path: str) -> Backend:
        """Where a request for this node goes on."""
        node: Object = await self._client.get(NODES, node_name)
        address = node_address(node, self._config.kubelet_preferred_address_types)
        return Backend(address, path, self.tls)
