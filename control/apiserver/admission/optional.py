"""Plugins that judge only where --enable-admission-plugins names them: AlwaysPullImages, DenyServiceExternalIPs."""

from __future__ import annotations

from collections.abc import Iterator

from control.api.meta import Object
from control.api.resources import PODS, SERVICES
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.request import AdmissionRequest


class AlwaysPullImages(Plugin):
    """Has images pulled for each start, so that nobody uses one whose registry would not give it to him."""

    about = (PODS,)

    async def mutate(self, request: AdmissionRequest) -> None:
        """Let all containers of a pod pull."""
        if request.object is None or not _changes_images(request):
            return
        for container in _containers(request.object):
            container["imagePullPolicy"] = "Always"
        for volume in spec_of(request.object).get("volumes") or ():
            if volume.get("image"):
                volume["image"]["pullPolicy"] = "Always"

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse what was changed back."""
        if request.object is None or not _changes_images(request):
            return
        for container in _containers(request.object):
            if container.get("imagePullPolicy") != "Always":
                path, found = f"spec.containers[{container.get('name')}]", container.get("imagePullPolicy")
                text = f'{path}.imagePullPolicy: Unsupported value: "{found}": supported values: "Always"'
                raise denied(request, text)


def _changes_images(request: AdmissionRequest) -> bool:
    return any(concerns(request, PODS, "CREATE", "UPDATE", subresource=part) for part in ("", "ephemeralcontainers"))


def _containers(pod: Object) -> Iterator[Object]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec_of(pod).get(field) or ()


class DenyServiceExternalIPs(Plugin):
    """Refuses new external IPs of Services; those that stand may stay."""

    about = (SERVICES,)

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse a Service with an address that it did not have."""
        if not concerns(request, SERVICES, "CREATE", "UPDATE"):
            return
        wanted = spec_of(request.object).get("externalIPs") or ()
        if not set(wanted) <= set(spec_of(request.old_object).get("externalIPs") or ()):
            raise denied(request, "Use of external IPs is denied by admission control")
