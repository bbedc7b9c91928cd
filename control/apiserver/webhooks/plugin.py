"""The two webhook plugins of the admission chain: MutatingAdmissionWebhook and ValidatingAdmissionWebhook.

Mutating webhooks are asked one after the other, by the names of their configurations; one that asks for it
(reinvocationPolicy IfNeeded) is asked once more when whoever came later changed the object. Validating ones are asked
all at once; one refusal is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import orjson

from control.api import status
from control.api.cel.errors import CelError, TooLongError
from control.api.cel.frame import Purse
from control.api.meta import Object
from control.api.patch import copy_json, json_patch
from control.api.resources import NAMESPACES, Resource
from control.api.validation import names
from control.apiserver import aside
from control.apiserver.admission.plugin import Plugin
from control.apiserver.admission.reinvocation import reinvocation_of
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.measures import AdmissionMetrics
from control.apiserver.metrics import Metrics
from control.apiserver.policies.asking import authorizer_of, judging
from control.apiserver.request import AdmissionRequest, Complete, Lookup, annotate
from control.apiserver.webhooks import review
from control.apiserver.webhooks.caller import Caller, CallError
from control.apiserver.webhooks.matching import Hook, concerns, conditions_hold, hooks_of, in_order

log = logging.getLogger(__name__)

WARNING_CHARACTERS_MAX = 256
NOT_CONCERNED = review.Verdict(True, {}, None, (), {})
"""The verdict of a webhook that was not asked, since its conditions do not hold."""


class Hooks:
    """The webhooks of one kind of configuration, parsed when they change."""

    def __init__(self, lookup: Lookup, resource: Resource) -> None:
        self._lookup = lookup
        self._resource = resource
        self._configurations: dict[str, Object] = {}
        self.all: tuple[Hook, ...] = ()

    async def follow(self) -> None:
        """Know the configurations from now on."""
        self._lookup.subscribe(self._resource, self._changed)
        await self._lookup.warm(self._resource)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            self._configurations[new["metadata"]["name"]] = new
        elif old is not None:
            self._configurations.pop(old["metadata"]["name"], None)
        made: list[Hook] = []
        for configuration in in_order(self._configurations.values()):
            try:
                made += hooks_of(configuration)
            except (KeyError, TypeError, ValueError) as error:
                name = configuration["metadata"]["name"]
                log.error("webhook configuration is not understood and left out name=%s error=%s", name, error)
        self.all = tuple(made)

    def concerned(self, request: AdmissionRequest) -> list[tuple[int, Hook]]:
        """Return the webhooks that a request concerns, their conditions apart, with their places among all."""
        if not self.all:
            return []
        labels: dict[str, str] = {}
        if request.namespace:
            space = self._lookup.get(NAMESPACES, request.namespace) or {}
            labels = (space.get("metadata") or {}).get("labels") or {}
        return [(index, hook) for index, hook in enumerate(self.all) if concerns(hook, request, labels)]


class Webhooks:
    """What both plugins do: ask one webhook about one request."""

    def __init__(
        self, caller: Caller, metrics: AdmissionMetrics | None = None, authorizer: ModeAuthorizer | None = None
    ) -> None:
        self._caller = caller
        self._metrics = metrics or AdmissionMetrics(Metrics())
        self._authorizer = authorizer

    async def _concerned(self, hook: Hook, request: AdmissionRequest, question: Object) -> bool:
        """Tell whether all match conditions hold; raises CelError."""
        if not hook.conditions:
            return True
        values = _values(request, question)
        with judging(self._authorizer, request.user):
            try:
                return conditions_hold(hook.conditions, values, Purse(aside.INLINE_COST))
            except TooLongError:
                return await aside.run(lambda: conditions_hold(hook.conditions, values))

    async def ask(
        self, hook: Hook, request: AdmissionRequest, *, may_patch: bool, place: str = "round_0_index_0"
    ) -> review.Verdict | None:
        """Return a webhook's verdict, None where it failed and may; raises ApiError."""
        question = review.request_of(request)
        step, failed = ("admit", "mutation") if may_patch else ("validating", "validating")
        since = perf_counter()
        try:
            if not await self._concerned(hook, request, question):
                return NOT_CONCERNED
            if request.dry_run and hook.has_side_effects:
                text = f"admission webhook {hook.name!r} does not support dry run"
                raise status.bad_request(text.replace("'", '"'))
            answer = await self._caller.ask(hook.client, review.encode(question), hook.timeout_s)
            verdict = review.decode(answer, question["uid"], may_patch=may_patch)
        except (CallError, CelError, review.ReviewError) as error:
            self._count(hook, request, step, since, 400, rejected=hook.fails_closed)
            if hook.fails_closed:
                labels = (hook.name, step, request.operation, "calling_webhook_error", "0")
                self._metrics.webhook_rejections.add(*labels)
                about = "failed to call webhook: " if isinstance(error, CallError) else ""
                raise status.internal_error(f'failed calling webhook "{hook.name}": {about}{error}') from None
            log.warning("webhook failed and is passed by name=%s error=%s", hook.name, error)
            self._metrics.webhook_fail_open.add(hook.name, step)
            annotate(f"failed-open.{failed}.webhook.admission.k8s.io/{place}", hook.name)
            return None
        self._count(hook, request, step, since, 200, rejected=not verdict.allowed)
        for key, value in verdict.annotations.items():
            if names.qualified_name(f"{hook.name}/{key}"):
                log.warning("webhook's audit annotation has no valid key name=%s key=%s", hook.name, key)
            else:
                annotate(f"{hook.name}/{key}", value)
        request.warnings.extend(text[:WARNING_CHARACTERS_MAX] for text in verdict.warnings)
        if not verdict.allowed:
            code, reason, text = review.refusal(hook.name, verdict)
            self._metrics.webhook_rejections.add(hook.name, step, request.operation, "no_error", str(code))
            raise status.failure(code, reason, text)
        return verdict

    def _count(
        self, hook: Hook, request: AdmissionRequest, step: str, since: float, code: int, *, rejected: bool
    ) -> None:
        told = "true" if rejected else "false"
        self._metrics.webhook_requests.add(hook.name, step, request.operation, str(code), told)
        self._metrics.webhook.observe(perf_counter() - since, hook.name, step, request.operation, told)


def _values(request: AdmissionRequest, question: Object) -> dict[str, Any]:
    return {
        "object": question["object"],
        "oldObject": question["oldObject"],
        "request": question,
        "namespaceObject": None,
        **authorizer_of(request),
    }


class MutatingWebhooks(Plugin):
    """Lets webhooks complete objects."""

    def __init__(self, hooks: Hooks, webhooks: Webhooks, complete: Complete) -> None:
        self._hooks = hooks
        self._webhooks = webhooks
        self._complete = complete

    async def mutate(self, request: AdmissionRequest) -> None:
        """Ask the webhooks in turn and apply their patches."""
        if not (concerned := self._hooks.concerned(request)):
            return
        reinvocation = reinvocation_of(request)
        turns = reinvocation.webhooks
        if reinvocation.again:
            turns.begin(request.object)
        turn = 1 if reinvocation.again else 0
        for index, hook in concerned:
            key = (hook.configuration, index)
            if reinvocation.again and not turns.due(key):
                continue
            changed = await self._ask(hook, request, f"round_{turn}_index_{index}")
            if changed:
                turns.changed()
                reinvocation.wanted = True
            if hook.reinvokes and changed is not None:
                turns.ran(key)
        turns.end(request.object)

    async def _ask(self, hook: Hook, request: AdmissionRequest, place: str) -> bool | None:
        """Ask one webhook; tell whether it changed the object, None where it is not concerned."""
        asked, changed = True, False
        try:
            verdict = await self._webhooks.ask(hook, request, may_patch=True, place=place)
            asked = verdict is not NOT_CONCERNED
            changed = asked and verdict is not None and self._apply(hook, request, verdict, place)
        finally:
            if asked:
                told = {"configuration": hook.configuration, "webhook": hook.name, "mutated": changed}
                annotate(f"mutation.webhook.admission.k8s.io/{place}", orjson.dumps(told).decode())
        return changed if asked else None

    def _apply(self, hook: Hook, request: AdmissionRequest, verdict: review.Verdict, place: str) -> bool:
        """Change the object as a webhook wishes; tell whether that changed anything."""
        if not verdict.patch or request.object is None:
            return False
        before = copy_json(request.object)
        try:
            patched = json_patch(request.object, verdict.patch)
            made = self._complete(request.resource, patched)
        except status.ApiError as error:
            raise status.internal_error(f'admission webhook "{hook.name}" patched wrongly: {error.message}') from None
        told = {
            "configuration": hook.configuration,
            "webhook": hook.name,
            "patch": verdict.patch,
            "patchType": "JSONPatch",
        }
        annotate(f"patch.webhook.admission.k8s.io/{place}", orjson.dumps(told).decode(), with_bodies=True)
        restore_identity(made, before)
        request.object = made
        return bool(made != before)


def restore_identity(made: Object, before: Object) -> None:
    """Take back what neither webhook nor policy may change: whose object it is."""
    metadata, was = made.setdefault("metadata", {}), before.get("metadata") or {}
    for field in ("name", "namespace", "uid", "generateName", "resourceVersion", "creationTimestamp"):
        if field in was:
            metadata[field] = was[field]


class ValidatingWebhooks(Plugin):
    """Lets webhooks refuse objects."""

    def __init__(self, hooks: Hooks, webhooks: Webhooks) -> None:
        self._hooks = hooks
        self._webhooks = webhooks

    async def validate(self, request: AdmissionRequest) -> None:
        """Ask all webhooks at once; raise what the first of them, in their order, objects to."""
        concerned = self._hooks.concerned(request)
        if not concerned:
            return
        found: Sequence[Any] = await asyncio.gather(
            *(
                self._webhooks.ask(hook, request, may_patch=False, place=f"round_0_index_{index}")
                for index, (_, hook) in enumerate(concerned)
            ),
            return_exceptions=True,
        )
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
