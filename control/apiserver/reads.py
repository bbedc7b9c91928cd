"""How objects are read: from the watch caches wherever the revision allows, else from the store itself."""

from __future__ import annotations

from dataclasses import dataclass

from control.api import status
from control.apiserver import paging
from control.apiserver.cache import Entry, Filter, ResourceCache, read_stored
from control.apiserver.etcd import CompactedError, Etcd, FutureRevisionError, KeyValue, Page
from control.apiserver.feed import Feed
from control.apiserver.kinds import Kind, Kinds
from control.apiserver.paging import Continue, ListQuery
from control.apiserver.watch import check_readable, parse_revision, too_large

DIRECT_PAGE_KEYS = 500


@dataclass(frozen=True, slots=True)
class ListResult:
    """Objects of one list, or of one page of it."""

    entries: list[Entry]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


class Reads:
    """The reading half of the registry."""

    def __init__(self, store: Etcd, feed: Feed) -> None:
        self.store = store
        self.feed = feed
        self.kinds: Kinds = feed.kinds

    async def get(self, kind: Kind, namespace: str, name: str, resource_version: str = "") -> Entry:
        """Return one object; raises NotFound."""
        cache = await self.feed.cache(kind)
        if not resource_version:
            try:
                await self.feed.fresh()
            except TimeoutError:
                return await self._stored_entry(kind, cache, namespace, name)
        else:
            await self._reach(resource_version)
        if not cache.loaded:
            # It was lost meanwhile: what it still holds may be older than what was asked for.
            cache = await self.feed.cache(kind)
        entry: Entry | None = cache.entries.get(f"{namespace}/{name}" if kind.resource.namespaced else name)
        if entry is None:
            if cache.sealed:
                # It may be one of those; if so, this raises.
                return await self._stored_entry(kind, cache, namespace, name)
            raise status.not_found(kind.resource.plural, name, kind.resource.group)
        return entry

    async def _stored_entry(self, kind: Kind, cache: ResourceCache, namespace: str, name: str) -> Entry:
        found = await self._stored(kind, namespace, name)
        if found is None:
            raise status.not_found(kind.resource.plural, name, kind.resource.group)
        return Entry(
            cache.kind, found.key[len(cache.key_prefix) :], read_stored(cache.kind, found.value), found.revision
        )

    async def _stored(self, kind: Kind, namespace: str, name: str) -> KeyValue | None:
        found, _ = await self.store.get(self.kinds.key(kind, namespace, name))
        return found

    async def _reach(self, resource_version: str) -> int:
        revision = parse_revision(resource_version)
        try:
            await self.feed.reach(revision)
        except TimeoutError:
            raise too_large(revision, self.feed.revision) from None
        return revision

    async def list(self, kind: Kind, chosen: Filter, query: ListQuery) -> ListResult:
        """Return the objects that are meant, from memory wherever the revision allows."""
        paging.check(query)
        cache = await self.feed.cache(kind)
        if query.continue_token:
            token = paging.decode(query.continue_token)
            if token.revision == paging.NEWEST:
                await self.feed.fresh()
                cache = await self.feed.cache(kind)
                return self._page(cache, chosen, query.limit, max(self.feed.revision, cache.changed), token.after)
            if token.revision >= cache.changed and self.feed.revision >= token.revision:
                return self._page(cache, chosen, query.limit, token.revision, token.after)
            return await self._list_at(kind, cache, chosen, query.limit, token)
        if not query.resource_version:
            try:
                await self.feed.fresh()
            except TimeoutError:
                return await self._list_at(kind, cache, chosen, query.limit, Continue(0, ""))
        else:
            revision = await self._reach(query.resource_version)
            exact = query.resource_version_match == "Exact" or (
                revision and query.limit and query.resource_version_match != "NotOlderThan"
            )
            if exact and revision < cache.changed:
                return await self._list_at(kind, cache, chosen, query.limit, Continue(revision, ""))
            if exact:
                return self._page(cache, chosen, query.limit, revision, "")
        cache = await self.feed.cache(kind)
        # A list of what happens to be in memory comes whole, whatever limit it names.
        limit = 0 if query.resource_version == "0" else query.limit
        return self._page(cache, chosen, limit, max(self.feed.revision, cache.changed), "")

    def _page(self, cache: ResourceCache, chosen: Filter, limit: int, revision: int, after: str) -> ListResult:
        if cache.sealed:
            check_readable(cache)
        if limit <= 0:
            return ListResult(list(cache.select(chosen, after)), revision)
        entries = list(cache.select(chosen, after, limit + 1 if chosen.selects else limit))
        remaining = len(entries) - limit if chosen.selects else cache.count(chosen.namespace, after) - len(entries)
        if remaining <= 0:
            return ListResult(entries, revision)
        del entries[limit:]
        token = paging.encode(Continue(revision, entries[-1].key))
        return ListResult(entries, revision, token, None if chosen.selects else remaining)

    async def _list_at(
        self, kind: Kind, cache: ResourceCache, chosen: Filter, limit: int, start: Continue
    ) -> ListResult:
        """Read a list as of an exact revision (0: the newest) from the store itself."""
        prefix = self.kinds.key_prefix(kind)
        if chosen.namespace and kind.resource.namespaced:
            prefix += chosen.namespace + "/"
        after = cache.key_prefix + start.after if start.after else ""
        entries: list[Entry] = []
        revision = start.revision
        at_once = min(limit, DIRECT_PAGE_KEYS) if limit > 0 else DIRECT_PAGE_KEYS
        while True:
            page = await self._store_page(prefix, at_once, revision, after, after.removeprefix(cache.key_prefix))
            revision = revision or page.revision
            for item in page.items:
                entry = Entry(
                    cache.kind, item.key[len(cache.key_prefix) :], read_stored(cache.kind, item.value), item.revision
                )
                if chosen.matches(entry):
                    entries.append(entry)
                    if 0 < limit == len(entries):
                        break
            else:
                if page.more:
                    after = page.items[-1].key
                    continue
                return ListResult(entries, revision)
            if not page.more and item is page.items[-1]:
                return ListResult(entries, revision)
            return ListResult(entries, revision, paging.encode(Continue(revision, entries[-1].key)))

    async def _store_page(self, prefix: str, limit: int, revision: int, after: str, reached: str) -> Page:
        try:
            return await self.store.page(prefix, limit=limit, revision=revision, after=after)
        except CompactedError:
            raise paging.too_old(reached) from None
        except FutureRevisionError:
            raise too_large(revision, self.feed.revision) from None

    async def current(self, kind: Kind, namespace: str, name: str) -> tuple[KeyValue | None, bool]:
        """Return the stored object, from memory where it is there, and whether it certainly is the newest."""
        cache = await self.feed.cache(kind)
        entry = cache.entries.get(f"{namespace}/{name}" if kind.resource.namespaced else name)
        if entry is None:
            return await self._stored(kind, namespace, name), True
        return KeyValue(self.kinds.key(kind, namespace, name), entry.data, entry.revision), False
