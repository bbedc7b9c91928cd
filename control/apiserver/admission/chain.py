"""Runs the admission plugins in upstream's order: all mutations first, then all validations."""

from __future__ import annotations

from collections.abc import Sequence

from control.apiserver.admission.plugin import Plugin
from control.apiserver.request import AdmissionRequest


class AdmissionChain:
    """The plugins of one API server, asked in turn; the first refusal ends it."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._mutating = [plugin for plugin in plugins if type(plugin).mutate is not Plugin.mutate]
        self._validating = [plugin for plugin in plugins if type(plugin).validate is not Plugin.validate]

    async def mutate(self, request: AdmissionRequest) -> None:
        """Let every plugin complete the object."""
        for plugin in self._mutating:
            await plugin.mutate(request)

    async def validate(self, request: AdmissionRequest) -> None:
        """Let every plugin judge the object as it will be stored."""
        for plugin in self._validating:
            await plugin.validate(request)
