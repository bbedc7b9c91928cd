"""Revisions, packed into one integer that sorts.

A *main* revision counts transactions that changed something; a *sub* revision counts the changes inside one. Both and
the mark of a deletion stand in one int::

    main << 32 | sub << 1 | tombstone

so that revisions compare, sort and hash as plain integers, and one int object serves the key index and the history.
"""

from __future__ import annotations

MAIN_SHIFT = 32
_SUB_MASK = (1 << 31) - 1

CHANGES_MAX = _SUB_MASK
"""Changes that one transaction can hold."""


def pack(main: int, sub: int, *, tombstone: bool = False) -> int:
    """Join the parts of a revision."""
    return main << MAIN_SHIFT | sub << 1 | tombstone


def main_of(revision: int) -> int:
    """The transaction that a packed revision belongs to."""
    return revision >> MAIN_SHIFT


def sub_of(revision: int) -> int:
    """The place of a packed revision within its transaction."""
    return revision >> 1 & _SUB_MASK


def is_tombstone(revision: int) -> bool:
    """Whether a packed revision marks a deletion."""
    return bool(revision & 1)


def first_of(main: int) -> int:
    """The smallest packed revision of a transaction; ``first_of(main + 1)`` is above all of ``main``."""
    return main << MAIN_SHIFT
