"""A plain gRPC client of the hub: three lines list every pod, in any language that has gRPC.

    hub = ResourcesStub(grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate)))
    pods = hub.List(ListRequest(target=Target(version="v1", resource="pods"))).items
    print(*(json.loads(pod)["metadata"]["name"] for pod in pods))

The rest of this file takes address and certificate from a kubeconfig, and shows writes, a watch and a refusal:

    python examples/hub_client.py /var/lib/raftsman/clusters/raftsman/kubeconfig
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc

from control.client import kubeconfig
from proto.control.resources_pb2 import CreateRequest, DeleteRequest, Event, ListRequest, Target, WatchRequest
from proto.control.resources_pb2_grpc import ResourcesStub

CONFIG_MAPS = Target(version="v1", resource="configmaps", namespace="default")


def connect(path: str | Path) -> ResourcesStub:
    """Open a channel to the hub that a kubeconfig names, with the certificate that it holds."""
    config = kubeconfig.load(path)
    authority, key, certificate = config.certificate_authority, config.client_key, config.client_certificate
    credentials = grpc.ssl_channel_credentials(authority.read(), key.read(), certificate.read())
    return ResourcesStub(grpc.secure_channel(config.hub[0], credentials))


def tour(hub: ResourcesStub) -> None:
    """List, create, watch and delete; objects are JSON, as REST has them."""
    pods = hub.List(ListRequest(target=Target(version="v1", resource="pods"))).items
    sys.stdout.write(f"pods: {' '.join(json.loads(pod)['metadata']['name'] for pod in pods) or 'none'}\n")

    watching = hub.Watch(WatchRequest(target=CONFIG_MAPS, label_selector="example=hub", resource_version="0"))
    greeting = {"metadata": {"generateName": "greeting-", "labels": {"example": "hub"}}, "data": {"hello": "hub"}}
    made = json.loads(hub.Create(CreateRequest(target=CONFIG_MAPS, object=json.dumps(greeting).encode())).object)
    name = made["metadata"]["name"]
    hub.Delete(DeleteRequest(target=Target(version="v1", resource="configmaps", namespace="default", name=name)))
    for response in watching:
        for event in response.events:
            sys.stdout.write(f"watched: {Event.Type.Name(event.type)} {json.loads(event.object)['metadata']['name']}\n")
        if response.events[-1].type == Event.DELETED:
            watching.cancel()
            break
    try:
        hub.Create(CreateRequest(target=CONFIG_MAPS, object=b'{"metadata": {"name": "Not A Name"}}'))
    except grpc.RpcError as error:
        # The whole Status object of Kubernetes stands in the trailing metadata.
        metadata: dict[str, Any] = dict(error.trailing_metadata())  # type: ignore[arg-type]
        status = json.loads(metadata["status-bin"])
        sys.stdout.write(f"refused: {status['reason']} {status['details']['causes'][0]['field']}\n")


if __name__ == "__main__":
    tour(connect(sys.argv[1]))
