"""Member and cluster ids, made as etcd makes them, so that a configuration names the same members under either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], cluster_token: str) -> int:
    """The id of a member of the first hour: a hash over its peer URLs and the cluster's token."""
    return _first_eight("".join(sorted(peer_urls)).encode() + cluster_token.encode())


def cluster_id(member_ids: Iterable[int]) -> int:
    """The id of a cluster: a hash over its first members' ids."""
    return _first_eight(b"".join(identity.to_bytes(8, "big") for identity in sorted(member_ids)))


def _first_eight(content: bytes) -> int:
    return int.from_bytes(hashlib.sha1(content, usedforsecurity=False).digest()[:8], "big")
