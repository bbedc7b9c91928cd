"""What the API server does for a request of a resource, whichever front door it came through."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import orjson

from control.api import resources, selectors, status
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.selectors import SelectorError
from control.api.validation.faults import Faults
from control.apiserver import deletion, fields, objects, ownership, scale, strategy
from control.apiserver.aggregation.services import Route
from control.apiserver.cache import Batch, Delivery, Entry, Filter
from control.apiserver.config import ApiServerConfig
from control.apiserver.convert import convert
from control.apiserver.custom.conversion import judged_as
from control.apiserver.feed import Feed
from control.apiserver.kinds import STORED_FIELDS, Kind
from control.apiserver.measures import AccessMetrics
from control.apiserver.metrics import Metrics
from control.apiserver.paging import ListQuery
from control.apiserver.reads import ListResult
from control.apiserver.registry import Context, Registry
from control.apiserver.request import (
    ANONYMOUS,
    RECORD,
    Authenticator,
    Authorizer,
    Credentials,
    Gate,
    Handlers,
    RequestInfo,
    ResourceRequest,
    UserInfo,
)
from control.apiserver.watch import Watch, WatchOptions, error_delivery
from control.client.client import APPLY_PATCH

NAMESPACES_NAME = (resources.NAMESPACES.group, resources.NAMESPACES.plural)
STORED_SUBRESOURCES = frozenset({"status", "ephemeralcontainers", "resize", "finalize", "approval"})
"""Subresources that are views of the stored object."""


class Service:
    """Authentication, authorization and the verbs over the registry."""

    def __init__(
        self,
        config: ApiServerConfig,
        registry: Registry,
        handlers: Handlers,
        authenticator: Authenticator,
        authorizer: Authorizer,
        access: AccessMetrics | None = None,
    ) -> None:
        self.config = config
        self.registry = registry
        self.handlers = handlers
        self.feed: Feed = registry.feed
        self.routes: Mapping[tuple[str, str], Route] = {}
        """Which other server answers for a group version; empty in most clusters."""
        self.gate: Gate | None = None
        """Who limits what is served at once; None for nobody."""
        self._authenticator = authenticator
        self._authorizer = authorizer
        self.access = access or AccessMetrics(Metrics())

    # Who and whether.

    async def authenticate(self, credentials: Credentials) -> UserInfo:
        """Return who asks; raises Unauthorized."""
        since = perf_counter()
        try:
            user = await self._authenticator.authenticate(credentials)
        except status.ApiError:
            self.access.not_authenticated("error", since)
            raise
        if user is None:
            self.access.not_authenticated("failure", since)
            if not self.config.anonymous_auth:
                raise status.unauthorized()
            user = ANONYMOUS
        else:
            self.access.authenticated(user.name, since)
        if (record := RECORD.get()) is not None:
            await record.identified(user)
        return user

    async def authorize(self, user: UserInfo, info: RequestInfo) -> None:
        """Raise Forbidden where the user may not do this."""
        since = perf_counter()
        decision = await self._authorizer.authorize(user, info)
        self.access.authorized(decision.allowed, since)
        if (record := RECORD.get()) is not None:
            record.annotate("authorization.k8s.io/decision", "allow" if decision.allowed else "forbid")
            record.annotate("authorization.k8s.io/reason", decision.reason)
        if not decision.allowed:
            raise refusal(user, info, decision.reason)

    async def kind(self, info: RequestInfo) -> Kind:
        """Return the kind that is asked for; raises NotFound."""
        kind = self.registry.kinds.find(info.group, info.version, info.resource)
        if kind is None and "." in info.group:
            # Another server may have established it a moment ago.
            await self.feed.fresh()
            kind = self.registry.kinds.find(info.group, info.version, info.resource)
        if kind is None:
            raise unknown_path()
        _check_place(kind, info)
        return kind

    def check_verb(self, kind: Kind, info: RequestInfo) -> None:
        """Raise NotFound or MethodNotAllowed where the kind does not offer this."""
        if info.subresource:
            offered = kind.subresource(info.subresource)
            if offered is None or info.rest:
                raise unknown_path()
            allowed = info.verb in offered.verbs
        else:
            allowed = info.verb in kind.verbs and (bool(info.name) or info.verb not in ("update", "patch"))
        if not allowed:
            raise not_allowed() if kind.custom is None else _not_of_custom(kind, info)

    # Reading.

    async def get(self, kind: Kind, info: RequestInfo, resource_version: str = "") -> Entry | Object:
        """Return an object as it stands in the cache, or what a subresource makes of it."""
        if info.subresource != "scale":
            self._check_part(info)
        entry = await self.registry.get(kind, info.namespace, info.name, resource_version)
        if info.subresource == "scale":
            return scale.scale_of(await self.shown(kind, entry), kind.scale_paths)
        return entry

    async def shown(self, kind: Kind, entry: Entry) -> Object:
        """Return a stored object in the version that a kind is served in; raises ApiError."""
        return await self.registry.conversions.one(entry.object(), kind)

    async def all_shown(self, kind: Kind, entries: Sequence[Entry]) -> list[Object]:
        """Return stored objects in the version that a kind is served in; raises ApiError."""
        return await self.registry.conversions.many([entry.object() for entry in entries], kind)

    async def deliveries(self, kind: Kind, batch: Batch) -> Batch:
        """Return a watch's events in the version that a kind is served in; one that cannot be so ends them."""
        if not self.registry.conversions.changes(kind):
            return batch
        about = [index for index, delivery in enumerate(batch) if delivery.type not in ("BOOKMARK", "ERROR")]
        try:
            objects = [orjson.loads(batch[index].data) for index in about]
            made = await self.registry.conversions.many(objects, kind)
        except status.ApiError as error:
            return Batch([error_delivery(error)])
        converted = Batch(batch)
        for index, obj in zip(about, made, strict=True):
            converted[index] = Delivery(batch[index].type, orjson.dumps(obj))
        return converted

    def filter(self, kind: Kind, info: RequestInfo, label_selector: str, field_selector: str) -> Filter:
        """Read the selectors of a list or a watch; raises BadRequest."""
        try:
            labels = selectors.parse(label_selector) if label_selector else selectors.EVERYTHING
        except SelectorError as error:
            raise status.bad_request(str(error)) from None
        name = (kind.resource.group, kind.resource.plural)
        chosen = fields.parse(field_selector, kind.fields, STORED_FIELDS.get(name, fields.NO_NAMES))
        if info.name and not field_selector:
            chosen = fields.FieldSelector((fields.FieldRequirement(fields.NAME, info.name),))
        elif info.name and fields.only_name(field_selector) != info.name:
            # Whoever may list this one must not get others.
            raise status.bad_request("fieldSelector metadata.name doesn't match requested name")
        return Filter(info.namespace if kind.resource.namespaced else "", labels, chosen)

    async def page(self, kind: Kind, chosen: Filter, query: ListQuery) -> ListResult:
        """Return the objects that are meant."""
        return await self.registry.list(kind, chosen, query)

    async def watch(self, kind: Kind, chosen: Filter, options: WatchOptions) -> Watch:
        """Return a watch that is ready to be read; raises ApiError."""
        check_watch(options)
        watch = Watch(self.feed, kind, chosen, options)
        await watch.start()
        return watch

    def watch_timeout_s(self, asked_s: float) -> float:
        """Return how long a watch may live: what was asked for, else spread so that they do not all end at once."""
        return asked_s or self.config.min_request_timeout_s * random.uniform(1.0, 2.0)

    # Writing.

    async def handle(
        self, kind: Kind, info: RequestInfo, value: Any, context: Context, query: Mapping[str, tuple[str, ...]]
    ) -> Object | None:
        """Let a registered handler answer; None where there is none."""
        handler = self.handlers.object_handler(info)
        if handler is None:
            return None
        asked = value is not None or info.verb == "create"
        options, warnings = context.options, context.warnings
        body = objects.read_for(kind, info.subresource, value, options.field_validation, warnings) if asked else None
        request = ResourceRequest(info, kind.resource, context.user, body, options, query, warnings)
        return await handler(request)

    async def create(
        self, kind: Kind, info: RequestInfo, value: Any, duplicates: list[str], context: Context
    ) -> Object:
        """Create an object."""
        if info.subresource:
            # Its own right was asked for, not the right to create objects.
            raise not_allowed()
        if kind.custom is not None:
            if kind.custom.terminating:
                text = "create not allowed while custom resource definition is terminating"
                raise status.failure(405, "MethodNotAllowed", text)
            if kind.custom.warning:
                context.warnings.append(kind.custom.warning)
        stored = judged_as(self.registry.kinds, kind)
        obj = objects.complete(kind, value, context.options.field_validation, duplicates, context.warnings)
        ownership.begin(kind, context, obj)
        if stored is not kind:
            objects.validate_served(kind, obj)
        made = await self.registry.create(stored, info.namespace, convert(obj, stored.resource), context)
        return convert(made, kind.resource)

    async def update(
        self, kind: Kind, info: RequestInfo, value: Any, duplicates: list[str], context: Context
    ) -> Object:
        """Replace an object, or a part of it by a subresource."""
        if info.subresource == "scale":
            replace_scale = ownership.scale_change(context, lambda old: value)
            return scale.scale_of(await self._rescale(kind, info, replace_scale, context), kind.scale_paths)
        self._check_part(info)
        obj = objects.complete(kind, value, context.options.field_validation, duplicates, context.warnings)

        stored = judged_as(self.registry.kinds, kind)

        async def change(old: Object) -> Object:
            # Admission may write into the object, and the change may be computed again.
            kinds, served = self.registry.kinds, convert(old, kind.resource)
            new = ownership.track(kinds, kind, info.subresource, context, served, copy_json(obj), value)
            return convert(new, stored.resource)

        try:
            made = await self.registry.update(stored, info.namespace, info.name, change, context, info.subresource)
        except status.ApiError as error:
            if error.code != 404 or info.subresource or strategy.name_of(kind) not in strategy.CREATED_BY_UPDATE:
                raise
            ownership.begin(kind, context, obj)
            made = await self._create_instead(info, stored, convert(obj, stored.resource), context)
        return convert(made, kind.resource)

    async def _create_instead(self, info: RequestInfo, stored: Kind, obj: Object, context: Context) -> Object:
        """Create what a request found missing that would have changed it; that takes the right to create."""
        metadata = obj["metadata"]
        name = metadata.setdefault("name", info.name)
        if name != info.name:
            raise status.bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({info.name})"
            )
        if uid := metadata.get("uid"):
            text = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise status.conflict(stored.resource.plural, info.name, stored.resource.group, text)
        await self.authorize(context.user, replace(info, verb="create"))
        metadata.pop("resourceVersion", None)
        context.created = True
        return await self.registry.create(stored, info.namespace, obj, context)

    async def patch(
        self, kind: Kind, info: RequestInfo, patch_type: str, patch: Any, context: Context
    ) -> tuple[Object, bool]:
        """Change an object by a patch; tell whether that created it."""
        if patch_type == APPLY_PATCH:
            return await self._apply(kind, info, patch, context)
        if info.subresource == "scale":
            patch_scale = ownership.scale_change(context, lambda old: objects.patch_scale(kind, patch_type, old, patch))
            return scale.scale_of(await self._rescale(kind, info, patch_scale, context), kind.scale_paths), False
        self._check_part(info)

        stored = judged_as(self.registry.kinds, kind)

        async def change(old: Object) -> Object:
            served = convert(old, kind.resource)
            value = objects.patch_object(kind, patch_type, served, patch)
            warnings: list[str] = []
            obj = objects.complete(
                kind,
                copy_json(value),
                context.options.field_validation,
                context.options.duplicates,
                warnings,
                patch,
            )
            context.warnings[:] = warnings
            kinds = self.registry.kinds
            return convert(ownership.track(kinds, kind, info.subresource, context, served, obj, value), stored.resource)

        made = await self.registry.update(stored, info.namespace, info.name, change, context, info.subresource)
        return convert(made, kind.resource), False

    async def _apply(self, kind: Kind, info: RequestInfo, patch: Any, context: Context) -> tuple[Object, bool]:
        """Change or create an object by server-side apply; tell whether that created it."""
        if info.subresource == "scale":
            change_scale = ownership.scale_wish(info, patch, context)
            return scale.scale_of(await self._rescale(kind, info, change_scale, context), kind.scale_paths), False
        self._check_part(info)
        wish = ownership.read_wish(kind, info, patch, context)
        stored = judged_as(self.registry.kinds, kind)

        async def change(old: Object | None) -> Object:
            served = convert(old, kind.resource) if old is not None else None
            value = ownership.applied(self.registry.kinds, kind, info.subresource, context, served, wish)
            return convert(objects.complete(kind, copy_json(value), "Ignore", []), stored.resource)

        try:
            made = await self.registry.update(stored, info.namespace, info.name, change, context, info.subresource)
            return convert(made, kind.resource), False
        except status.ApiError as error:
            if error.code != 404 or info.subresource:
                raise
        made = await self._create_instead(info, stored, await change(None), context)
        return convert(made, kind.resource), True

    async def _rescale(self, kind: Kind, info: RequestInfo, make: ownership.ScaleChange, context: Context) -> Object:
        stored = judged_as(self.registry.kinds, kind)

        async def change(old: Object) -> Object:
            served = convert(old, kind.resource)
            return convert(ownership.rescaled(self.registry.kinds, kind, served, make), stored.resource)

        return await self.registry.update(stored, info.namespace, info.name, change, context, "scale")

    @staticmethod
    def _check_part(info: RequestInfo) -> None:
        if info.subresource and info.subresource not in STORED_SUBRESOURCES:
            raise not_allowed()

    async def delete(
        self, kind: Kind, info: RequestInfo, options: Object | None, context: Context
    ) -> tuple[Object, bool]:
        """Delete an object or begin to; return what to answer, and whether it is gone."""
        if info.subresource:
            raise not_allowed()
        wish = deletion.read_options(options)
        kind = self.registry.kinds.storage(kind)
        return await deletion.delete(self.registry, kind, info.namespace, info.name, wish, context)

    async def delete_collection(
        self, kind: Kind, chosen: Filter, query: ListQuery, options: Object | None, context: Context
    ) -> tuple[list[Object], ListResult]:
        """Delete all objects that are meant, or the page of them that was asked for."""
        kind = self.registry.kinds.storage(kind)
        wish = deletion.read_options(options)
        return await deletion.delete_collection(self.registry, kind, chosen, query, wish, context)


def check_watch(options: WatchOptions) -> None:
    """Refuse combinations that mean nothing, as Kubernetes does."""
    faults, path = Faults(), "resourceVersionMatch"
    match, initial = options.resource_version_match, options.send_initial_events is not None
    if initial and match != "NotOlderThan":
        faults.forbidden(path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if match and not initial:
        faults.forbidden(path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    if match not in ("", "NotOlderThan"):
        faults.not_supported(path, match, ["NotOlderThan"])
    if faults:
        raise status.invalid("ListOptions", "", faults.causes, "meta.k8s.io")


def _check_place(kind: Kind, info: RequestInfo) -> None:
    """Raise where a kind is asked for beside its place: what was authorized is the place that the request names."""
    resource = kind.resource
    if resource.namespaced:
        if not info.namespace and info.verb not in ("list", "watch"):
            raise unknown_path() if info.name or kind.custom is not None else not_allowed()
    elif info.namespace and not (info.name == info.namespace and (resource.group, resource.plural) == NAMESPACES_NAME):
        raise unknown_path()


def not_allowed() -> status.ApiError:
    """405 for a verb that is not offered here."""
    return status.failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _not_of_custom(kind: Kind, info: RequestInfo) -> status.ApiError:
    """Return the refusal of what custom resources do not offer: all their paths have one handler."""
    if info.verb in kind.verbs and not info.subresource:
        return status.bad_request("name must be provided")
    return status.method_not_supported(kind.resource.plural, info.verb, kind.resource.group)


def unknown_path() -> status.ApiError:
    """404 for what is not served at all."""
    return status.failure(404, "NotFound", "the server could not find the requested resource")


def refusal(user: UserInfo, info: RequestInfo, reason: str) -> status.ApiError:
    """403, worded as Kubernetes words it."""
    why = f": {reason}" if reason else ""
    if not info.is_resource_request:
        text = f'forbidden: User "{user.name}" cannot {info.verb} path "{info.path}"{why}'
        return status.failure(403, "Forbidden", text, {})
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if info.namespace and info.resource != "namespaces":
        where = f' in the namespace "{info.namespace}"'
    else:
        where = " at the cluster scope"
    text = f'User "{user.name}" cannot {info.verb} resource "{resource}" in API group "{info.group}"{where}{why}'
    return status.forbidden(info.resource, info.name, text, info.group)
