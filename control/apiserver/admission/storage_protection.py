"""StorageObjectInUseProtection: volumes and claims do not go while somebody uses them.

Each gets a finalizer when it is made, which the protection controllers take away once nothing uses it any more.
"""

from __future__ import annotations

from control.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from control.apiserver.admission.plugin import Plugin, concerns
from control.apiserver.request import AdmissionRequest

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"


class StorageObjectInUseProtection(Plugin):
    """Puts the finalizers on."""

    about = (PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES)

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete a new volume or claim."""
        if concerns(request, PERSISTENT_VOLUME_CLAIMS, "CREATE"):
            finalizer = CLAIM_FINALIZER
        elif concerns(request, PERSISTENT_VOLUMES, "CREATE"):
            finalizer = VOLUME_FINALIZER
        else:
            return
        if request.object is not None:
            metadata = request.object["metadata"]
            held = metadata.get("finalizers") or []
            if finalizer not in held:
                metadata["finalizers"] = [*held, finalizer]
