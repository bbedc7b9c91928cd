"""Make the Client that a kubeconfig asks for."""

from __future__ import annotations

from typing import Literal

from control.client.client import Client
from control.client.kubeconfig import Kubeconfig
from control.client.rest import RestClient

Transport = Literal["auto", "grpc", "rest"]


def connect(config: Kubeconfig, user_agent: str = "raftsman", transport: Transport = "auto") -> Client:
    """Return a client over the hub where the kubeconfig names one, else over REST; nothing is dialled yet.

    The hub asks for a client certificate, so whoever has but a token (a joining node) is sent to REST.
    """
    certain = bool(config.client_certificate) or not config.server.startswith("https://")
    if transport == "grpc" or (transport == "auto" and config.hub and certain):
        # Imported here because grpcio costs memory that a process without a hub need not pay.
        from control.client.grpc import GrpcClient

        return GrpcClient(config, user_agent)
    return RestClient(config, user_agent)
