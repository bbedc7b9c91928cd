"""Which resource a key of the store belongs to."""

from __future__ import annotations

from control.apiserver.kinds import Kinds

GroupResource = tuple[str, str]
"""(group, plural), as configurations and metrics name what is stored."""
NOBODY: GroupResource = ("", "")
_RANGES = {
    "serviceips": ("", "serviceipallocations"),
    "servicenodeports": ("", "servicenodeportallocations"),
}
_APISERVERS = ("", "apiserveripinfo")


class Keys:
    """Knows keys by their first segment or two."""

    def __init__(self, kinds: Kinds) -> None:
        self._start = len(kinds.prefix) + 1
        self._prefix = f"{kinds.prefix}/"
        self._known: dict[str, GroupResource] = {}
        for kind in kinds.all:
            # Events are served by two groups and stored as the core group's, which comes first.
            self._known.setdefault(kind.key_prefix, (kind.resource.group, kind.resource.plural))

    def resource(self, key: str) -> GroupResource:
        """Return the resource that is stored under a key; NOBODY for a key that is none of a resource's."""
        if not key.startswith(self._prefix):
            return NOBODY
        first, _, rest = key[self._start :].partition("/")
        found = self._known.get(first)
        if found is not None:
            return found
        second = rest.partition("/")[0]
        found = self._known.get(f"{first}/{second}")
        if found is not None:
            return found
        if first == "ranges":
            return _RANGES.get(second, NOBODY)
        if first == "masterleases":
            return _APISERVERS
        # Custom resources stand below their group's name; they come and go.
        return (first, second) if "." in first else NOBODY
