"""An operator as users of Kubernetes write them, with kopf: each Boat gets a ConfigMap that seats its crew.

    kubectl apply -f examples/boats.yaml
    kopf run examples/boats.py -n default &
    kubectl apply -f examples/boat.yaml
    kubectl get boats,configmaps

kopf and the `kubernetes` package come from PyPI and know nothing of Raftsman.
"""

from __future__ import annotations

from typing import Any

import kopf
import kubernetes

BOATS = ("examples.raftsman.dev", "v1", "boats")


@kopf.on.create(*BOATS, id="rowing")
@kopf.on.update(*BOATS, id="rowing")
def seat(spec: dict[str, Any], name: str, body: Any, **_: Any) -> str:
    """Write who sits where; what is returned stands in the boat's status under the handler's id."""
    seats = {f"seat-{number}": "rower" for number in range(1, spec["crew"] + 1)}
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-crew"}, "data": seats}
    kopf.adopt(wanted)  # the boat's namespace, and the boat as owner: the garbage collector does the rest
    cluster = kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())
    config_maps = cluster.resources.get(api_version="v1", kind="ConfigMap")
    config_maps.server_side_apply(body=wanted, field_manager="boats", force_conflicts=True)
    kopf.info(body, reason="Seated", message=f"{len(seats)} rowers have a seat")
    return f"{len(seats)} at the oars"


@kopf.on.delete(*BOATS)
def moor(name: str, logger: Any, **_: Any) -> None:
    """Say goodbye; until this has run, a finalizer keeps the boat."""
    logger.info("%s is moored", name)
