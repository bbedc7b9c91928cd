"""Nobody grants what they do not hold: the check on writes of roles and bindings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from control.apiserver.authz.attributes import SUPERUSER_GROUP
from control.apiserver.authz.rules import Rule, compact, uncovered
from control.apiserver.request import UserInfo


def escalation_error(user: UserInfo, held: Iterable[Rule], wanted: Iterable[Rule]) -> str | None:
    """Upstream's refusal when `wanted` exceeds `held`, else None."""
    if SUPERUSER_GROUP in user.groups:
        return None
    missing = uncovered(held, wanted)
    if not missing:
        return None
    lines = sorted({rule.compact_text() for rule in compact(missing)})
    groups = "[" + " ".join(f'"{group}"' for group in user.groups) + "]"
    return (
        f'user "{user.name}" (groups={groups}) is attempting to grant RBAC permissions not currently held:\n'
        + "\n".join(lines)
    )


def rules_unchanged(old: Sequence[Rule] | None, new: Sequence[Rule]) -> bool:
    """Whether an update leaves the rules as they are; then metadata may change without the rights."""
    return old is not None and tuple(old) == tuple(new)
